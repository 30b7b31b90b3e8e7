/* Files of /sys that hold one number: clocks, temperatures, what holds a processor back. They are opened once, so that
 * reading them disturbs a run little. */
#ifndef BENCH_SOURCES_H
#define BENCH_SOURCES_H

#include <stdint.h>

enum { MOST_SOURCES = 256 };

typedef struct source_kind {
  int base;            /* of the number, 10 or 16 */
  int64_t least, most; /* what else it says is no reading: switched-off thermometers say -274000, or 2147483647 */
} source_kind;

typedef struct source {
  char name[64];
  int file; /* -1: there is none, as for a core that is offline */
  const source_kind *kind;
} source;

typedef struct source_list {
  source *items;
  int count;
} source_list;

/* `sys` is /sys. Each list is freed with sources_close. Out of memory they are empty. */
source_list sources_frequencies(const char *sys); /* one for each core in turn, in kHz; empty where there is none */
source_list sources_zones(const char *sys);       /* by type, in thousandths of a degree */
source_list sources_throttling(const char *sys);
void sources_close(source_list *list);

/* Whether there was a number. */
int source_read(const source *s, int64_t *value);

/* Degrees Celsius of the zone of that name, NULL: of the hottest; NAN: there is none that can be read. */
double sources_temperature(const source_list *zones, const char *name);

#endif
