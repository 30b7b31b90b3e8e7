#include "json.h"
#include "lifecycle.h"
#include "report.h"
#include "run_folder.h"
#include "state.h"
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434 /* of Linux 5.3, the same everywhere */
#endif

/* Until a process has ended or the time is over. */
static void await_end(const process *p, double until) {
  const int file = (int)syscall(SYS_pidfd_open, p->pid, 0);
  if (file >= 0 && process_is_alive(p)) { /* the file is of this process, not of a later one with its number */
    struct pollfd event = {.fd = file, .events = POLLIN};
    double left;
    while ((left = until - now_s()) > 0 && poll(&event, 1, (int)(1e3 * left) + 1) < 0 && errno == EINTR) continue;
  }
  if (file >= 0) close(file);
  while (now_s() < until && process_is_alive(p)) sleep_s(0.25); /* before Linux 5.3 */
}

typedef struct answer {
  const char *state, *error, *nonce;
  double progress;
  int has_exit, exit_status, signal;
} answer;

static void print(const answer *a) {
  json j = json_to(stdout);
  json_object(&j, NULL);
  json_text(&j, "state", a->state);
  json_number(&j, "progress", a->progress);
  json_count(&j, "exit", a->has_exit ? a->exit_status : -1);
  json_count(&j, "signal", a->signal ? a->signal : -1);
  json_text(&j, "nonce", a->nonce);
  json_text(&j, "error", a->error);
  json_end_object(&j);
  putchar('\n');
}

/* --- what a run has come to --- */

/* The nonce, if the run ended as it should: a result, and the nonce as the log's last word. */
static const char *proof(int folder, char *line, size_t size) {
  struct stat file;
  run_folder_last_line(folder, line, size);
  if (fstatat(folder, RESULT_FILE, &file, AT_SYMLINK_NOFOLLOW) != 0) return NULL;
  return strncmp(line, "done ", 5) == 0 ? line + 5 : NULL;
}

static void answer_ended(int folder, const run_state *state) {
  static char line[256], sentence[STATE_SENTENCE];
  answer a = {.state = "failed", .progress = 1e-4 * atomic_load(&state->progress)};
  a.has_exit = state->exit_status >= 0;
  a.exit_status = state->exit_status;
  a.signal = state->signal;
  if (a.has_exit && a.exit_status == 0) {
    a.nonce = proof(folder, line, sizeof line);
    a.state = a.nonce ? "done" : "failed";
    a.error = a.nonce ? NULL : "the run ended well, but its result or the last line of its log has been removed since";
  } else if (a.signal) {
    snprintf(sentence, sizeof sentence, "the run was ended by signal %d (%s)", a.signal, strsignal(a.signal));
    a.error = sentence;
  } else {
    memcpy(sentence, state->sentence, sizeof sentence - 1);
    a.error = *sentence ? sentence : "the run ended without saying why";
  }
  print(&a);
}

static void answer_missing(const char *error) {
  const answer a = {.state = "failed", .error = error};
  print(&a);
}

/* Gives a supervisor time to notice the end of its worker. */
static void await_record(const run_state *state, const process *supervisor) {
  while (!atomic_load(&state->has_ended) && process_is_alive(supervisor)) sleep_s(0.01);
}

static int is_removed(int folder) {
  struct stat status;
  return fstat(folder, &status) != 0 || status.st_nlink == 0;
}

static void answer_run(int folder, const run_state *state, double until) {
  process worker, supervisor;
  if (!run_folder_read_pids(folder, &worker, &supervisor)) {
    answer_missing("the run did not start");
    return;
  }
  if (!atomic_load(&state->has_ended)) await_end(&worker, until);
  const int works = process_is_alive(&worker);
  if (!works) await_record(state, &supervisor);
  if (is_removed(folder)) {
    print(&(answer){.state = "gone"});
  } else if (atomic_load(&state->has_ended)) {
    answer_ended(folder, state);
  } else if (works) {
    print(&(answer){.state = "running", .progress = 1e-4 * atomic_load(&state->progress)});
  } else {
    answer_missing("the run was ended from outside together with its supervisor, or the device was restarted");
  }
}

int run_wait(const char *run, double seconds) {
  const double until = now_s() + seconds;
  const int folder = open(run, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0 && errno != ENOENT) return report(BENCH_SYSTEM, "%s cannot be read (%s)", run, strerror(errno));
  if (folder < 0) {
    print(&(answer){.state = "gone"});
    return 0;
  }
  (void)utimensat(folder, LEASE_FILE, NULL, 0);
  const run_state *state = state_open(folder);
  if (state) {
    answer_run(folder, state, until);
    munmap((void *)state, STATE_BYTES);
  } else {
    answer_missing("this is no run's folder, or the run did not start");
  }
  close(folder);
  return 0;
}
