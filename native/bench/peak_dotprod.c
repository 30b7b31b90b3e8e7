#include <arm_neon.h>

#define LEVEL dotprod
#define DOT_NAME "sdot"
#define DOT_MACS 16
#define FLOAT_NAME "fmla"
typedef int8x16_t dot_in;
typedef int32x4_t dot_sum;
static inline dot_sum dot(dot_sum sum, dot_in a, dot_in b) { return vdotq_s32(sum, a, b); }

#include "peak.h"
