#include "cores.h"
#include "report.h"
#include "system.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CPU_FOLDER "/sys/devices/system/cpu"

/* A number below CPU_SETSIZE at *at, which moves behind it; -1: none. */
static int parse_core(const char **at) {
  int core = 0;
  const char *start = *at;
  for (; **at >= '0' && **at <= '9' && core < CPU_SETSIZE; ++*at) core = 10 * core + (**at - '0');
  return *at > start && core < CPU_SETSIZE ? core : -1;
}

int cores_parse(const char *text, cpu_set_t *cores) {
  CPU_ZERO(cores);
  for (;; text++) {
    const int first = parse_core(&text);
    const int last = *text == '-' ? (text++, parse_core(&text)) : first;
    if (first < 0 || last < first) return 0;
    for (int core = first; core <= last; core++) CPU_SET(core, cores);
    if (*text == 0) return 1;
    if (*text != ',') return 0;
  }
}

cpu_set_t cores_listed(const char *folder, const char *name) {
  cpu_set_t cores;
  char path[256], text[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  if (read_text(path, text, sizeof text) > 0 && cores_parse(text, &cores)) return cores;
  const long count = sysconf(_SC_NPROCESSORS_CONF);
  CPU_ZERO(&cores);
  for (int core = 0; core < count && core < CPU_SETSIZE; core++) CPU_SET(core, &cores);
  return cores;
}

int64_t core_capacity(const char *folder, int core) {
  char path[256];
  int64_t capacity;
  snprintf(path, sizeof path, "%s/cpu%d/cpu_capacity", folder, core);
  return read_integer(path, &capacity) && capacity > 0 ? capacity : -1;
}

cpu_set_t cores_big(const char *folder, const cpu_set_t *cores) {
  cpu_set_t big = *cores;
  int64_t largest = -1;
  for (int core = 0; core < CPU_SETSIZE; core++) {
    const int64_t capacity = CPU_ISSET(core, cores) ? core_capacity(folder, core) : -1;
    if (capacity > largest) largest = capacity;
  }
  for (int core = 0; core < CPU_SETSIZE; core++) {
    const int64_t capacity = CPU_ISSET(core, cores) ? core_capacity(folder, core) : -1;
    if (capacity >= 0 && capacity < largest - capacity) CPU_CLR(core, &big);
  }
  return big;
}

int cores_use(const char *asked) {
  cpu_set_t allowed, wanted, got;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
    return report(BENCH_SYSTEM, "the cores that may be used cannot be read (%s)", strerror(errno));
  const int is_list = strcmp(asked, "big") != 0 && strcmp(asked, "all") != 0;
  if (is_list) {
    (void)cores_parse(asked, &wanted);
  } else {
    wanted = asked[0] == 'b' ? cores_big(CPU_FOLDER, &allowed) : allowed;
  }
  CPU_ZERO(&got);
  const int failed = sched_setaffinity(0, sizeof wanted, &wanted) != 0;
  /* what is offline or forbidden the system leaves out without a word */
  if (failed || sched_getaffinity(0, sizeof got, &got) != 0 || !CPU_EQUAL(&got, &wanted))
    return report(BENCH_USAGE,
                  "--cores %s: the system does not give all of these cores to this process: ask for big, "
                  "all, or others",
                  asked);
  return 0;
}

int cores_read_back(pid_t except, cpu_set_t *cores) {
  DIR *tasks = opendir("/proc/self/task");
  int told = 0;
  for (const struct dirent *task; tasks && (task = readdir(tasks));) {
    cpu_set_t one;
    const pid_t thread = (pid_t)atol(task->d_name);
    if (thread <= 0 || thread == except || sched_getaffinity(thread, sizeof one, &one) != 0) continue;
    CPU_OR(cores, cores, &one);
    told = 1;
  }
  if (tasks) closedir(tasks);
  return told;
}
