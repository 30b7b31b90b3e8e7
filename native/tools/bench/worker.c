#include "worker.h"
#include "cold.h"
#include "report.h"
#include "result.h"
#include "run_folder.h"
#include "sources.h"
#include "system.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYS "/sys"

typedef struct work {
  const run_options *options;
  run_state *state;
  uint32_t threads;
  sampler *sampler;
  source_list zones; /* for cooling down */
  double *times;     /* of all repetitions (sample_count, gen_tokens - 1) */
  int steps_done, steps;
  result result;
} work;

static void step_done(work *w) {
  w->steps_done++;
  atomic_store(&w->state->progress, (unsigned)(10000L * w->steps_done / w->steps));
}

static void read_back(void *user) {
  work *w = user;
  if (!cores_read_back(sampler_thread(w->sampler), &w->result.affinity))
    reasons_add(&w->result.reasons, "affinity", "/proc/self/task cannot be read");
}

/* Waits until the device is cool enough, or has had its time for it. */
static void cool_down(work *w, int number) {
  const run_options *o = w->options;
  if (isnan(o->cooldown_c)) return;
  const double until = now_s() + o->cooldown_s;
  double degrees = sources_temperature(&w->zones, o->cooldown_sensor), left;
  if (isnan(degrees)) {
    reasons_add(&w->result.reasons, "cooldown", "not waited for: no zone%s%s in /sys/class/thermal can be read",
                o->cooldown_sensor ? " of type " : "", o->cooldown_sensor ? o->cooldown_sensor : "");
    return;
  }
  while (!(degrees <= o->cooldown_c) && (left = until - now_s()) > 0) { /* a single reading may fail */
    sleep_s(fmin(1, left));
    degrees = sources_temperature(&w->zones, o->cooldown_sensor);
  }
  if (!(degrees <= o->cooldown_c))
    reasons_add(&w->result.reasons, "cooldown", "still at %.1f degrees Celsius after %g s, before repetition %d",
                degrees, o->cooldown_s, number + 1);
}

/* One of each model that does not count: cold, and to warm up. */
static int warm_up(work *w, double cold_s[MOST_MODELS]) {
  const int count = w->options->model_count;
  for (int model = 0; model < count; model++) {
    repetition unused = {.inter_token_s = w->times};
    const int is_cold = cold_drop(w->options->models[model], &w->result.reasons);
    const int failed = workload_run(w->options, model, w->threads, &unused, &w->result.models[model], read_back, w);
    if (failed) return failed;
    cold_s[model] = is_cold ? unused.load_s : NAN;
    step_done(w);
  }
  return 0;
}

static int repeat(work *w, const double cold_s[MOST_MODELS]) {
  const run_options *o = w->options;
  int is_first[MOST_MODELS] = {1, 1};
  const int count = o->model_count * (int)o->reps;
  for (int i = 0; i < count; i++) {
    const int model = workload_turn(o->model_count, i);
    repetition *sample = &w->result.samples[i];
    sample->inter_token_s = w->times + (size_t)i * (o->gen_tokens - 1);
    cool_down(w, i);
    const int failed = workload_run(o, model, w->threads, sample, &w->result.models[model], read_back, w);
    if (failed) return failed;
    if (is_first[model]) sample->load_cold_s = cold_s[model];
    is_first[model] = 0;
    w->result.sample_count++;
    step_done(w);
  }
  return 0;
}

static int prepare(work *w) {
  const run_options *o = w->options;
  const size_t samples = (size_t)o->model_count * o->reps;
  w->steps = o->model_count * ((int)o->reps + 2);
  w->result.samples = calloc(samples, sizeof *w->result.samples);
  w->times = malloc(samples * (o->gen_tokens - 1) * sizeof *w->times);
  w->sampler = sampler_start(SYS, w->result.epoch, 1); /* before the cores are chosen: it may use the others */
  if (!w->result.samples || !w->times || !w->sampler)
    return report(BENCH_SYSTEM, "the device is out of memory, or has no thread left");
  memset(w->times, 0xff, samples * (o->gen_tokens - 1) * sizeof *w->times); /* touched before the clock runs */
  w->result.timeline = w->sampler;
  w->zones = sources_zones(SYS);
  (void)sampler_thread(w->sampler);
  const int failed = cores_use(o->cores);
  if (failed) return failed;
  cpu_set_t cores;
  w->threads = o->threads;
  if (!w->threads && sched_getaffinity(0, sizeof cores, &cores) == 0) w->threads = (uint32_t)CPU_COUNT(&cores);
  return 0;
}

static int measure(work *w) {
  double cold_s[MOST_MODELS];
  const double suspended = suspended_s();
  int failed = warm_up(w, cold_s);
  if (!failed) failed = repeat(w, cold_s);
  const double slept = suspended_s() - suspended; /* to the millisecond */
  w->result.suspended_s = slept < 1e-3 ? 0 : slept;
  if (isnan(slept)) reasons_add(&w->result.reasons, "suspended_s", "there is no CLOCK_BOOTTIME");
  return failed;
}

static int work_through(work *w, int folder) {
  int failed = prepare(w);
  if (!failed) failed = measure(w);
  if (w->sampler) sampler_stop(w->sampler);
  for (int model = 0; !failed && model < w->options->model_count; model++) {
    memory_measure(w->options, model, &w->result.memory[model]);
    step_done(w);
  }
  if (!failed) failed = result_save(&w->result, folder);
  sources_close(&w->zones);
  sampler_free(w->sampler);
  free(w->result.samples);
  free(w->times);
  return failed;
}

int worker_run(const run_options *options, const char *run, int folder, run_state *state) {
  work w = {.options = options, .state = state};
  w.result.options = options;
  w.result.folder = run;
  w.result.epoch = now_s();
  w.result.suspended_s = NAN;
  const int failed = work_through(&w, folder);
  if (failed) return failed;
  return fprintf(stderr, "done %s\n", options->nonce) < 0 ? report_write_error(LOG_FILE) : 0;
}
