#include "sources.h"
#include "cores.h"
#include "system.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_ZONES = 64 }; /* phones have up to about 100, most of them of little use */

static const source_kind clock_kind = {10, 1, INT64_MAX}, zone_kind = {10, -100000, 200000},
                         count_kind = {10, 0, INT64_MAX}, bits_kind = {16, 0, INT64_MAX};

static int has_name(const source_list *list, const char *name) {
  for (int i = 0; i < list->count; i++) {
    if (strcmp(list->items[i].name, name) == 0) return 1;
  }
  return 0;
}

/* Out of memory it adds nothing. */
static void add(source_list *list, const char *name, const char *path, const source_kind *kind) {
  if (list->count == MOST_SOURCES) return;
  source *items = realloc(list->items, (size_t)(list->count + 1) * sizeof *items);
  if (!items) return;
  list->items = items;
  source *added = &items[list->count];
  added->file = open(path, O_RDONLY | O_CLOEXEC);
  added->kind = kind;
  snprintf(added->name, sizeof added->name, "%s", name);
  if (has_name(list, added->name)) snprintf(added->name, sizeof added->name, "%.50s#%d", name, list->count);
  list->count++;
}

static int can_read(const source *s) {
  int64_t value;
  return source_read(s, &value);
}

/* Takes back the last one added. */
static void drop(source_list *list) {
  const int file = list->items[--list->count].file;
  if (file >= 0) close(file);
}

static void add_readable(source_list *list, const char *name, const char *path, const source_kind *kind) {
  const int before = list->count;
  add(list, name, path, kind);
  if (list->count > before && !can_read(&list->items[before])) drop(list);
}

source_list sources_frequencies(const char *sys) {
  source_list list = {NULL, 0};
  int readable = 0;
  char path[256], name[32];
  snprintf(path, sizeof path, "%s/devices/system/cpu", sys);
  const cpu_set_t present = cores_listed(path, "present");
  for (int core = 0, left = CPU_COUNT(&present); left > 0 && core < MOST_SOURCES; core++) {
    left -= CPU_ISSET(core, &present) != 0; /* up to the last one, and a place for each number, so that they match */
    snprintf(path, sizeof path, "%s/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", sys, core);
    snprintf(name, sizeof name, "cpu%d", core);
    add(&list, name, path, &clock_kind);
    readable += list.count > 0 && can_read(&list.items[list.count - 1]);
  }
  if (!readable) sources_close(&list);
  return list;
}

source_list sources_zones(const char *sys) {
  source_list list = {NULL, 0};
  for (int zone = 0; zone < MOST_SOURCES && list.count < MOST_ZONES; zone++) {
    char path[256], type[64];
    snprintf(path, sizeof path, "%s/class/thermal/thermal_zone%d/type", sys, zone);
    if (read_text(path, type, sizeof type) <= 0) continue;
    snprintf(path, sizeof path, "%s/class/thermal/thermal_zone%d/temp", sys, zone);
    add_readable(&list, type, path, &zone_kind);
  }
  return list;
}

source_list sources_throttling(const char *sys) {
  source_list list = {NULL, 0};
  char path[256], type[64];
  for (int device = 0; device < MOST_SOURCES && list.count < MOST_ZONES; device++) {
    snprintf(path, sizeof path, "%s/class/thermal/cooling_device%d/type", sys, device);
    if (read_text(path, type, sizeof type) <= 0) continue;
    if (!strstr(type, "cpu") && strcmp(type, "Processor") != 0) continue; /* fans, screens, modems */
    snprintf(path, sizeof path, "%s/class/thermal/cooling_device%d/cur_state", sys, device);
    add_readable(&list, type, path, &count_kind);
  }
  snprintf(path, sizeof path, "%s/devices/platform/soc/soc:firmware/get_throttled", sys);
  add_readable(&list, "get_throttled", path, &bits_kind);
  snprintf(path, sizeof path, "%s/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", sys);
  add_readable(&list, "core_throttle_count", path, &count_kind);
  snprintf(path, sizeof path, "%s/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", sys);
  add_readable(&list, "package_throttle_count", path, &count_kind);
  return list;
}

void sources_close(source_list *list) {
  while (list->count > 0) drop(list);
  free(list->items);
  list->items = NULL;
}

int source_read(const source *s, int64_t *value) {
  char text[32], *end;
  const ssize_t length = s->file < 0 ? -1 : pread(s->file, text, sizeof text - 1, 0);
  if (length <= 0) return 0;
  text[length] = 0;
  const long long number = strtoll(text, &end, s->kind->base);
  if (end == text || number < s->kind->least || number > s->kind->most) return 0;
  *value = number;
  return 1;
}

double sources_temperature(const source_list *zones, const char *name) {
  double hottest = NAN;
  for (int i = 0; i < zones->count; i++) {
    int64_t value;
    if (name && strcmp(zones->items[i].name, name) != 0) continue;
    if (!source_read(&zones->items[i], &value)) continue;
    if (!(1e-3 * (double)value <= hottest)) hottest = 1e-3 * (double)value; /* NAN at first */
  }
  return hottest;
}
