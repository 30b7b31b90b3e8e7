/* F32, F16, BF16: one weight a block; importance does not matter. */
#include "lanes.h"

#include "encode.h"

#include "../half.h"

ek_encode_fn EK_ISA_NAME(ek_encode_f32), EK_ISA_NAME(ek_encode_f16), EK_ISA_NAME(ek_encode_bf16);

void EK_ISA_NAME(ek_encode_f32)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  for (size_t i = 0; i < count; i++) {
    const uint32_t bits = ek_bits_of_float(source->values[first + i]);
    for (int byte = 0; byte < 4; byte++) out[4 * i + (size_t)byte] = (uint8_t)(bits >> 8 * byte);
  }
}

void EK_ISA_NAME(ek_encode_f16)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  for (size_t i = 0; i < count; i++) ek_store_u16(out + 2 * i, ek_half_of_float(source->values[first + i]));
}

void EK_ISA_NAME(ek_encode_bf16)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  for (size_t i = 0; i < count; i++) ek_store_u16(out + 2 * i, ek_bfloat_of_float(source->values[first + i]));
}
