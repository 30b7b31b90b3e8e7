#include "lifecycle.h"
#include "report.h"
#include "run_folder.h"
#include "state.h"
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE_S 10

static void kill_all(const process *worker, const process *supervisor) {
  if (process_is_alive(supervisor))
    kill(-supervisor->pid, SIGKILL); /* it leads its group: the worker and its child too */
  if (process_is_alive(worker)) kill(worker->pid, SIGKILL);
}

/* Whether all have ended. */
static int await_all(const process *worker, const process *supervisor) {
  const double until = now_s() + PATIENCE_S;
  while (process_is_alive(worker) || process_is_alive(supervisor)) {
    if (now_s() > until) return 0;
    sleep_s(0.01);
  }
  return 1;
}

static int remove_folder(const char *run, int folder) {
  /* a wrong path must not cost somebody a file named log */
  const int failed = state_is_there(folder) ? run_folder_remove(run, folder) != 0 : rmdir(run) != 0 && errno != ENOENT;
  if (!failed) return 0;
  return errno == ENOTEMPTY || errno == EEXIST
             ? report(BENCH_CANNOT_WRITE, "%s has files that are not the run's: look at them, and remove it", run)
             : report_write_error(run);
}

int run_stop(const char *run) {
  process worker, supervisor;
  const int folder = open(run, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0 && errno == ENOENT) return 0;
  if (folder < 0) return report(BENCH_SYSTEM, "%s cannot be read (%s)", run, strerror(errno));
  int status = 0;
  if (state_is_there(folder) && run_folder_read_pids(folder, &worker, &supervisor)) {
    kill_all(&worker, &supervisor);
    if (!await_all(&worker, &supervisor))
      status = report(BENCH_SYSTEM, "process %ld does not end: restart the device", (long)worker.pid);
  }
  if (!status) status = remove_folder(run, folder);
  close(folder);
  return status;
}
