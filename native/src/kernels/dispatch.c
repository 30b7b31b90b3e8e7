/* Which kernels this machine runs. */
#include "kernels.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include "x86_features.h"
#endif

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
/* The kernel's arch/arm64/include/uapi/asm/hwcap.h, which older libcs know in part. */
enum { HAS_ASIMDHP = 1 << 10, HAS_ASIMDDP = 1 << 20, HAS_I8MM = 1 << 13 /* in AT_HWCAP2 */ };
#endif

static const char *const names[EK_LEVELS] = {
    [EK_LEVEL_scalar] = "scalar", [EK_LEVEL_avx2] = "avx2",       [EK_LEVEL_avx512vnni] = "avx512vnni",
    [EK_LEVEL_neon] = "neon",     [EK_LEVEL_dotprod] = "dotprod", [EK_LEVEL_i8mm] = "i8mm",
};

const char *ek_level_name(ek_level level) { return names[level]; }

ek_level ek_level_named(const char *name) {
  int level = 0;
  while (level < EK_LEVELS && strcmp(names[level], name) != 0) level++;
  return (ek_level)level;
}

int ek_level_interleave(ek_level level) { return level == EK_LEVEL_neon ? 16 : 4; }

#if defined(__x86_64__)
int ek_level_supported(ek_level level) {
  const x86_features here = x86_features_here();
  switch (level) {
  case EK_LEVEL_scalar:
    return 1;
  case EK_LEVEL_avx2:
    return here.avx2;
  case EK_LEVEL_avx512vnni:
    return here.vnni;
  default:
    return 0;
  }
}
#elif defined(__aarch64__)
int ek_level_supported(ek_level level) {
#if defined(__linux__)
  const unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
  const int dotprod = (caps & HAS_ASIMDDP) && (caps & HAS_ASIMDHP), i8mm = dotprod && (caps2 & HAS_I8MM);
#else /* elsewhere, what the compiler was told to expect */
#if defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
  const int dotprod = 1;
#else
  const int dotprod = 0;
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
  const int i8mm = dotprod;
#else
  const int i8mm = 0;
#endif
#endif
  switch (level) {
  case EK_LEVEL_scalar:
  case EK_LEVEL_neon:
    return 1;
  case EK_LEVEL_dotprod:
    return dotprod;
  case EK_LEVEL_i8mm:
    return i8mm;
  default:
    return 0;
  }
}
#else
int ek_level_supported(ek_level level) { return level == EK_LEVEL_scalar; }
#endif

/* On one machine the levels imply one another in their order, but a kernel that reads packed codes works only for those
 * levels that pack like its own: scalar ones pack like all but neon's. */
static int implies(ek_level level, ek_level other, int packed) {
  return other <= level && (!packed || ek_level_interleave(other) == ek_level_interleave(level));
}

/* The operations on packed codes come first in EK_OPERATIONS; the float types, first in ek_type, have no codes. */
#define PACKED(op, type) (offsetof(ek_kernels, op) < offsetof(ek_kernels, online_softmax) && (type) > EK_TYPE_bf16)

static void fill(ek_kernels *kernels) {
#define EK_KERNEL(op, type, level_)                                                                                    \
  if (!kernels->op[EK_TYPE_##type] && implies(kernels->level, EK_LEVEL_##level_, PACKED(op, EK_TYPE_##type))) {        \
    kernels->op[EK_TYPE_##type] = ek_##op##_##type##_##level_;                                                         \
  }
#include "kernels.inc"
#undef EK_KERNEL
}

ek_kernels ek_kernels_of(ek_level level) {
  ek_kernels kernels = {.level = level, .interleave = ek_level_interleave(level)};
  fill(&kernels);
  return kernels;
}

static ek_kernels here;
static int have_here;

static void fill_here(void) {
  const char *wanted = getenv("EDGEKIT_ISA");
  ek_level level = EK_LEVEL_scalar;
  if (wanted && *wanted) {
    level = ek_level_named(wanted);
    if (level == EK_LEVELS || !ek_level_supported(level)) return;
  } else {
    for (int l = 0; l < EK_LEVELS; l++) {
      if (ek_level_supported((ek_level)l)) level = (ek_level)l;
    }
  }
  here = ek_kernels_of(level);
  have_here = 1;
}

const ek_kernels *ek_kernels_here(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, fill_here);
  return have_here ? &here : NULL;
}

size_t ek_activation_group(enum ek_type type) {
  switch (type) {
  case EK_TYPE_f32:
  case EK_TYPE_f16:
  case EK_TYPE_bf16:
    return 0;
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
  case EK_TYPE_q6_k:
    return 256;
  default:
    return 32;
  }
}
