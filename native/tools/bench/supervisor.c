#include "supervisor.h"
#include "report.h"
#include "run_folder.h"
#include "system.h"
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- the worker --- */

_Noreturn static void become_worker(const supervised *s, pid_t supervisor) {
  sigset_t none;
  sigemptyset(&none);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* without its supervisor nobody would end it */
  if (getppid() != supervisor) _exit(BENCH_SYSTEM);
  sigprocmask(SIG_SETMASK, &none, NULL);
  exit(worker_run(s->options, s->run, s->folder, s->state));
}

static void record(const supervised *s, int status) {
  s->state->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  s->state->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (s->state->exit_status != 0) run_folder_drop_result(s->folder);
  atomic_store(&s->state->has_ended, 1);
}

/* --- the lease --- */

typedef struct lease {
  struct timespec touched;
  double seen; /* when that was found out, by a clock that nobody sets */
} lease;

/* Whether the run is still wanted: touched within the time, or removed. */
static int lease_holds(const supervised *s, lease *l) {
  struct stat file;
  if (fstatat(s->folder, LEASE_FILE, &file, AT_SYMLINK_NOFOLLOW) != 0) return 0;
  if (file.st_mtim.tv_sec != l->touched.tv_sec || file.st_mtim.tv_nsec != l->touched.tv_nsec)
    *l = (lease){file.st_mtim, now_s()};
  return now_s() - l->seen <= s->options->lease_s;
}

/* --- the supervisor --- */

/* The end of everything. The worker may have ended before: 0. */
_Noreturn static void give_up(const supervised *s, pid_t worker) {
  if (worker) {
    kill(worker, SIGKILL); /* its own child dies with it */
    while (waitpid(worker, NULL, 0) < 0 && errno == EINTR) continue;
  }
  (void)run_folder_remove(s->run, s->folder);
  _exit(0);
}

/* Seconds until there is something to look at: the lease some eight times while it lasts, the deadline when it comes.
 */
static double pause_s(const supervised *s, int works, double elapsed) {
  const double period = fmin(5, s->options->lease_s / 8);
  return works ? fmin(period, fmax(0, s->options->deadline_s - elapsed)) : period;
}

_Noreturn static void watch(supervised *s, pid_t worker, const sigset_t *signals) {
  const double start = now_s();
  lease l = {{0, 0}, start};
  for (;;) {
    int status;
    const double pause = pause_s(s, worker != 0, now_s() - start);
    const struct timespec time = {(time_t)pause, (long)((pause - floor(pause)) * 1e9)};
    const int number = sigtimedwait(signals, NULL, &time);
    if (number == SIGTERM || number == SIGINT) give_up(s, worker);
    if (worker && waitpid(worker, &status, WNOHANG) == worker) {
      worker = 0;
      if (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) give_up(s, 0);
      record(s, status);
      close(s->lock); /* the next run may begin */
    }
    if (!lease_holds(s, &l) || (worker && now_s() - start >= s->options->deadline_s)) give_up(s, worker);
  }
}

/* Standard streams: nothing to read, and the log. */
static int take_streams(const supervised *s) {
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  return nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 && dup2(s->log, STDOUT_FILENO) >= 0 &&
         dup2(s->log, STDERR_FILENO) >= 0;
}

_Noreturn void supervise(const supervised *given, int started) {
  supervised s = *given;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, NULL);
  signal(SIGCHLD, SIG_DFL); /* ignored, which is inherited, it would take the worker's end away */
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  if (setsid() < 0 || !take_streams(&s)) _exit(report(BENCH_SYSTEM, "the run cannot leave its session"));
  report_into(s.state->sentence, sizeof s.state->sentence);
  const pid_t self = getpid(), child = fork();
  if (child < 0) _exit(report(BENCH_SYSTEM, "no process is to be had"));
  if (child == 0) {
    close(started);
    become_worker(&s, self);
  }
  const process worker = {child, process_start(child)}, supervisor = {self, process_start(self)};
  if (run_folder_write_pids(s.folder, &worker, &supervisor) != 0) {
    (void)report_write_error(PID_FILE);
    give_up(&s, child);
  }
  if (write(started, "", 1) != 1) give_up(&s, child); /* nobody waits for it any more */
  close(started);
  watch(&s, child, &signals);
}
