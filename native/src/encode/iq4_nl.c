/* IQ4_NL: value = d * levels[q], levels uneven. */
#include "scale_search.h"

#include "pack.h"

/* Half way between neighbouring levels, and from each level to the next. */
static const float middle[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
static const float gap[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};

static const ek_grid grid = {.reach = 0.8f * 120, .ratio = 1.06f, .tries = 24, .both_signs = 1};

static inline ek_vf nearest(ek_vf a) {
  ek_vf level = vf(-127);
  for (int i = 0; i < 15; i++) level += (ek_vf)((ek_vi)(a > middle[i]) & (ek_vi)vf(gap[i]));
  return level;
}

static inline ek_vf index_of(ek_vf a) {
  ek_vf index = vf(0);
  for (int i = 0; i < 15; i++) index += (ek_vf)((ek_vi)(a > middle[i]) & (ek_vi)vf(1));
  return index;
}

ek_encode_fn EK_ISA_NAME(ek_encode_iq4_nl);

void EK_ISA_NAME(ek_encode_iq4_nl)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  ek_batch batch;
  _Alignas(64) float scales[EK_BATCH];
  uint8_t codes[EK_BATCH][32];
  for (size_t i = 0; i < count; i += EK_BATCH) {
    const int here = count - i < EK_BATCH ? (int)(count - i) : EK_BATCH;
    load_batch(source, (first + i) * 32, here, 32, 32, &batch);
    for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
      const ek_vf d = half_scale(&batch, lane, 32, nearest, &grid), inverse = vratio(vf(1), d);
      vstore(scales + lane, d);
      for (int k = 0; k < 32; k++) put_codes(index_of(vload(&batch.x[k][lane]) * inverse), 0, &codes[lane][k], 32);
    }
    for (int l = 0; l < here; l++) {
      uint8_t *block = out + (i + (size_t)l) * 18;
      ek_store_u16(block, ek_half_of_float(scales[l]));
      pack_nibbles(codes[l], block + 2);
    }
  }
}
