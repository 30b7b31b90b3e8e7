/* Q4_1, Q5_1: value = d * q + m. */
#include "affine_search.h"

#include "pack.h"

enum { REFITS = 3, STORED_REFITS = 2 };

static const ek_ends q4_1_ends = {.first = -0.07f, .step = 0.0267f, .ends = 10, .top = 15};
static const ek_ends q5_1_ends = {.first = -0.07f, .step = 0.019f, .ends = 12, .top = 31};

typedef struct found {
  _Alignas(64) float d[EK_BATCH], m[EK_BATCH];
  uint8_t codes[EK_BATCH][32];
} found;

/* fp16 d and m of EK_WIDTH blocks. */
EK_INLINE ek_affine half_affine(const ek_batch *batch, int lane, const ek_ends *ends) {
  const float top = ends->top;
  const ek_group group = group_of(batch, lane);
  ek_affine a = coarse_affine(batch, lane, &group, ends, 0);
  for (int t = 0; t < REFITS; t++) {
    const ek_left left = affine_left(batch, lane, top, a);
    a = affine_fit(&group, &left, a, 0);
  }
  ek_affine best = {vf(0), vhalf(-group.mean)};
  ek_vf least = affine_left(batch, lane, top, best).error;
  for (int t = 0; t <= STORED_REFITS; t++) {
    a.d = vhalf(a.d);
    a.m = vhalf(a.m);
    ek_left left = affine_left(batch, lane, top, a);
    const ek_affine fit = affine_fit(&group, &left, a, 0);
    for (int again = 0; again < 2; again++) { /* then with the best m for d as stored */
      if (again) {
        a.m = vhalf(a.m - left.e / group.total);
        left = affine_left(batch, lane, top, a);
      }
      const ek_vi better = left.error < least;
      least = vselect(better, left.error, least);
      best.d = vselect(better, a.d, best.d);
      best.m = vselect(better, a.m, best.m);
    }
    a = fit;
  }
  return best;
}

EK_INLINE void fit_batch(const ek_batch *batch, const ek_ends *ends, found *f) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_affine a = half_affine(batch, lane, ends);
    const ek_vf inverse = vratio(vf(1), a.d);
    vstore(f->d + lane, a.d);
    vstore(f->m + lane, a.m);
    for (int k = 0; k < 32; k++) {
      put_codes(vcode((vload(&batch->x[k][lane]) + a.m) * inverse, 0, ends->top), 0, &f->codes[lane][k], 32);
    }
  }
}

ek_encode_fn EK_ISA_NAME(ek_encode_q4_1), EK_ISA_NAME(ek_encode_q5_1);

void EK_ISA_NAME(ek_encode_q4_1)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  ek_batch batch;
  found f;
  for (size_t i = 0; i < count; i += EK_BATCH) {
    const int here = count - i < EK_BATCH ? (int)(count - i) : EK_BATCH;
    load_batch(source, (first + i) * 32, here, 32, 32, &batch);
    fit_batch(&batch, &q4_1_ends, &f);
    for (int l = 0; l < here; l++) pack_q4_1(f.d[l], -f.m[l], f.codes[l], out + (i + (size_t)l) * 20);
  }
}

void EK_ISA_NAME(ek_encode_q5_1)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  ek_batch batch;
  found f;
  for (size_t i = 0; i < count; i += EK_BATCH) {
    const int here = count - i < EK_BATCH ? (int)(count - i) : EK_BATCH;
    load_batch(source, (first + i) * 32, here, 32, 32, &batch);
    fit_batch(&batch, &q5_1_ends, &f);
    for (int l = 0; l < here; l++) pack_q5_1(f.d[l], -f.m[l], f.codes[l], out + (i + (size_t)l) * 24);
  }
}
