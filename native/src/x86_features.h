/* What an x86 processor and the system allow, asked of the processor itself: __builtin_cpu_supports takes the answer of
 * the compiler's run-time library, and zig's says no to everything. */
#pragma once
#include <cpuid.h>
#include <stdint.h>

typedef struct x86_features {
  int avx2;   /* with FMA and F16C */
  int avx512; /* F, BW, DQ and VL, and AVX2 */
  int vnni;   /* AVX512-VNNI, and the rest */
} x86_features;

/* The registers that the system saves, which is what makes an instruction set usable: XCR0. */
static inline uint64_t x86_saved(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

static inline x86_features x86_features_here(void) {
  enum { FMA = 1 << 12, OSXSAVE = 1 << 27, F16C = 1 << 29 };                         /* leaf 1, ECX */
  enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* leaf 7, EBX */
  enum { AVX512VNNI = 1 << 11 };                                                     /* leaf 7, ECX */
  enum { YMM = 0x6, ZMM = 0xe6 };                                                    /* XCR0 */
  const unsigned avx512vl = 1u << 31;                                                /* leaf 7, EBX */
  const unsigned first = FMA | F16C | OSXSAVE, wide = AVX512F | AVX512DQ | AVX512BW | avx512vl;
  x86_features here = {0};
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & first) != first) return here;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return here;
  const uint64_t saved = x86_saved();
  here.avx2 = (saved & YMM) == YMM && (b & AVX2);
  here.avx512 = here.avx2 && (saved & ZMM) == ZMM && (b & wide) == wide;
  here.vnni = here.avx512 && (c & AVX512VNNI);
  return here;
}
