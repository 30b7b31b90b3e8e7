/* Which encoder: one row per format, one column per instruction set that its file was compiled for. */
#include "encode.h"

#include <string.h>

#if EK_X86
#include "x86_features.h"
#endif

#define FORMATS(row)                                                                                                   \
  row(f32) row(f16) row(bf16) row(q8_0) row(q4_0) row(q4_1) row(q5_0) row(q5_1) row(iq4_nl) row(q4_k) row(q5_k)        \
      row(q6_k)

#if EK_X86
#define DECLARE(name) ek_encode_fn ek_encode_##name##_base, ek_encode_##name##_avx2, ek_encode_##name##_avx512;
#define ROW(name) {#name, {ek_encode_##name##_base, ek_encode_##name##_avx2, ek_encode_##name##_avx512}},
#else
#define DECLARE(name) ek_encode_fn ek_encode_##name##_base;
#define ROW(name) {#name, {ek_encode_##name##_base}},
#endif

FORMATS(DECLARE)

static const struct {
  const char *name;
  ek_encode_fn *encoders[3];
} rows[] = {FORMATS(ROW)};

int ek_isa_levels(void) {
#if EK_X86
  const x86_features here = x86_features_here();
  return here.avx512 ? 3 : here.avx2 ? 2 : 1;
#else
  return 1;
#endif
}

ek_encode_fn *ek_encoder_find(const char *format_name, int level) {
  if (level < 0 || level >= ek_isa_levels()) level = ek_isa_levels() - 1;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (strcmp(rows[i].name, format_name) == 0) return rows[i].encoders[level];
  }
  return NULL;
}
