#include "emulation.h"
#include "system.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* qemu-user answers for /proc/self/exe with the program that it runs; to other names of the same file the kernel
 * answers, with qemu. */
static int runs_under_another_program(void) {
  char told[512], real[512];
  const ssize_t length = readlink("/proc/self/exe", told, sizeof told);
  const ssize_t real_length = readlink("/proc/thread-self/exe", real, sizeof real);
  return length > 0 && real_length > 0 && (length != real_length || memcmp(told, real, (size_t)length) != 0);
}

/* Older qemu-user passes on the cpuinfo of its host. */
static int has_foreign_cpuinfo(void) {
#if defined(__aarch64__)
  char text[64];
  return read_field("/proc/cpuinfo", "vendor_id", text, sizeof text);
#else
  return 0;
#endif
}

/* Whether a hypervisor names itself so in cpuid, of which an emulator is one. */
static int hypervisor_is(const char *wanted) {
#if defined(__x86_64__)
  uint32_t a, b, c, d;
  char name[13] = "";
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 31)) return 0;
  __cpuid(0x40000000, a, b, c, d);
  memcpy(name, &b, 4);
  memcpy(name + 4, &c, 4);
  memcpy(name + 8, &d, 4);
  return strncmp(name, wanted, strlen(wanted)) == 0;
#else
  (void)wanted;
  return 0;
#endif
}

/* Whether a file of texts, each ended by a 0, has this one. */
static int lists(const char *path, const char *text) {
  char all[512];
  const ssize_t length = read_text(path, all, sizeof all);
  return length > 0 && memmem(all, (size_t)length, text, strlen(text)) != NULL;
}

static int is_android_emulator(void) {
  char hardware[64];
  return read_field("/proc/cpuinfo", "Hardware", hardware, sizeof hardware) &&
         (strstr(hardware, "ranchu") || strstr(hardware, "goldfish"));
}

int emulation(const char **why) {
  *why = "this program runs under another one, as in qemu-user: /proc/thread-self/exe is not /proc/self/exe";
  if (runs_under_another_program()) return 1;
  *why = "/proc/cpuinfo is of another architecture than the program, as under qemu-user";
  if (has_foreign_cpuinfo()) return 1;
  *why = "cpuid names TCG, qemu's emulator, as hypervisor";
  if (hypervisor_is("TCGTCGTCGTCG")) return 1;
  *why = "the device tree names qemu's virt machine, linux,dummy-virt";
  if (lists("/proc/device-tree/compatible", "linux,dummy-virt")) return 1;
  *why = "the firmware names QEMU as the machine's vendor";
  if (lists("/sys/class/dmi/id/sys_vendor", "QEMU") && !hypervisor_is("KVM")) return 1;
  *why = "/proc/cpuinfo names the Android emulator";
  if (is_android_emulator()) return 1;
  *why = "/proc cannot be read, which would tell";
  if (access("/proc/self/exe", F_OK) != 0) return -1;
  *why = NULL;
  return 0;
}
