#include "result.h"
#include "build_info.h"
#include "probe.h"
#include "report.h"
#include "run_folder.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_build(json *j) {
  static const char *const levels[] = {BUILD_LEVELS};
  json_object(j, "build");
  json_text(j, "edgekit", BUILD_VERSION);
  json_text(j, "git", *BUILD_GIT ? BUILD_GIT : NULL);
  json_text(j, "compiler", BUILD_COMPILER);
  json_text(j, "flags", BUILD_FLAGS);
  json_array(j, "isa_built");
  for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) json_text(j, NULL, levels[i]);
  json_end_array(j);
  json_end_object(j);
}

static void write_config(json *j, const result *r) {
  const run_options *o = r->options;
  json_object(j, "config");
  json_integer(j, "prompt_tokens", o->prompt_tokens);
  json_integer(j, "gen_tokens", o->gen_tokens);
  json_integer(j, "reps", o->reps);
  json_integer(j, "threads", r->models[0].threads);
  json_text(j, "cache", o->cache);
  json_text(j, "cores", o->cores);
  json_array(j, "affinity");
  for (int core = 0; core < CPU_SETSIZE; core++) {
    if (CPU_ISSET(core, &r->affinity)) json_integer(j, NULL, core);
  }
  json_end_array(j);
  json_count(j, "bos", o->bos);
  json_array(j, "end_tokens");
  for (uint32_t i = 0; i < o->end_count; i++) json_integer(j, NULL, o->end_tokens[i]);
  json_end_array(j);
  json_number(j, "cooldown_c", o->cooldown_c);
  json_number(j, "cooldown_s", o->cooldown_s);
  json_text(j, "cooldown_sensor", o->cooldown_sensor);
  json_end_object(j);
}

static void write_models(json *j, const result *r) {
  json_array(j, "models");
  for (int i = 0; i < r->options->model_count; i++) {
    const model_facts *model = &r->models[i];
    json_object(j, NULL);
    json_integer(j, "bytes", (int64_t)model->file_bytes);
    json_text(j, "architecture", model->architecture);
    json_text(j, "isa", model->isa);
    json_integer(j, "weight_bytes", (int64_t)model->weight_bytes);
    json_integer(j, "decode_bytes", (int64_t)model->decode_bytes);
    json_end_object(j);
  }
  json_end_array(j);
}

static void write_samples(json *j, const result *r) {
  json_array(j, "samples");
  for (int i = 0; i < r->sample_count; i++) {
    const repetition *s = &r->samples[i];
    json_object(j, NULL);
    json_integer(j, "model", s->model);
    json_number(j, "at_s", s->at_s - r->epoch);
    json_number(j, "load_cold_s", s->load_cold_s);
    json_number(j, "load_s", s->load_s);
    json_number(j, "ttft_s", s->ttft_s);
    json_number(j, "prefill_tps", s->prefill_tps);
    json_number(j, "decode_tps", s->decode_tps);
    json_array(j, "inter_token_s");
    for (uint32_t k = 0; k + 1 < r->options->gen_tokens; k++) json_number(j, NULL, s->inter_token_s[k]);
    json_end_array(j);
    json_text(j, "output_sha256", s->output_sha256);
    json_end_object(j);
  }
  json_end_array(j);
}

static void write_memory(json *j, result *r) {
  json_array(j, "memory");
  for (int i = 0; i < r->options->model_count; i++) {
    const memory_facts *memory = &r->memory[i];
    json_object(j, NULL);
    json_count(j, "peak_bytes", memory->peak_bytes);
    json_count(j, "pss_bytes", memory->pss_bytes);
    json_count(j, "baseline_bytes", memory->baseline_bytes);
    json_text(j, "reason", *memory->reason ? memory->reason : NULL);
    json_end_object(j);
    if (memory->peak_bytes >= 0 && memory->pss_bytes < 0)
      reasons_add(&r->reasons, "pss_bytes", "the system has no /proc/self/smaps_rollup");
  }
  json_end_array(j);
}

static void write_all(result *r, FILE *out) {
  json j = json_to(out);
  json_object(&j, NULL);
  json_integer(&j, "protocol", PROTOCOL);
  json_text(&j, "nonce", r->options->nonce);
  probe_write(&j, "device", r->folder);
  write_build(&j);
  write_config(&j, r);
  write_models(&j, r);
  write_samples(&j, r);
  write_memory(&j, r);
  sampler_write(r->timeline, &j, &r->reasons);
  json_number(&j, "suspended_s", r->suspended_s);
  reasons_write(&r->reasons, &j, "reasons");
  json_end_object(&j);
  putc('\n', out);
}

static int write_bytes(int folder, const char *bytes, size_t count) {
  const int file = openat(folder, RESULT_PART, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ssize_t written = 0;
  while (file >= 0 && count > 0 && (written = write(file, bytes, count)) >= 0) {
    bytes += written;
    count -= (size_t)written;
  }
  const int failed = file < 0 || written < 0 || fsync(file) != 0;
  const int status = failed ? report_write_error(RESULT_FILE) : 0;
  if (file >= 0) close(file);
  return status;
}

int result_save(result *r, int folder) {
  char *bytes = NULL;
  size_t count = 0;
  FILE *memory = open_memstream(&bytes, &count); /* of a stream to the disk one does not learn what failed */
  if (!memory) return report(BENCH_SYSTEM, "the device is out of memory");
  write_all(r, memory);
  int status = fclose(memory) == 0 ? 0 : report(BENCH_SYSTEM, "the device is out of memory");
  if (!status) status = write_bytes(folder, bytes, count);
  free(bytes);
  if (status) return status;
  if (renameat(folder, RESULT_PART, folder, RESULT_FILE) != 0 || fsync(folder) != 0)
    return report_write_error(RESULT_FILE);
  return 0;
}
