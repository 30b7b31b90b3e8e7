/* The parts of edgekit-bench; tests/test_runner.py has the program. Its sampler is a pthread of its own. */
#include "arguments.h"
#include "check.h"
#include "cores.h"
#include "json.h"
#include "run_folder.h"
#include "sampler.h"
#include "sha256.h"
#include "sources.h"
#include "state.h"
#include "system.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- a folder of our own --- */

static char folder[] = "/tmp/runner_test.XXXXXX";

/* A file below the folder with what is above it; without text nothing but the folders. */
static void put(const char *path, const char *text) {
  char whole[512];
  snprintf(whole, sizeof whole, "%s/%s", folder, path);
  for (char *slash = whole + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
    *slash = 0;
    if (mkdir(whole, 0700) != 0 && errno != EEXIST) check_fail("%s: %s", whole, strerror(errno));
    *slash = '/';
  }
  FILE *file = text ? fopen(whole, "w") : NULL;
  if (file) fputs(text, file);
  if (file) fclose(file);
}

static void remove_all(void) {
  char command[64];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  if (system(command) != 0) check_fail("%s", command);
}

/* --- SHA-256 --- */

/* FIPS 180-4's examples, and the lengths around which a block is filled up, by Python's hashlib. */
static void test_sha256(void) {
  static const struct {
    const char *unit;
    int times;
    const char *digest;
  } vectors[] = {
      {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"a", 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
      {"a", 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
      {"a", 63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
      {"a", 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
      {"a", 119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb"},
      {"a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  enum { COUNT = sizeof vectors / sizeof *vectors };
  for (int i = 0; i < COUNT; i++) {
    const size_t length = strlen(vectors[i].unit), bytes = length * (size_t)vectors[i].times;
    check_case("sha256 of %zu bytes", bytes);
    check_buffer buffer = check_buffer_new(bytes, 1, CHECK_END);
    for (size_t k = 0; k < bytes; k++) buffer.data[k] = (uint8_t)vectors[i].unit[k % length];
    char digest[SHA256_TEXT];
    sha256(buffer.data, bytes, digest);
    if (strcmp(digest, vectors[i].digest) != 0) check_fail("%s", digest);
    check_buffer_free(&buffer);
  }
  check_tested(COUNT, "sha256");
}

/* --- JSON --- */

static void expect(const char *name, char *text, const char *wanted) {
  check_case("json %s", name);
  if (strcmp(text, wanted) != 0) check_fail("%s instead of %s", text, wanted);
  free(text);
}

static char *text_written(const char *text) {
  char *out;
  size_t size;
  FILE *file = open_memstream(&out, &size);
  json j = json_to(file);
  json_text(&j, NULL, text);
  fclose(file);
  return out;
}

static char *number_written(double number) {
  char *out;
  size_t size;
  FILE *file = open_memstream(&out, &size);
  json j = json_to(file);
  json_number(&j, NULL, number);
  fclose(file);
  return out;
}

static void test_json_texts(void) {
  static const struct {
    const char *text, *json;
  } texts[] = {
      {"", "\"\""},
      {"a\"b\\c/", "\"a\\\"b\\\\c/\""},
      {"\n\t\x01\x1f\x7f", "\"\\u000a\\u0009\\u0001\\u001f\\u007f\""},
      {"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80", "\"\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80\""},
      {"\xff", "\"\\ufffd\""},
      {"\xc3", "\"\\ufffd\""},                                  /* cut short by the end */
      {"\xe2\x82", "\"\\ufffd\\ufffd\""},                       /* the same */
      {"\xc3\"", "\"\\ufffd\\\"\""},                            /* a quote is no continuation */
      {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                       /* overlong */
      {"\xe0\x9f\xbf", "\"\\ufffd\\ufffd\\ufffd\""},            /* overlong */
      {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* a surrogate */
      {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* beyond U+10FFFF */
  };
  enum { COUNT = sizeof texts / sizeof *texts };
  for (int i = 0; i < COUNT; i++) expect("text", text_written(texts[i].text), texts[i].json);
  expect("no text", text_written(NULL), "null");
  check_tested(COUNT + 1, "json texts");
}

static void test_json_numbers(void) {
  expect("NaN", number_written(NAN), "null");
  expect("infinity", number_written(INFINITY), "null");
  expect("-infinity", number_written(-INFINITY), "null");
  expect("number", number_written(0.25), "0.25");
  expect("small", number_written(1e-300), "1e-300");
  check_tested(5, "json numbers");
}

static void test_json_structure(void) {
  char *out;
  size_t size;
  FILE *file = open_memstream(&out, &size);
  json j = json_to(file);
  json_object(&j, NULL);
  json_array(&j, "a\n");
  json_integer(&j, NULL, INT64_MIN);
  json_object(&j, NULL);
  json_end_object(&j);
  json_bool(&j, NULL, 1);
  json_end_array(&j);
  json_null(&j, "b");
  json_count(&j, "c", 1ll << 53);
  json_count(&j, "d", -1);
  json_end_object(&j);
  fclose(file);
  expect("structure", out,
         "{\"a\\u000a\":[-9223372036854775808,{},true],\"b\":null,\"c\":9007199254740992,\"d\":null}");
  check_tested(1, "json structure");
}

/* --- arguments --- */

enum { MOST_WORDS = 40 };

/* Splits words; what parse makes of them. They stay valid until the next call. */
static int parse(const char *line, run_options *options) {
  static char words[2048];
  char *argv[MOST_WORDS], *rest = words;
  int argc = 0;
  snprintf(words, sizeof words, "%s", line);
  for (char *word; (word = strsep(&rest, " ")) && argc < MOST_WORDS;) {
    if (*word) argv[argc++] = word;
  }
  check_case("arguments %s", line);
  return arguments_parse(argc, argv, options);
}

#define LEAST "--nonce ab --prompt-tokens 8 --gen-tokens 2 --reps 1 "

static void test_arguments(void) {
  run_options o;
  CHECK(parse("m.gguf " LEAST, &o) == 0);
  CHECK(o.model_count == 1 && strcmp(o.models[0], "m.gguf") == 0 && strcmp(o.nonce, "ab") == 0);
  CHECK(o.prompt_tokens == 8 && o.gen_tokens == 2 && o.reps == 1 && o.threads == 0 && o.bos == -1 && o.end_count == 0);
  CHECK(strcmp(o.cores, "big") == 0 && o.lease_s == 60 && o.deadline_s == 3600 && isnan(o.cooldown_c));
  CHECK(parse(LEAST
              "a --threads 3 b --cache q8_0,q4_0 --cores 0,2-3 --bos 2 --end-tokens 1,106 --lease 1.5 --deadline 9 "
              "--cooldown-c 45.5 --cooldown-s 0 --cooldown-sensor cpu",
              &o) == 0);
  CHECK(o.model_count == 2 && strcmp(o.models[1], "b") == 0 && o.threads == 3 && o.bos == 2);
  CHECK(o.keys == EK_CACHE_Q8_0 && o.values == EK_CACHE_Q4_0 && strcmp(o.cores, "0,2-3") == 0);
  CHECK(o.end_count == 2 && o.end_tokens[0] == 1 && o.end_tokens[1] == 106);
  CHECK(o.lease_s == 1.5 && o.deadline_s == 9 && o.cooldown_c == 45.5 && o.cooldown_s == 0);
  check_tested(2, "arguments");
}

static void test_wrong_arguments(void) {
  static const char *const wrong[] = {
      LEAST,
      "m",
      "m --nonce ab --prompt-tokens 8 --gen-tokens 2",
      "a b c " LEAST,
      "m " LEAST "--reps",
      "m " LEAST "--repetitions 3",
      "m " LEAST "--reps=3",
      "m " LEAST "--nonce xyz",
      "m " LEAST "--nonce 00000000000000000000000000000000000000000000000000000000000000000",
      "m " LEAST "--prompt-tokens 0",
      "m " LEAST "--prompt-tokens 1048577",
      "m " LEAST "--gen-tokens 1",
      "m " LEAST "--gen-tokens 2.5",
      "m " LEAST "--reps -1",
      "m " LEAST "--reps 1001",
      "m " LEAST "--reps 0x3",
      "m " LEAST "--threads 0",
      "m " LEAST "--threads 1025",
      "m " LEAST "--cache f32",
      "m " LEAST "--cache f16,",
      "m " LEAST "--cache f16,q8_0,q4_0",
      "m " LEAST "--cores little",
      "m " LEAST "--cores 0,",
      "m " LEAST "--cores 3-1",
      "m " LEAST "--cores 99999999999",
      "m " LEAST "--cores 1-",
      "m " LEAST "--bos -1",
      "m " LEAST "--bos 2147483648",
      "m " LEAST "--end-tokens 1,,2",
      "m " LEAST "--end-tokens 1,2,",
      "m " LEAST "--cooldown-c 40",
      "m " LEAST "--cooldown-s 40",
      "m " LEAST "--cooldown-sensor cpu",
      "m " LEAST "--cooldown-c nan --cooldown-s 1",
      "m " LEAST "--lease 0",
      "m " LEAST "--lease inf",
      "m " LEAST "--deadline 1e9",
      "a b " LEAST "--gen-tokens 65536 --reps 3",
  };
  enum { COUNT = sizeof wrong / sizeof *wrong };
  run_options o;
  fprintf(stderr, "%d sentences about wrong arguments:\n", COUNT);
  for (int i = 0; i < COUNT; i++) CHECK(parse(wrong[i], &o) == 64);
  check_tested(COUNT, "wrong arguments");
}

/* --- the workload --- */

static void test_turns(void) {
  static const char wanted[] = "ABBAABBAAB";
  for (int i = 0; wanted[i]; i++) {
    check_case("turn %d", i);
    CHECK(workload_turn(2, i) == wanted[i] - 'A');
    CHECK(workload_turn(1, i) == 0);
  }
  check_tested(10, "turns");
}

/* By devices/measure.py's prompt_ids. */
static void test_prompt(void) {
  static const int32_t gemma[8] = {2, 162013, 61883, 223897, 123767, 23637, 185651, 85521};
  static const int32_t without[6] = {3, 2, 0, 4, 3, 4}; /* of 6 tokens, without 1 and 5 */
  int32_t ids[8];
  run_options o;
  CHECK(parse("m --nonce ab --prompt-tokens 8 --gen-tokens 2 --reps 1 --bos 2 --end-tokens 1,106", &o) == 0);
  workload_prompt(&o, 262144, ids);
  CHECK(memcmp(ids, gemma, sizeof gemma) == 0);
  o.prompt_tokens = 1;
  workload_prompt(&o, 262144, ids);
  CHECK(ids[0] == 2);
  CHECK(parse("m --nonce ab --prompt-tokens 6 --gen-tokens 2 --reps 1 --end-tokens 1,5", &o) == 0);
  workload_prompt(&o, 6, ids);
  for (int i = 0; i < 6; i++) {
    check_case("prompt %d: %d", i, (int)ids[i]);
    CHECK(ids[i] == without[i]);
  }
  check_tested(3, "prompts");
}

/* --- cores --- */

static void test_cores(void) {
  cpu_set_t cores;
  CHECK(cores_parse("0,2-4,1023", &cores) && CPU_COUNT(&cores) == 5 && CPU_ISSET(3, &cores) && CPU_ISSET(1023, &cores));
  CHECK(!cores_parse("1024", &cores) && !cores_parse("", &cores) && !cores_parse("0-", &cores));
  put("cpu/cpu0/cpu_capacity", "400\n");
  put("cpu/cpu1/cpu_capacity", "500\n");
  put("cpu/cpu2/cpu_capacity", "1000\n");
  put("cpu/cpu3/other", "1\n"); /* unknown: it stays */
  char path[64];
  snprintf(path, sizeof path, "%s/cpu", folder);
  CHECK(cores_parse("0-3", &cores));
  cpu_set_t big = cores_big(path, &cores);
  CHECK(CPU_COUNT(&big) == 3 && !CPU_ISSET(0, &big));
  CHECK(cores_parse("0-1", &cores));
  big = cores_big(path, &cores); /* the largest of those that may be used */
  CHECK(CPU_COUNT(&big) == 2);
  put("cpu/online", "0-1,3\n");
  big = cores_listed(path, "online");
  CHECK(CPU_COUNT(&big) == 3 && CPU_ISSET(3, &big));
  big = cores_listed(path, "none such");
  CHECK(CPU_COUNT(&big) >= 1);
  check_tested(6, "cores");
}

/* --- /sys --- */

static void make_sys(void) {
  put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000\n");
  put("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
  put("sys/class/thermal/thermal_zone0/temp", "61500\n");
  put("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n"); /* the same once more */
  put("sys/class/thermal/thermal_zone1/temp", "48000\n");
  put("sys/class/thermal/thermal_zone2/type", "broken\n"); /* without a temperature */
  put("sys/class/thermal/thermal_zone3/type", "battery\n");
  put("sys/class/thermal/thermal_zone3/temp", "-1200\n");
  put("sys/class/thermal/thermal_zone4/type", "modem\n");
  put("sys/class/thermal/thermal_zone4/temp", "-274000\n"); /* off */
  put("sys/class/thermal/cooling_device0/type", "fan\n");
  put("sys/class/thermal/cooling_device0/cur_state", "3\n");
  put("sys/class/thermal/cooling_device1/type", "thermal-cpufreq-0\n");
  put("sys/class/thermal/cooling_device1/cur_state", "2\n");
  put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
}

static void test_sources(void) {
  char sys[64];
  snprintf(sys, sizeof sys, "%s/sys", folder);
  source_list zones = sources_zones(sys), none = sources_zones(folder), throttling = sources_throttling(sys);
  int64_t value = 0;
  CHECK(none.count == 0 && isnan(sources_temperature(&none, NULL)));
  CHECK(zones.count == 3 && strcmp(zones.items[0].name, "cpu-thermal") == 0);
  CHECK(zones.count == 3 && strcmp(zones.items[1].name, "cpu-thermal#1") == 0);
  CHECK(sources_temperature(&zones, NULL) == 61.5);
  CHECK(fabs(sources_temperature(&zones, "battery") + 1.2) < 1e-9);
  CHECK(isnan(sources_temperature(&zones, "skin")));
  put("sys/class/thermal/thermal_zone0/temp", "40000\n"); /* read anew each time */
  CHECK(sources_temperature(&zones, NULL) == 48);
  put("sys/class/thermal/thermal_zone0/temp", "2147483647\n");
  CHECK(isnan(sources_temperature(&zones, "cpu-thermal")));
  put("sys/class/thermal/thermal_zone0/temp", "61500\n");
  CHECK(throttling.count == 2 && strcmp(throttling.items[0].name, "thermal-cpufreq-0") == 0);
  CHECK(throttling.count == 2 && source_read(&throttling.items[1], &value) && value == 0x50005);
  sources_close(&zones);
  sources_close(&none);
  sources_close(&throttling);
  check_tested(10, "sources");
}

static char *timeline(const char *sys, double period, double seconds, reasons *r) {
  char *out;
  size_t size;
  FILE *file = open_memstream(&out, &size);
  json j = json_to(file);
  sampler *s = sampler_start(sys, now_s(), period);
  CHECK(s && sampler_thread(s) > 0);
  sleep_s(seconds);
  sampler_stop(s);
  sampler_write(s, &j, r);
  sampler_free(s);
  fclose(file);
  return out;
}

static int count_of(const char *text, const char *what) {
  int count = 0;
  for (; (text = strstr(text, what)); text++) count++;
  return count;
}

static void test_sampler(void) {
  char sys[64];
  reasons full = {.count = 0}, empty = {.count = 0};
  snprintf(sys, sizeof sys, "%s/sys", folder);
  check_case("sampler");
  char *text = timeline(sys, 0.01, 0.1, &full);
  CHECK(count_of(text, "at_s") >= 2);
  CHECK(strstr(text, "\"freq_hz\":[1800000000") && strstr(text, "\"cpu-thermal#1\":48") &&
        strstr(text, "\"battery\":-1.2"));
  CHECK(strstr(text, "\"throttling\":{\"thermal-cpufreq-0\":2,\"get_throttled\":327685}"));
  CHECK(full.count == 0);
  free(text);
  check_case("sampler without sources");
  text = timeline(folder, 1, 0, &empty);
  CHECK(strstr(text, "\"freq_hz\":null,\"temp_c\":null,\"throttling\":null") && empty.count == 3);
  free(text);
  check_case("sampler with more entries than it keeps");
  text = timeline(folder, 1e-5, 0.5, &empty);
  CHECK(count_of(text, "at_s") >= 10 && count_of(text, "at_s") <= 1024);
  free(text);
  check_tested(3, "sampler");
}

/* --- the folder of a run --- */

static int open_folder(const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return open(path, O_RDONLY | O_DIRECTORY);
}

static void test_run_folder(void) {
  const process worker = {4711, 123456789012345}, supervisor = {4710, 123456789012344};
  process found, above;
  char line[64], path[64];
  check_case("run folder");
  put("run/", NULL);
  const int run = open_folder("run");
  CHECK(!run_folder_read_pids(run, &found, &above));
  CHECK(run_folder_write_pids(run, &worker, &supervisor) == 0 && run_folder_read_pids(run, &found, &above));
  CHECK(found.pid == 4711 && found.start == worker.start && above.pid == 4710 && above.start == supervisor.start);
  static const char *const wrong[] = {"", "4711\n", "1 5 4710 5\n", "4711 5 -1 5\n", "x y z w\n"};
  for (int i = 0; i < 5; i++) {
    put("run/pid", wrong[i]);
    CHECK(!run_folder_read_pids(run, &found, &above));
  }
  put("run/log", "first\nlast one\n\n");
  run_folder_last_line(run, line, sizeof line);
  CHECK(strcmp(line, "last one") == 0);
  put("run/log", "");
  run_folder_last_line(run, line, sizeof line);
  CHECK(*line == 0);
  CHECK(!state_is_there(run));
  put("run/state", "edgekit-bench 1");
  CHECK(!state_is_there(run)); /* of another length */
  CHECK(unlinkat(run, "state", 0) == 0);
  run_state *state = state_create(run);
  const run_state *seen = state_open(run);
  CHECK(state && seen && state_is_there(run) && !state_create(run));
  atomic_store(&state->progress, 5);
  CHECK(atomic_load(&seen->progress) == 5);
  put("run/mine", "");
  snprintf(path, sizeof path, "%s/run", folder);
  CHECK(run_folder_remove(path, run) != 0 && faccessat(run, "mine", F_OK, 0) == 0 && !state_is_there(run));
  CHECK(unlinkat(run, "mine", 0) == 0 && run_folder_remove(path, run) == 0 && access(path, F_OK) != 0);
  close(run);
  check_tested(1, "run folder");
}

static void test_processes(void) {
  const process self = {getpid(), process_start(getpid())}, other = {getpid(), self.start + 1}, nobody = {0, 0};
  check_case("processes");
  CHECK(self.start > 0 && process_is_alive(&self));
  CHECK(!process_is_alive(&other) && !process_is_alive(&nobody)); /* the number of another that lives now */
  check_tested(2, "processes");
}

int main(int argc, char **argv) {
  (void)check_start(argc, argv, 1);
  if (!mkdtemp(folder)) {
    perror(folder);
    return 1;
  }
  test_sha256();
  test_json_texts();
  test_json_numbers();
  test_json_structure();
  test_arguments();
  test_wrong_arguments();
  test_turns();
  test_prompt();
  test_cores();
  make_sys();
  test_sources();
  test_sampler();
  test_run_folder();
  test_processes();
  remove_all();
  return check_end();
}
