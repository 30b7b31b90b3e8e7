#include "probe.h"
#include "cores.h"
#include "emulation.h"
#include "reasons.h"
#include "system.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define CPU_FOLDER "/sys/devices/system/cpu"

static int any_text(const char *const *paths, char *out, size_t size) {
  for (; *paths; paths++) {
    if (read_text(*paths, out, size) > 0) return 1;
  }
  return 0;
}

static void write_model(json *j, reasons *r) {
  static const char *const paths[] = {"/proc/device-tree/model", "/sys/class/dmi/id/product_name", NULL};
  char model[256];
  if (any_text(paths, model, sizeof model)) {
    json_text(j, "model", model);
  } else {
    json_null(j, "model");
    reasons_add(r, "model", "there is neither a device tree's model nor a product name of the firmware");
  }
}

/* --- the processor --- */

/* ARM's /proc/cpuinfo has numbers of its designs: "0x41 0xd05, 0x41 0xd0a". */
static int designs(char *out, size_t size) {
  char line[256], maker[32] = "", design[72];
  FILE *file = fopen("/proc/cpuinfo", "re");
  *out = 0;
  while (file && fgets(line, sizeof line, file)) {
    char value[32];
    if (sscanf(line, "CPU implementer : %31s", value) == 1) memcpy(maker, value, sizeof maker);
    if (sscanf(line, "CPU part : %31s", value) != 1) continue;
    snprintf(design, sizeof design, "%s %s", maker, value);
    if (strstr(out, design) || strlen(out) + strlen(design) + 3 > size) continue;
    if (*out) strcat(out, ", ");
    strcat(out, design);
  }
  if (file) fclose(file);
  return *out != 0;
}

static void write_processor(json *j, reasons *r) {
  char name[256];
  if (read_field("/proc/cpuinfo", "model name", name, sizeof name) ||
      read_field("/proc/cpuinfo", "Hardware", name, sizeof name) || designs(name, sizeof name)) {
    json_text(j, "cpu", name);
  } else {
    json_null(j, "cpu");
    reasons_add(r, "cpu", "/proc/cpuinfo names no processor");
  }
}

/* The architecture, and those extensions that kernels choose between. */
static void write_isa(json *j, const char *machine) {
  json_array(j, "isa");
  json_text(j, NULL, machine);
#if defined(__aarch64__)
  /* the kernel's arch/arm64/include/uapi/asm/hwcap.h, which older libcs know in part */
  enum { ASIMDHP = 1 << 10, ASIMDDP = 1 << 20, I8MM = 1 << 13 /* in AT_HWCAP2 */ };
  if (getauxval(AT_HWCAP) & ASIMDDP) json_text(j, NULL, "dotprod");
  if (getauxval(AT_HWCAP) & ASIMDHP) json_text(j, NULL, "fp16");
  if (getauxval(AT_HWCAP2) & I8MM) json_text(j, NULL, "i8mm");
#else
  static const char *const known[][2] = {
      {"avx2", "avx2"}, {"avx_vnni", "avx-vnni"}, {"avx512_vnni", "avx512-vnni"}, {"avx512_bf16", "avx512-bf16"}};
  char flags[8192] = "", flag[32];
  if (read_field("/proc/cpuinfo", "flags", flags + 1, sizeof flags - 2)) flags[0] = ' ', strcat(flags, " ");
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    snprintf(flag, sizeof flag, " %s ", known[i][0]);
    if (strstr(flags, flag)) json_text(j, NULL, known[i][1]);
  }
#endif
  json_end_array(j);
}

static void write_cores(json *j, reasons *r) {
  const cpu_set_t present = cores_listed(CPU_FOLDER, "present"), online = cores_listed(CPU_FOLDER, "online");
  const cpu_set_t big = cores_big(CPU_FOLDER, &present);
  json_array(j, "cores");
  for (int core = 0; core < CPU_SETSIZE; core++) {
    if (!CPU_ISSET(core, &present)) continue;
    char path[128];
    int64_t khz = 0;
    snprintf(path, sizeof path, CPU_FOLDER "/cpu%d/cpufreq/cpuinfo_max_freq", core);
    const int has_clock = read_integer(path, &khz);
    const int64_t capacity = core_capacity(CPU_FOLDER, core);
    json_object(j, NULL);
    json_integer(j, "cpu", core);
    json_count(j, "max_hz", has_clock ? khz * 1000 : -1);
    json_count(j, "capacity", capacity);
    json_bool(j, "big", CPU_ISSET(core, &big));
    json_end_object(j);
    if (!has_clock) reasons_add(r, "max_hz", "there is no cpufreq/cpuinfo_max_freq in " CPU_FOLDER);
    if (capacity < 0) reasons_add(r, "capacity", "there is no cpu_capacity in " CPU_FOLDER);
  }
  json_end_array(j);
  json_integer(j, "online", CPU_COUNT(&online));
}

/* --- memory and disk --- */

static void write_memory(json *j, reasons *r) {
  int64_t available = 0;
  json_integer(j, "ram_bytes", (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
  const int is_known = read_field_bytes("/proc/meminfo", "MemAvailable", &available);
  json_count(j, "available_bytes", is_known ? available : -1);
  if (!is_known) reasons_add(r, "available_bytes", "/proc/meminfo has no MemAvailable");
  json_integer(j, "page_bytes", sysconf(_SC_PAGESIZE));
}

/* Of the folder, or the nearest above it that is there. */
static int free_bytes(const char *folder, int64_t *bytes) {
  char path[4096];
  struct statvfs system;
  if ((size_t)snprintf(path, sizeof path, "%s", *folder ? folder : ".") >= sizeof path) return 0;
  while (statvfs(path, &system) != 0) {
    char *slash = strrchr(path, '/');
    if (errno != ENOENT || strcmp(path, "/") == 0 || strcmp(path, ".") == 0) return 0;
    if (!slash) {
      strcpy(path, "."); /* paths begin with at least one letter */
    } else {
      slash[slash == path] = 0;
    }
  }
  *bytes = (int64_t)system.f_bavail * (int64_t)system.f_frsize;
  return 1;
}

static void write_disk(json *j, const char *folder, reasons *r) {
  int64_t bytes = 0;
  const int is_known = free_bytes(folder, &bytes);
  json_count(j, "disk_free_bytes", is_known ? bytes : -1);
  if (!is_known) reasons_add(r, "disk_free_bytes", "%.100s: %s", folder, strerror(errno));
}

void probe_write(json *j, const char *key, const char *folder) {
  struct utsname name;
  const char *why;
  reasons r = {.count = 0};
  uname(&name);
  json_object(j, key);
  json_integer(j, "protocol", PROTOCOL);
  write_model(j, &r);
  write_processor(j, &r);
  write_isa(j, name.machine);
  write_cores(j, &r);
  write_memory(j, &r);
  json_text(j, "os", name.sysname);
  json_text(j, "kernel", name.release);
  json_text(j, "machine", name.machine);
  const int emulated = emulation(&why);
  if (emulated < 0) {
    json_null(j, "emulated");
  } else {
    json_bool(j, "emulated", emulated);
  }
  json_text(j, "emulated_why", why);
  write_disk(j, folder, &r);
  reasons_write(&r, j, "reasons");
  json_end_object(j);
}
