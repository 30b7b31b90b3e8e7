#include <immintrin.h>

#define LEVEL avx512vnni
#define DOT_NAME "vpdpbusd"
#define DOT_MACS 64
#define FLOAT_NAME "fma"
typedef __m512i dot_in, dot_sum;
static inline dot_sum dot(dot_sum sum, dot_in a, dot_in b) { return _mm512_dpbusd_epi32(sum, a, b); }

#include "peak.h"
