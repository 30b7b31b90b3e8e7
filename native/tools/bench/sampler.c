#include "sampler.h"
#include "sources.h"
#include "system.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ENTRIES = 1024, AT = 0, LOAD = 1, FIRST_SOURCE = 2 };

struct sampler {
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int stopping; /* by the mutex */
  atomic_int thread_id;
  double epoch, period;
  source_list frequencies, zones, throttling;
  size_t width; /* figures of an entry: time, load, then those of the three lists */
  int count;
  double *entries; /* (MOST_ENTRIES, width); NAN: not to be had */
};

/* --- the thread --- */

static double *read_sources(const source_list *list, double *out) {
  for (int i = 0; i < list->count; i++) {
    int64_t value;
    *out++ = source_read(&list->items[i], &value) ? (double)value : NAN;
  }
  return out;
}

static double load_average(void) {
  char text[64], *end;
  if (read_text("/proc/loadavg", text, sizeof text) <= 0) return NAN;
  const double load = strtod(text, &end);
  return end == text ? NAN : load;
}

/* Every other entry goes. */
static void thin_out(sampler *s) {
  for (int i = 0; 2 * i < s->count; i++)
    memcpy(s->entries + (size_t)i * s->width, s->entries + (size_t)(2 * i) * s->width, s->width * sizeof *s->entries);
  s->count = (s->count + 1) / 2;
  s->period *= 2;
}

static void take(sampler *s) {
  if (s->count == MOST_ENTRIES) thin_out(s);
  double *entry = s->entries + (size_t)s->count++ * s->width;
  entry[AT] = now_s() - s->epoch;
  entry[LOAD] = load_average();
  double *rest = read_sources(&s->frequencies, entry + FIRST_SOURCE);
  rest = read_sources(&s->zones, rest);
  (void)read_sources(&s->throttling, rest);
}

static void *sample(void *argument) {
  sampler *s = argument;
  atomic_store(&s->thread_id, (int)syscall(SYS_gettid));
  double next = now_s();
  pthread_mutex_lock(&s->mutex);
  while (!s->stopping) {
    take(s);
    next += s->period;
    if (next < now_s()) next = now_s() + s->period; /* the device was held up */
    const struct timespec until = {(time_t)next, (long)((next - floor(next)) * 1e9)};
    while (!s->stopping && pthread_cond_timedwait(&s->changed, &s->mutex, &until) == 0) continue;
  }
  pthread_mutex_unlock(&s->mutex);
  return NULL;
}

/* --- for others --- */

static int start_thread(sampler *s) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&s->mutex, NULL);
  pthread_cond_init(&s->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  return pthread_create(&s->thread, NULL, sample, s) == 0;
}

sampler *sampler_start(const char *sys, double epoch, double period) {
  sampler *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->epoch = epoch;
  s->period = period;
  s->frequencies = sources_frequencies(sys);
  s->zones = sources_zones(sys);
  s->throttling = sources_throttling(sys);
  s->width = FIRST_SOURCE + (size_t)(s->frequencies.count + s->zones.count + s->throttling.count);
  s->entries = malloc(MOST_ENTRIES * s->width * sizeof *s->entries);
  if (s->entries && start_thread(s)) return s;
  sampler_free(s);
  return NULL;
}

pid_t sampler_thread(const sampler *s) {
  int id;
  while ((id = atomic_load(&s->thread_id)) == 0) sleep_s(0.001);
  return id;
}

void sampler_stop(sampler *s) {
  pthread_mutex_lock(&s->mutex);
  s->stopping = 1;
  pthread_cond_signal(&s->changed);
  pthread_mutex_unlock(&s->mutex);
  pthread_join(s->thread, NULL);
}

void sampler_free(sampler *s) {
  if (!s) return;
  sources_close(&s->frequencies);
  sources_close(&s->zones);
  sources_close(&s->throttling);
  free(s->entries);
  free(s);
}

/* --- the timeline --- */

static const double *write_frequencies(const source_list *list, json *j, const double *values) {
  if (list->count == 0) {
    json_null(j, "freq_hz");
    return values;
  }
  json_array(j, "freq_hz");
  for (int i = 0; i < list->count; i++) json_number(j, NULL, 1e3 * *values++);
  json_end_array(j);
  return values;
}

/* What cannot be read at the moment is left out. */
static const double *write_temperatures(const source_list *list, json *j, const double *values) {
  if (list->count == 0) {
    json_null(j, "temp_c");
    return values;
  }
  json_object(j, "temp_c");
  for (int i = 0; i < list->count; i++, values++) {
    if (isfinite(*values)) json_number(j, list->items[i].name, 1e-3 * *values);
  }
  json_end_object(j);
  return values;
}

static void write_throttling(const source_list *list, json *j, const double *values) {
  if (list->count == 0) {
    json_null(j, "throttling");
    return;
  }
  json_object(j, "throttling");
  for (int i = 0; i < list->count; i++) {
    if (isfinite(values[i])) json_integer(j, list->items[i].name, (int64_t)values[i]);
  }
  json_end_object(j);
}

void sampler_write(const sampler *s, json *j, reasons *r) {
  json_array(j, "timeline");
  for (int i = 0; i < s->count; i++) {
    const double *entry = s->entries + (size_t)i * s->width;
    json_object(j, NULL);
    json_number(j, "at_s", entry[AT]);
    json_number(j, "load", entry[LOAD]);
    const double *rest = write_frequencies(&s->frequencies, j, entry + FIRST_SOURCE);
    rest = write_temperatures(&s->zones, j, rest);
    write_throttling(&s->throttling, j, rest);
    json_end_object(j);
  }
  json_end_array(j);
  if (!s->frequencies.count) reasons_add(r, "freq_hz", "no core has a readable cpufreq/scaling_cur_freq");
  if (!s->zones.count) reasons_add(r, "temp_c", "there is no readable zone in /sys/class/thermal");
  if (!s->throttling.count) reasons_add(r, "throttling", "the system has no counter of it in /sys");
  if (s->count && isnan(s->entries[LOAD])) reasons_add(r, "load", "/proc/loadavg cannot be read");
}
