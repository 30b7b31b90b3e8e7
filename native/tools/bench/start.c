#include "lifecycle.h"
#include "report.h"
#include "run_folder.h"
#include "supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LAST_STREAM = 2, MOST_FILES = 1024 };

/* A run must not hold the pipes of the shell or daemon that starts it: they would wait for its end. */
static void close_inherited(void) {
  for (int file = LAST_STREAM + 1; file < MOST_FILES; file++) close(file);
}

/* A folder or file, which is made where it is missing. Locked, or -1 after a report into *status. */
static int take_lock(const char *path, int *status) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 && errno == ENOENT) file = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) {
    *status = report_write_error(path);
    return -1;
  }
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return file;
  *status = errno == EWOULDBLOCK
                ? report(BENCH_BUSY, "another benchmark runs on this device: wait until it has ended")
                : report(BENCH_SYSTEM, "%s cannot be locked (%s): choose another --lock", path, strerror(errno));
  close(file);
  return -1;
}

/* The files that are there before anything runs. 0, or the exit status after a report. */
static int fill_folder(supervised *s) {
  static const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  s->state = state_create(s->folder);
  const int file = s->state ? openat(s->folder, LEASE_FILE, flags, 0600) : -1;
  if (file >= 0) close(file);
  s->log = file >= 0 ? openat(s->folder, LOG_FILE, flags | O_APPEND, 0600) : -1;
  return s->log >= 0 ? 0 : report_write_error(s->run);
}

static int make_folder(supervised *s) {
  if (mkdir(s->run, 0700) != 0) {
    return errno == EEXIST
               ? report(BENCH_CANNOT_WRITE, "%s is there already: stop that run, or take another name", s->run)
               : report_write_error(s->run);
  }
  s->folder = open(s->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (s->folder < 0) {
    const int status = report_write_error(s->run);
    (void)rmdir(s->run);
    return status;
  }
  const int status = fill_folder(s);
  if (status) (void)run_folder_remove(s->run, s->folder);
  return status;
}

/* Whether the supervisor has said that all is there; else its sentence, of which the log is gone with the folder. */
static int await_start(const supervised *s, int started) {
  char byte;
  ssize_t got;
  while ((got = read(started, &byte, 1)) < 0 && errno == EINTR) continue;
  if (got == 1) return 0;
  const int status =
      report(BENCH_SYSTEM, "the run did not start%s%s", *s->state->sentence ? ": " : "", s->state->sentence);
  (void)run_folder_remove(s->run, s->folder);
  return status;
}

int run_start(const char *run, const char *lock, const run_options *options) {
  supervised s = {.options = options, .run = run, .folder = -1, .log = -1};
  int status, ends[2];
  close_inherited();
  umask(077);
  s.lock = take_lock(lock, &status);
  if (s.lock < 0) return status;
  status = make_folder(&s);
  if (status) return status;
  const pid_t child = pipe2(ends, O_CLOEXEC) == 0 ? fork() : -1;
  if (child == 0) {
    close(ends[0]);
    supervise(&s, ends[1]);
  }
  if (child < 0) {
    (void)run_folder_remove(run, s.folder);
    return report(BENCH_SYSTEM, "no process is to be had (%s)", strerror(errno));
  }
  close(ends[1]);
  return await_start(&s, ends[0]);
}
