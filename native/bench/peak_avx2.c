#include <immintrin.h>

/* The least that sums products of bytes without VNNI; in 16 bits, which here overflow. */
#define LEVEL avx2
#define DOT_NAME "vpmaddubsw + vpaddw"
#define DOT_MACS 32
#define FLOAT_NAME "fma"
typedef __m256i dot_in, dot_sum;
static inline dot_sum dot(dot_sum sum, dot_in a, dot_in b) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)); }

#include "peak.h"
