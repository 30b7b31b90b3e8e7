#include "run_folder.h"
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PID_PART PID_FILE ".tmp"

int process_is_alive(const process *p) { return p->start != 0 && process_start(p->pid) == p->start; }

/* At most size - 1 bytes of a file from an offset, counted from its end where that is negative, and a 0. */
static ssize_t read_at(int folder, const char *name, off_t offset, char *out, size_t size) {
  const int file = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return -1;
  if (offset < 0 && lseek(file, offset, SEEK_END) < 0) (void)lseek(file, 0, SEEK_SET);
  const ssize_t length = read(file, out, size - 1);
  close(file);
  out[length > 0 ? length : 0] = 0;
  return length;
}

int run_folder_write_pids(int folder, const process *worker, const process *supervisor) {
  char text[128];
  const int length =
      snprintf(text, sizeof text, "%ld %llu %ld %llu\n", (long)worker->pid, (unsigned long long)worker->start,
               (long)supervisor->pid, (unsigned long long)supervisor->start);
  const int file = openat(folder, PID_PART, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return -1;
  errno = ENOSPC; /* of a write that is cut short */
  const int failed = write(file, text, (size_t)length) != length;
  const int error = errno;
  close(file);
  errno = error;
  return failed ? -1 : renameat(folder, PID_PART, folder, PID_FILE);
}

int run_folder_read_pids(int folder, process *worker, process *supervisor) {
  char text[128];
  long numbers[2];
  unsigned long long starts[2];
  if (read_at(folder, PID_FILE, 0, text, sizeof text) <= 0) return 0;
  if (sscanf(text, "%ld %llu %ld %llu", &numbers[0], &starts[0], &numbers[1], &starts[1]) != 4) return 0;
  if (numbers[0] <= 1 || numbers[1] <= 1) return 0;
  *worker = (process){(pid_t)numbers[0], starts[0]};
  *supervisor = (process){(pid_t)numbers[1], starts[1]};
  return 1;
}

void run_folder_last_line(int folder, char *out, size_t size) {
  char text[1024];
  ssize_t length = read_at(folder, LOG_FILE, -(off_t)(sizeof text - 1), text, sizeof text);
  while (length > 0 && text[length - 1] == '\n') text[--length] = 0;
  const char *newline = length > 0 ? strrchr(text, '\n') : NULL;
  snprintf(out, size, "%s", newline ? newline + 1 : length > 0 ? text : "");
}

void run_folder_drop_result(int folder) {
  (void)unlinkat(folder, RESULT_PART, 0);
  (void)unlinkat(folder, RESULT_FILE, 0);
}

int run_folder_remove(const char *path, int folder) {
  static const char *const files[] = {RESULT_PART, RESULT_FILE, PID_PART, PID_FILE, LEASE_FILE, LOG_FILE, STATE_FILE};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    if (unlinkat(folder, files[i], 0) != 0 && errno != ENOENT) return -1;
  }
  return rmdir(path) == 0 || errno == ENOENT ? 0 : -1;
}
