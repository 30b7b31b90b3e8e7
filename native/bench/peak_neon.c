#include <arm_neon.h>

#define LEVEL neon
#define DOT_NAME "smlal"
#define DOT_MACS 8
#define FLOAT_NAME "fmla"
typedef int8x8_t dot_in;
typedef int16x8_t dot_sum;
static inline dot_sum dot(dot_sum sum, dot_in a, dot_in b) { return vmlal_s8(sum, a, b); }

#include "peak.h"
