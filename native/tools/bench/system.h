/* What the system's files and clocks say. */
#ifndef BENCH_SYSTEM_H
#define BENCH_SYSTEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Seconds of CLOCK_MONOTONIC. */
double now_s(void);

/* Seconds that the device has slept since it was booted; NAN where the system does not tell. */
double suspended_s(void);

void sleep_s(double seconds);

/* At most size - 1 bytes of a file and a 0, less the newlines and zeros at its end. How many; -1: not readable. */
ssize_t read_text(const char *path, char *out, size_t size);

/* The first number of a file. Whether there is one. */
int read_integer(const char *path, int64_t *value);

/* What follows "KEY:" at the start of a line, as in /proc/meminfo, blanks around it left out. Whether there is one. */
int read_field(const char *path, const char *key, char *out, size_t size);

/* The same, of "KEY: 123 kB", in bytes. */
int read_field_bytes(const char *path, const char *key, int64_t *bytes);

/* When a process was started, in ticks since the boot: with its number that names it for good. 0: it has ended. */
uint64_t process_start(pid_t pid);

#endif
