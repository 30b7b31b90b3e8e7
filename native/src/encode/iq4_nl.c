/* IQ4_NL: value = d * levels[q], levels uneven. */
#include "scale_search.h"

#include "iq4_nl_levels.h"
#include "pack.h"

static const ek_grid grid = {.reach = 0.8f * 120, .ratio = 1.06f, .tries = 24, .both_signs = 1};

ek_encode_fn EK_ISA_NAME(ek_encode_iq4_nl);

void EK_ISA_NAME(ek_encode_iq4_nl)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  ek_batch batch;
  _Alignas(64) float scales[EK_BATCH];
  uint8_t codes[EK_BATCH][32];
  for (size_t i = 0; i < count; i += EK_BATCH) {
    const int here = count - i < EK_BATCH ? (int)(count - i) : EK_BATCH;
    load_batch(source, (first + i) * 32, here, 32, 32, &batch);
    for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
      const ek_vf d = half_scale(&batch, lane, 32, iq4_nl_nearest, &grid), inverse = vratio(vf(1), d);
      vstore(scales + lane, d);
      for (int k = 0; k < 32; k++) put_codes(iq4_nl_index(vload(&batch.x[k][lane]) * inverse), 0, &codes[lane][k], 32);
    }
    for (int l = 0; l < here; l++) pack_q4_0(scales[l], codes[l], out + (i + (size_t)l) * 18);
  }
}
