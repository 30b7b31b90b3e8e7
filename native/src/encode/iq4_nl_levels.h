/* The uneven levels of IQ4_NL, in lanes. */
#ifndef EK_IQ4_NL_LEVELS_H
#define EK_IQ4_NL_LEVELS_H

#include "lanes.h"

/* Half way between neighbouring levels, and from each level to the next. */
static const float iq4_nl_middle[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
                                        7,       19,     31.5f, 45.5f, 61,  79,     101};
static const float iq4_nl_gap[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};

/* The level nearest to a; the lowest for a NaN. */
static inline ek_vf iq4_nl_nearest(ek_vf a) {
  ek_vf level = vf(-127);
  for (int i = 0; i < 15; i++) level += (ek_vf)((ek_vi)(a > iq4_nl_middle[i]) & (ek_vi)vf(iq4_nl_gap[i]));
  return level;
}

/* Its index. */
static inline ek_vf iq4_nl_index(ek_vf a) {
  ek_vf index = vf(0);
  for (int i = 0; i < 15; i++) index += (ek_vf)((ek_vi)(a > iq4_nl_middle[i]) & (ek_vi)vf(1));
  return index;
}

#endif
