#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double clock_s(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t) != 0) return NAN;
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double now_s(void) { return clock_s(CLOCK_MONOTONIC); }

/* What lies between two readings makes it less, never more: the largest of a few is right. */
double suspended_s(void) {
  double largest = NAN;
  for (int i = 0; i < 8; i++) {
    const double boot = clock_s(CLOCK_BOOTTIME), difference = boot - clock_s(CLOCK_MONOTONIC);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

void sleep_s(double seconds) {
  struct timespec left = {(time_t)seconds, (long)((seconds - floor(seconds)) * 1e9)};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

ssize_t read_text(const char *path, char *out, size_t size) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  size_t length = 0;
  ssize_t got = 1;
  while (length < size - 1 && (got = read(file, out + length, size - 1 - length)) > 0) length += (size_t)got;
  close(file);
  if (got < 0) return -1;
  while (length > 0 && (out[length - 1] == '\n' || out[length - 1] == 0)) length--;
  out[length] = 0;
  return (ssize_t)length;
}

int read_integer(const char *path, int64_t *value) {
  char text[32], *end;
  if (read_text(path, text, sizeof text) <= 0) return 0;
  errno = 0;
  const long long number = strtoll(text, &end, 10);
  if (end == text || errno != 0) return 0;
  *value = number;
  return 1;
}

int read_field(const char *path, const char *key, char *out, size_t size) {
  char line[8192]; /* the flags of an x86 processor take 2 KB */
  const size_t length = strlen(key);
  int found = 0;
  FILE *file = fopen(path, "re");
  while (file && !found && fgets(line, sizeof line, file)) {
    if (strncmp(line, key, length) != 0) continue;
    const char *rest = line + length;
    rest += strspn(rest, " \t");
    if (*rest != ':') continue;
    rest += 1 + strspn(rest + 1, " \t");
    snprintf(out, size, "%.*s", (int)strcspn(rest, "\n"), rest);
    found = 1;
  }
  if (file) fclose(file);
  return found;
}

int read_field_bytes(const char *path, const char *key, int64_t *bytes) {
  char text[64], *end;
  if (!read_field(path, key, text, sizeof text)) return 0;
  const long long number = strtoll(text, &end, 10);
  if (end == text || number < 0 || strcmp(end + strspn(end, " "), "kB") != 0) return 0;
  *bytes = number * 1024;
  return 1;
}

uint64_t process_start(pid_t pid) {
  char path[64], text[1024], state;
  unsigned long long start;
  /* of its first thread, which is as old; qemu-user invents /proc/PID/stat for the process that asks for its own */
  snprintf(path, sizeof path, "/proc/%ld/task/%ld/stat", (long)pid, (long)pid);
  if (pid <= 0 || read_text(path, text, sizeof text) <= 0) return 0;
  const char *rest = strrchr(text, ')'); /* the program's name may hold anything */
  if (!rest) return 0;
  const int fields = sscanf(
      rest + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state, &start);
  return fields == 2 && state != 'Z' && state != 'X' ? start : 0;
}
