#include "arguments.h"
#include "cores.h"
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The result of the longest run stays below the 8 MiB that the harness reads. */
enum { MOST_TOKENS = 1 << 20, MOST_GENERATED = 65536, MOST_REPS = 1000, MOST_TIMES = 300000, MOST_NONCE = 64 };

int arguments_number(const char *text, double least, double most, double *number) {
  char *end;
  if (strspn(text, "0123456789.-+e") != strlen(text)) return 0; /* no blanks, nan, inf, 0x10 */
  const double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most)) return 0;
  *number = value;
  return 1;
}

static int whole(const char *text, double least, double most, uint32_t *number) {
  double value;
  if (!arguments_number(text, least, most, &value) || value != floor(value)) return 0;
  *number = (uint32_t)value;
  return 1;
}

/* One of each option: whether the text is right for it. */

static int set_nonce(run_options *o, const char *text) {
  const size_t length = strlen(text);
  o->nonce = text;
  return length >= 1 && length <= MOST_NONCE && strspn(text, "0123456789abcdefABCDEF") == length;
}

static int set_prompt_tokens(run_options *o, const char *text) {
  return whole(text, 1, MOST_TOKENS, &o->prompt_tokens);
}
static int set_gen_tokens(run_options *o, const char *text) { return whole(text, 2, MOST_GENERATED, &o->gen_tokens); }
static int set_reps(run_options *o, const char *text) { return whole(text, 1, MOST_REPS, &o->reps); }
static int set_threads(run_options *o, const char *text) { return whole(text, 1, 1024, &o->threads); }
static int set_cooldown_c(run_options *o, const char *text) { return arguments_number(text, 0, 150, &o->cooldown_c); }
static int set_cooldown_s(run_options *o, const char *text) { return arguments_number(text, 0, 3600, &o->cooldown_s); }
static int set_deadline(run_options *o, const char *text) { return arguments_number(text, 1, 86400, &o->deadline_s); }
static int set_lease(run_options *o, const char *text) { return arguments_number(text, 1, 3600, &o->lease_s); }

static int set_sensor(run_options *o, const char *text) {
  o->cooldown_sensor = text;
  return *text != 0;
}

static int cache_type(const char *text, size_t length, uint32_t *type) {
  static const char *const names[] = {[EK_CACHE_F16] = "f16", [EK_CACHE_Q8_0] = "q8_0", [EK_CACHE_Q4_0] = "q4_0"};
  for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (strlen(names[i]) == length && memcmp(names[i], text, length) == 0) {
      *type = i;
      return 1;
    }
  }
  return 0;
}

static int set_cache(run_options *o, const char *text) {
  const size_t first = strcspn(text, ",");
  const char *values = text[first] ? text + first + 1 : text;
  o->cache = text;
  return cache_type(text, first, &o->keys) && cache_type(values, strlen(values), &o->values);
}

static int set_cores(run_options *o, const char *text) {
  cpu_set_t cores;
  o->cores = text;
  return strcmp(text, "big") == 0 || strcmp(text, "all") == 0 || cores_parse(text, &cores);
}

static int token(const char *text, size_t length, int32_t *id) {
  char digits[16] = {0};
  uint32_t value;
  if (length >= sizeof digits) return 0;
  memcpy(digits, text, length);
  if (!whole(digits, 0, INT32_MAX, &value)) return 0;
  *id = (int32_t)value;
  return 1;
}

static int set_bos(run_options *o, const char *text) { return token(text, strlen(text), &o->bos); }

static int set_end_tokens(run_options *o, const char *text) {
  for (o->end_count = 0; o->end_count < MOST_END_TOKENS; text++) {
    const size_t length = strcspn(text, ",");
    if (!token(text, length, &o->end_tokens[o->end_count++])) return 0;
    text += length;
    if (*text == 0) return 1;
  }
  return 0;
}

static const struct option_row {
  const char *name;
  int (*set)(run_options *options, const char *text);
  const char *wanted;
} rows[] = {
    {"--nonce", set_nonce, "1 to 64 hexadecimal digits"},
    {"--prompt-tokens", set_prompt_tokens, "a whole number from 1 to 1048576"},
    {"--gen-tokens", set_gen_tokens, "a whole number from 2 to 65536"},
    {"--reps", set_reps, "a whole number from 1 to 1000"},
    {"--threads", set_threads, "a whole number from 1 to 1024"},
    {"--cache", set_cache, "f16, q8_0 or q4_0, or two of them as q8_0,q4_0"},
    {"--cores", set_cores, "big, all or a list as 0,2-3"},
    {"--bos", set_bos, "a token id"},
    {"--end-tokens", set_end_tokens, "at most 256 token ids as 1,106"},
    {"--cooldown-c", set_cooldown_c, "degrees Celsius from 0 to 150"},
    {"--cooldown-s", set_cooldown_s, "seconds from 0 to 3600"},
    {"--cooldown-sensor", set_sensor, "the type of a thermal zone"},
    {"--deadline", set_deadline, "seconds from 1 to 86400"},
    {"--lease", set_lease, "seconds from 1 to 3600"},
};

static const struct option_row *find_row(const char *name) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].name, name) == 0) return &rows[i];
  }
  return NULL;
}

/* What no option alone can tell. */
static int check(const run_options *o) {
  if (o->model_count == 0) return report(BENCH_USAGE, "no model is given: name a GGUF file behind --");
  if (!o->nonce || !o->prompt_tokens || !o->gen_tokens || !o->reps)
    return report(BENCH_USAGE, "--nonce, --prompt-tokens, --gen-tokens and --reps are all needed");
  if (isnan(o->cooldown_c) != isnan(o->cooldown_s))
    return report(BENCH_USAGE, "--cooldown-c and --cooldown-s go together: give both or neither");
  if (o->cooldown_sensor && isnan(o->cooldown_c))
    return report(BENCH_USAGE, "--cooldown-sensor needs --cooldown-c and --cooldown-s");
  if ((uint64_t)o->model_count * o->reps * o->gen_tokens > MOST_TIMES)
    return report(BENCH_USAGE, "models times --reps times --gen-tokens is more than %d: ask for fewer", MOST_TIMES);
  return 0;
}

int arguments_parse(int argc, char **argv, run_options *options) {
  *options = (run_options){.cache = "f16",
                           .cores = "big",
                           .bos = -1,
                           .cooldown_c = NAN,
                           .cooldown_s = NAN,
                           .deadline_s = 3600,
                           .lease_s = 60,
                           .argc = argc,
                           .argv = argv};
  for (int i = 0; i < argc; i++) {
    if (strncmp(argv[i], "--", 2) != 0) {
      if (options->model_count == MOST_MODELS)
        return report(BENCH_USAGE, "%s: at most two models are compared", argv[i]);
      options->models[options->model_count++] = argv[i];
      continue;
    }
    const struct option_row *row = find_row(argv[i]);
    if (!row) return report(BENCH_USAGE, "there is no option %s", argv[i]);
    if (i + 1 == argc) return report(BENCH_USAGE, "%s has no value: give %s", row->name, row->wanted);
    if (!row->set(options, argv[++i]))
      return report(BENCH_USAGE, "%s %s is not right: give %s", row->name, argv[i], row->wanted);
  }
  return check(options);
}
