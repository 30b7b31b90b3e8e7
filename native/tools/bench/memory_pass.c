#include "memory_pass.h"
#include "report.h"
#include "system.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CANNOT_EXECUTE = 126 }; /* as shells have it */

/* --- the child --- */

static int64_t field(const char *path, const char *key) {
  int64_t bytes;
  return read_field_bytes(path, key, &bytes) ? bytes : -1;
}

static void read_pss(void *pss) { *(int64_t *)pss = field("/proc/self/smaps_rollup", "Pss"); }

int memory_child(const run_options *options, int model) {
  const int64_t baseline = field("/proc/self/status", "VmHWM");
  int64_t pss = -1;
  cpu_set_t cores;
  repetition unused;
  model_facts facts;
  if (sched_getaffinity(0, sizeof cores, &cores) != 0)
    return report(BENCH_SYSTEM, "the cores that may be used cannot be read (%s)", strerror(errno));
  const uint32_t threads = options->threads ? options->threads : (uint32_t)CPU_COUNT(&cores);
  unused.inter_token_s = malloc(options->gen_tokens * sizeof *unused.inter_token_s);
  if (!unused.inter_token_s) return report(BENCH_SYSTEM, "the device is out of memory");
  const int failed = workload_run(options, model, threads, &unused, &facts, read_pss, &pss);
  free(unused.inter_token_s);
  if (failed) return failed;
  printf("%lld %lld %lld\n", (long long)field("/proc/self/status", "VmHWM"), (long long)pss, (long long)baseline);
  return fflush(stdout) == 0 ? 0 : BENCH_SYSTEM;
}

/* --- its parent --- */

/* In the child, between fork and exec: nothing but system calls. */
static void become_child(char *const *argv, int output, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody else would end it */
  if (getppid() != parent) _exit(BENCH_SYSTEM);
  if (dup2(output, STDOUT_FILENO) < 0 || sigprocmask(SIG_SETMASK, &none, NULL) != 0) _exit(BENCH_SYSTEM);
  execv("/proc/self/exe", argv);
  _exit(CANNOT_EXECUTE);
}

/* All that comes until the other end is closed, as far as there is room. */
static void read_all(int file, char *out, size_t size) {
  size_t length = 0;
  ssize_t got;
  while (length < size - 1 && ((got = read(file, out + length, size - 1 - length)) > 0 || (got < 0 && errno == EINTR)))
    length += got > 0 ? (size_t)got : 0;
  out[length] = 0;
}

static void judge(int status, const char *output, memory_facts *out) {
  long long peak, pss, baseline;
  if (WIFSIGNALED(status)) {
    snprintf(out->reason, sizeof out->reason, "its process was ended by signal %d%s", WTERMSIG(status),
             WTERMSIG(status) == SIGKILL ? ", as a device does that is out of memory" : "");
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_EXECUTE) {
    snprintf(out->reason, sizeof out->reason, "the system does not let this program run itself, as under qemu-user");
  } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    snprintf(out->reason, sizeof out->reason, "its process ended with %d; the log may say why", WEXITSTATUS(status));
  } else if (sscanf(output, "%lld %lld %lld", &peak, &pss, &baseline) != 3 || peak <= 0 || baseline <= 0) {
    snprintf(out->reason, sizeof out->reason, "the system does not tell a process's largest resident set");
  } else {
    *out = (memory_facts){.peak_bytes = peak, .pss_bytes = pss, .baseline_bytes = baseline};
  }
}

void memory_measure(const run_options *options, int model, memory_facts *out) {
  char number[8], output[128];
  int ends[2], status = 0;
  *out = (memory_facts){.peak_bytes = -1, .pss_bytes = -1, .baseline_bytes = -1};
  snprintf(number, sizeof number, "%d", model);
  char **argv = calloc((size_t)options->argc + 5, sizeof *argv);
  if (!argv || pipe2(ends, O_CLOEXEC) != 0) {
    free(argv);
    snprintf(out->reason, sizeof out->reason, "its process could not be started");
    return;
  }
  const char *const first[] = {"edgekit-bench", MEMORY_PASS, number, "--"};
  for (int i = 0; i < 4; i++) argv[i] = (char *)first[i];
  memcpy(argv + 4, options->argv, (size_t)options->argc * sizeof *argv);
  const pid_t parent = getpid(), child = fork();
  if (child == 0) become_child(argv, ends[1], parent);
  close(ends[1]);
  if (child > 0) {
    read_all(ends[0], output, sizeof output);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    judge(status, output, out);
  } else {
    snprintf(out->reason, sizeof out->reason, "its process could not be started");
  }
  close(ends[0]);
  free(argv);
}
