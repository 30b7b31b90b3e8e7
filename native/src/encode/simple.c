/* First version: round to nearest with plain scales. */
#include "encode.h"

#include "../half.h"

#include <math.h>
#include <string.h>

static uint16_t scale_bits(float v) {
  if (!(v == v)) v = 0;
  if (v > 65504.f) v = 65504.f;
  if (v < -65504.f) v = -65504.f;
  return ek_half_of_float(v);
}
static int code(float v, int lo, int hi) {
  if (!(v > (float)lo)) return lo;
  if (v > (float)hi) return hi;
  return (int)nearbyintf(v);
}
static float extreme(const float *x, int n) {
  float m = 0;
  for (int i = 0; i < n; i++) if (fabsf(x[i]) > fabsf(m)) m = x[i];
  return m;
}
static void range(const float *x, int n, float *lo, float *hi) {
  *lo = *hi = x[0];
  for (int i = 1; i < n; i++) {
    if (x[i] < *lo) *lo = x[i];
    if (x[i] > *hi) *hi = x[i];
  }
}
static void nib(const uint8_t *q, uint8_t *out) {
  for (int j = 0; j < 16; j++) out[j] = (uint8_t)((q[j] & 15) | (q[j + 16] & 15) << 4);
}
static void fifth(const uint8_t *q, uint8_t *out) {
  memset(out, 0, 4);
  for (int j = 0; j < 32; j++) out[j / 8] |= (uint8_t)((q[j] >> 4) << j % 8);
}
static void sym(const float *x, uint8_t *out, int half, int bytes_to_codes, int five) {
  uint8_t q[32];
  const uint16_t h = scale_bits(extreme(x, 32) / (float)-half);
  const float d = ek_float_of_half(h), id = d != 0 ? 1 / d : 0;
  for (int j = 0; j < 32; j++) q[j] = (uint8_t)(code(x[j] * id, -half, half - 1) + half);
  ek_store_u16(out, h);
  nib(q, out + bytes_to_codes);
  if (five) fifth(q, out + 2);
}
static void aff(const float *x, uint8_t *out, int top, int bytes_to_codes, int five) {
  uint8_t q[32];
  float lo, hi;
  range(x, 32, &lo, &hi);
  const uint16_t h = scale_bits((hi - lo) / (float)top), hm = scale_bits(lo);
  const float d = ek_float_of_half(h), id = d != 0 ? 1 / d : 0, m = ek_float_of_half(hm);
  for (int j = 0; j < 32; j++) q[j] = (uint8_t)code((x[j] - m) * id, 0, top);
  ek_store_u16(out, h);
  ek_store_u16(out + 2, hm);
  nib(q, out + bytes_to_codes);
  if (five) fifth(q, out + 4);
}
static void b_q4_0(const float *x, uint8_t *o) { sym(x, o, 8, 2, 0); }
static void b_q5_0(const float *x, uint8_t *o) { sym(x, o, 16, 6, 1); }
static void b_q4_1(const float *x, uint8_t *o) { aff(x, o, 15, 4, 0); }
static void b_q5_1(const float *x, uint8_t *o) { aff(x, o, 31, 8, 1); }
static void b_q8_0(const float *x, uint8_t *o) {
  const uint16_t h = scale_bits(fabsf(extreme(x, 32)) / 127.f);
  const float d = ek_float_of_half(h), id = d != 0 ? 1 / d : 0;
  ek_store_u16(o, h);
  for (int j = 0; j < 32; j++) o[2 + j] = (uint8_t)code(x[j] * id, -127, 127);
}
static void b_iq4_nl(const float *x, uint8_t *o) {
  const float *levels = ek_format_find("iq4_nl")->levels;
  uint8_t q[32];
  const uint16_t h = scale_bits(extreme(x, 32) / -127.f);
  const float d = ek_float_of_half(h), id = d != 0 ? 1 / d : 0;
  for (int j = 0; j < 32; j++) {
    int best = 0;
    for (int l = 1; l < 16; l++) if (fabsf(x[j] * id - levels[l]) < fabsf(x[j] * id - levels[best])) best = l;
    q[j] = (uint8_t)best;
  }
  ek_store_u16(o, h);
  nib(q, o + 2);
}
static void kaff(const float *x, uint8_t *o, int top) {
  float s[8], m[8], smax = 0, mmax = 0;
  uint8_t q[256], sc[8], mn[8];
  for (int g = 0; g < 8; g++) {
    float lo, hi;
    range(x + 32 * g, 32, &lo, &hi);
    if (lo > 0) lo = 0;
    s[g] = (hi - lo) / (float)top;
    m[g] = -lo;
    if (s[g] > smax) smax = s[g];
    if (m[g] > mmax) mmax = m[g];
  }
  const uint16_t h = scale_bits(smax / 63), hm = scale_bits(mmax / 63);
  const float d = ek_float_of_half(h), dm = ek_float_of_half(hm);
  for (int g = 0; g < 8; g++) {
    sc[g] = (uint8_t)code(d != 0 ? s[g] / d : 0, 0, 63);
    mn[g] = (uint8_t)code(dm != 0 ? m[g] / dm : 0, 0, 63);
    const float dd = d * sc[g], mm = dm * mn[g], id = dd != 0 ? 1 / dd : 0;
    for (int k = 0; k < 32; k++) q[32 * g + k] = (uint8_t)code((x[32 * g + k] + mm) * id, 0, top);
  }
  ek_store_u16(o, h);
  ek_store_u16(o + 2, hm);
  for (int j = 0; j < 4; j++) {
    o[4 + j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
    o[8 + j] = (uint8_t)(mn[j] | mn[j + 4] >> 4 << 6);
    o[12 + j] = (uint8_t)((sc[j + 4] & 15) | mn[j + 4] << 4);
  }
  uint8_t *qs = o + 16;
  if (top == 31) {
    memset(qs, 0, 32);
    for (int k = 0; k < 256; k++) qs[k % 32] |= (uint8_t)((q[k] >> 4) << k / 32);
    qs += 32;
  }
  for (int r = 0; r < 4; r++)
    for (int j = 0; j < 32; j++) qs[32 * r + j] = (uint8_t)((q[64 * r + j] & 15) | q[64 * r + 32 + j] << 4);
}
static void b_q4_k(const float *x, uint8_t *o) { kaff(x, o, 15); }
static void b_q5_k(const float *x, uint8_t *o) { kaff(x, o, 31); }
static void b_q6_k(const float *x, uint8_t *o) {
  float s[16], smax = 0;
  for (int g = 0; g < 16; g++) {
    s[g] = extreme(x + 16 * g, 16) / -32.f;
    if (fabsf(s[g]) > fabsf(smax)) smax = s[g];
  }
  const uint16_t h = scale_bits(smax / -128.f);
  const float d = ek_float_of_half(h);
  memset(o, 0, 192);
  for (int g = 0; g < 16; g++) {
    const int sc = code(d != 0 ? s[g] / d : 0, -128, 127);
    const float dd = d * (float)sc, id = dd != 0 ? 1 / dd : 0;
    o[192 + g] = (uint8_t)sc;
    for (int i = 0; i < 16; i++) {
      const int k = 16 * g + i, q = code(x[k] * id, -32, 31) + 32, n = k / 128, a = k % 128 / 32, j = k % 32;
      o[64 * n + 32 * (a % 2) + j] |= (uint8_t)((q & 15) << 4 * (a / 2));
      o[128 + 32 * n + j] |= (uint8_t)(q >> 4 << 2 * a);
    }
  }
  ek_store_u16(o + 208, h);
}
static void b_f32(const float *x, uint8_t *o) { memcpy(o, x, 4); }
static void b_f16(const float *x, uint8_t *o) { ek_store_u16(o, ek_half_of_float(*x)); }
static void b_bf16(const float *x, uint8_t *o) { ek_store_u16(o, ek_bfloat_of_float(*x)); }

#define E(name) \
  static void e_##name(const ek_source *s, size_t first, size_t count, uint8_t *out) { \
    const ek_format *f = ek_format_find(#name); \
    for (size_t i = 0; i < count; i++) b_##name(s->values + (first + i) * f->block, out + i * f->block_bytes); \
  }
E(f32) E(f16) E(bf16) E(q8_0) E(q4_0) E(q4_1) E(q5_0) E(q5_1) E(iq4_nl) E(q4_k) E(q5_k) E(q6_k)

ek_encode_fn *ek_encoder_find(const char *n) {
#define F(name) if (!strcmp(n, #name)) return e_##name;
  F(f32) F(f16) F(bf16) F(q8_0) F(q4_0) F(q4_1) F(q5_0) F(q5_1) F(iq4_nl) F(q4_k) F(q5_k) F(q6_k)
  return NULL;
}
