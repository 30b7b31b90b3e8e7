/* Q4_0, Q5_0, Q8_0: value = d * q. */
#include "scale_search.h"

#include "pack.h"

#define nearest_of(low, high)                                                                                          \
  static inline ek_vf nearest_##high(ek_vf a) { return vcode(a, low, high); }
nearest_of(-8, 7) nearest_of(-16, 15) nearest_of(-127, 127) /* not -128: runtimes negate codes */

    static const ek_grid q4_0_grid = {.reach = 0.8f * 8, .ratio = 1.05f, .tries = 28, .both_signs = 1};
static const ek_grid q5_0_grid = {.reach = 0.72f * 16, .ratio = 1.026f, .tries = 48, .both_signs = 1};
static const ek_grid q8_0_grid = {.reach = 0.75f * 127, .ratio = 1.0054f, .tries = 96, .both_signs = 0};

/* The scales of sixteen blocks, and their codes less `zero`. */
EK_INLINE void fit(const ek_batch *batch, ek_nearest *nearest, const ek_grid *grid, int zero, float *scales,
                   uint8_t codes[EK_BATCH][32]) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_vf d = half_scale(batch, lane, 32, nearest, grid), inverse = vratio(vf(1), d);
    vstore(scales + lane, d);
    for (int k = 0; k < 32; k++) put_codes(nearest(vload(&batch->x[k][lane]) * inverse), zero, &codes[lane][k], 32);
  }
}

static void fit_q4_0(const ek_batch *batch, float *scales, uint8_t codes[EK_BATCH][32]) {
  fit(batch, nearest_7, &q4_0_grid, -8, scales, codes);
}

static void fit_q5_0(const ek_batch *batch, float *scales, uint8_t codes[EK_BATCH][32]) {
  fit(batch, nearest_15, &q5_0_grid, -16, scales, codes);
}

static void fit_q8_0(const ek_batch *batch, float *scales, uint8_t codes[EK_BATCH][32]) {
  fit(batch, nearest_127, &q8_0_grid, 0, scales, codes);
}

typedef void fit_fn(const ek_batch *batch, float *scales, uint8_t codes[EK_BATCH][32]);
typedef void pack_fn(float d, const uint8_t *codes, uint8_t *out);

EK_INLINE void encode(const ek_source *source, size_t first, size_t count, uint8_t *out, size_t bytes,
                      fit_fn *fit_batch, pack_fn *pack) {
  ek_batch batch;
  _Alignas(64) float scales[EK_BATCH];
  uint8_t codes[EK_BATCH][32];
  for (size_t i = 0; i < count; i += EK_BATCH) {
    const int here = count - i < EK_BATCH ? (int)(count - i) : EK_BATCH;
    load_batch(source, (first + i) * 32, here, 32, 32, &batch);
    fit_batch(&batch, scales, codes);
    for (int l = 0; l < here; l++) pack(scales[l], codes[l], out + (i + (size_t)l) * bytes);
  }
}

ek_encode_fn EK_ISA_NAME(ek_encode_q4_0), EK_ISA_NAME(ek_encode_q5_0), EK_ISA_NAME(ek_encode_q8_0);

void EK_ISA_NAME(ek_encode_q4_0)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  encode(source, first, count, out, 18, fit_q4_0, pack_q4_0);
}

void EK_ISA_NAME(ek_encode_q5_0)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  encode(source, first, count, out, 22, fit_q5_0, pack_q5_0);
}

void EK_ISA_NAME(ek_encode_q8_0)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  encode(source, first, count, out, 34, fit_q8_0, pack_q8_0);
}
