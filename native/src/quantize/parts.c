#include "parts.h"

#include "../encode/pack.h"

#include <string.h>

int ek_layout_of(const ek_format *format, ek_layout *layout) {
  if (!format->unpack) return 0;
  *layout =
      (ek_layout){.format = format, .high = 15, .scale_low = 1, .scale_high = 1, .minimum_low = 1, .minimum_high = 1};
  switch ((enum ek_type)(format - ek_formats)) {
  case EK_TYPE_q8_0: /* not -128: runtimes negate codes */
    layout->low = -127;
    layout->high = 127;
    break;
  case EK_TYPE_q4_0:
    layout->low = -8;
    layout->high = 7;
    break;
  case EK_TYPE_q5_0:
    layout->low = -16;
    layout->high = 15;
    break;
  case EK_TYPE_q5_1:
    layout->high = 31;
    break;
  case EK_TYPE_q5_k:
    layout->high = 31; /* fall through */
  case EK_TYPE_q4_k:
    layout->scale_low = layout->minimum_low = 0;
    layout->scale_high = layout->minimum_high = 63;
    break;
  case EK_TYPE_q6_k:
    layout->low = -32;
    layout->high = 31;
    layout->scale_low = -128;
    layout->scale_high = 127;
    break;
  default:;
  }
  return 1;
}

void ek_take_apart(const ek_layout *layout, const uint8_t *block, ek_stored *stored) {
  const ek_format *format = layout->format;
  ek_parts parts;
  format->unpack(block, &parts);
  memcpy(stored->codes, parts.codes, (size_t)format->block);
  stored->d = parts.scales[0];
  stored->dmin = format->has_minima ? parts.minima[0] : 0;
  memset(stored->scale, 1, sizeof stored->scale);
  memset(stored->minimum, 1, sizeof stored->minimum);
  switch ((enum ek_type)(format - ek_formats)) {
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
    stored->d = ek_float_of_half(ek_load_u16(block));
    stored->dmin = ek_float_of_half(ek_load_u16(block + 2));
    for (int j = 0; j < 8; j++) {
      uint8_t scale, minimum;
      ek_k_scale(block + 4, j, &scale, &minimum);
      stored->scale[j] = (int8_t)scale;
      stored->minimum[j] = (int8_t)minimum;
    }
    break;
  case EK_TYPE_q6_k:
    stored->d = ek_float_of_half(ek_load_u16(block + 208));
    memcpy(stored->scale, block + 192, 16);
    break;
  default:;
  }
}

void ek_put_together(const ek_layout *layout, const ek_stored *stored, uint8_t *block) {
  const ek_format *format = layout->format;
  const int zero = layout->low == -127 ? 0 : layout->low; /* Q8_0 stores its codes as they are */
  uint8_t codes[EK_SUPERBLOCK], scale[8], minimum[8];
  for (int k = 0; k < format->block; k++) codes[k] = (uint8_t)(stored->codes[k] - zero);
  memcpy(scale, stored->scale, sizeof scale);
  memcpy(minimum, stored->minimum, sizeof minimum);
  switch ((enum ek_type)(format - ek_formats)) {
  case EK_TYPE_q8_0:
    pack_q8_0(stored->d, codes, block);
    break;
  case EK_TYPE_q4_0:
  case EK_TYPE_iq4_nl:
    pack_q4_0(stored->d, codes, block);
    break;
  case EK_TYPE_q4_1:
    pack_q4_1(stored->d, -stored->dmin, codes, block);
    break;
  case EK_TYPE_q5_0:
    pack_q5_0(stored->d, codes, block);
    break;
  case EK_TYPE_q5_1:
    pack_q5_1(stored->d, -stored->dmin, codes, block);
    break;
  case EK_TYPE_q4_k:
    pack_k_scales(stored->d, stored->dmin, scale, minimum, block);
    pack_k_nibbles(codes, block + 16);
    break;
  case EK_TYPE_q5_k:
    pack_k_scales(stored->d, stored->dmin, scale, minimum, block);
    pack_k_fifth_bits(codes, block + 16);
    pack_k_nibbles(codes, block + 48);
    break;
  case EK_TYPE_q6_k:
    pack_q6_k(stored->d, stored->scale, codes, block);
    break;
  default:; /* the float formats have no layout */
  }
}
