/* Q4_K, Q5_K: eight groups of 32 weights, value = (d * scale) * q - (dmin * minimum), 6-bit scale and minimum per
 * group. */
#include "affine_search.h"

#include "pack.h"

/* A batch is two superblocks of eight lanes. */
enum { GROUPS = 8 };

static const ek_ends q4_k_ends = {.first = -0.07f, .step = 0.027f, .ends = 10, .top = 15};
static const ek_ends q5_k_ends = {.first = -0.07f, .step = 0.02f, .ends = 10, .top = 31};

/* The largest real scale and minimum become these codes at first, in turn. Several starts, because codes of 6 bits miss
 * the scales that are wanted by up to 2 %, each time differently. */
static const float starts[][2] = {{63, 63}, {60, 63}, {57, 62}, {54, 62}};

/* How far from the scales wanted to look: at first, and once d and dmin are refitted. */
enum { REACH = 6, REACH_AFTER = 1 };

/* One choice of all that is stored but the codes; d and dmin are the same in all lanes of a superblock. */
typedef struct choice {
  _Alignas(64) float d[EK_BATCH], dmin[EK_BATCH], scale[EK_BATCH], minimum[EK_BATCH], error[EK_BATCH];
} choice;

/* What the groups want: the best real scales and minima, and the groups' constants. */
typedef struct wish {
  _Alignas(64) float d[EK_BATCH], m[EK_BATCH];
  ek_group groups[EK_BATCH / EK_WIDTH];
} wish;

static void fit_groups(const ek_batch *batch, const ek_ends *ends, wish *want) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_group group = group_of(batch, lane);
    ek_affine a = coarse_affine(batch, lane, &group, ends, 1);
    const ek_left left = affine_left(batch, lane, ends->top, a);
    a = affine_fit(&group, &left, a, 1);
    want->groups[lane / EK_WIDTH] = group;
    vstore(want->d + lane, vmax(a.d, vf(0)));
    vstore(want->m + lane, a.m);
  }
}

/* For every group: of the scales within `reach` of the one nearest to near_d, and the minima that suit each, those with
 * the least error. A minimum starts from near_m, moved so that a change of the scale leaves the middle code in place,
 * and is then fitted to the codes. */
static void choose(const ek_batch *batch, float top, const wish *want, const float *near_d, const float *near_m,
                   int reach, choice *c) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_group *group = &want->groups[lane / EK_WIDTH];
    const ek_vf d = vload(c->d + lane), dmin = vload(c->dmin + lane);
    const ek_vf centre_d = vload(near_d + lane), centre_m = vload(near_m + lane);
    const ek_vf middle = vratio(vload(want->m + lane) + group->mean, vload(want->d + lane));
    const ek_vf centre = vcode(vratio(centre_d, d), 0, 63), per_dmin = vratio(vf(1), dmin);
    ek_vf least = vf(0x1p127f), scale = vf(0), minimum = vf(0);
    for (int step = -reach; step <= reach; step++) {
      const ek_vf s = vcode(centre + (float)step, 0, 63);
      ek_affine a = {d * s, vf(0)};
      ek_vf m = centre_m + (a.d - centre_d) * middle;
      for (int again = 0; again < 2; again++) {
        const ek_vf code = vcode(m * per_dmin, 0, 63);
        a.m = dmin * code;
        const ek_left left = affine_left(batch, lane, top, a);
        const ek_vi better = left.error < least;
        least = vselect(better, left.error, least);
        scale = vselect(better, s, scale);
        minimum = vselect(better, code, minimum);
        m = a.m - left.e / group->total;
      }
    }
    vstore(c->scale + lane, scale);
    vstore(c->minimum + lane, minimum);
    vstore(c->error + lane, least);
  }
}

/* The fp16 d and dmin that are best for the scales, minima and codes chosen: least squares over the superblock. */
static void refit(const ek_batch *batch, float top, choice *c) {
  _Alignas(64) float p[EK_BATCH], r[EK_BATCH], aa[EK_BATCH], ab[EK_BATCH], bb[EK_BATCH];
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_vf scale = vload(c->scale + lane), minimum = vload(c->minimum + lane);
    const ek_affine a = {vload(c->d + lane) * scale, vload(c->dmin + lane) * minimum};
    const ek_left left = affine_left(batch, lane, top, a);
    ek_vf total = vf(0);
    for (int k = 0; k < 32; k++) total += vload(&batch->w[k][lane]);
    vstore(p + lane, scale * left.eq);
    vstore(r + lane, minimum * left.e);
    vstore(aa + lane, scale * scale * left.qq);
    vstore(ab + lane, scale * minimum * left.q);
    vstore(bb + lane, minimum * minimum * total);
  }
  for (int at = 0; at < EK_BATCH; at += GROUPS) {
    double sp = 0, sr = 0, saa = 0, sab = 0, sbb = 0;
    for (int l = at; l < at + GROUPS; l++) {
      sp += p[l];
      sr += r[l];
      saa += aa[l];
      sab += ab[l];
      sbb += bb[l];
    }
    /* minimise sum w (e - x q scale + y minimum)^2 */
    const double det = saa * sbb - sab * sab;
    double x = 0, y = 0;
    if (det > 1e-9 * saa * sbb) {
      x = (sp * sbb - sr * sab) / det;
      y = (sp * sab - sr * saa) / det;
    } else if (saa > 0) {
      x = sp / saa;
    }
    const float d = ek_half_near((float)(c->d[at] + x)), dmin = ek_half_near((float)(c->dmin[at] + y));
    for (int l = at; l < at + GROUPS; l++) {
      c->d[l] = d;
      c->dmin[l] = dmin;
    }
  }
}

/* Keeps for each superblock the better of the two choices in `best`. */
static void keep_better(const choice *c, choice *best) {
  for (int at = 0; at < EK_BATCH; at += GROUPS) {
    float now = 0, before = 0;
    for (int l = at; l < at + GROUPS; l++) {
      now += c->error[l];
      before += best->error[l];
    }
    if (!(now < before)) continue;
    for (int l = at; l < at + GROUPS; l++) {
      best->d[l] = c->d[l];
      best->dmin[l] = c->dmin[l];
      best->scale[l] = c->scale[l];
      best->minimum[l] = c->minimum[l];
      best->error[l] = c->error[l];
    }
  }
}

static void start(const wish *want, const float codes[2], choice *c) {
  for (int at = 0; at < EK_BATCH; at += GROUPS) {
    float d = 0, m = 0;
    for (int l = at; l < at + GROUPS; l++) {
      d = want->d[l] > d ? want->d[l] : d;
      m = want->m[l] > m ? want->m[l] : m;
    }
    d = ek_half_reaching(d / codes[0]);
    m = ek_half_reaching(m / codes[1]);
    for (int l = at; l < at + GROUPS; l++) {
      c->d[l] = d;
      c->dmin[l] = m;
    }
  }
}

static void fit_superblocks(const ek_batch *batch, const ek_ends *ends, choice *best) {
  wish want;
  choice c;
  fit_groups(batch, ends, &want);
  for (int l = 0; l < EK_BATCH; l++) best->error[l] = 0x1p120f;
  for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
    start(&want, starts[s], &c);
    choose(batch, ends->top, &want, want.d, want.m, REACH, &c);
    keep_better(&c, best);
    refit(batch, ends->top, &c);
    _Alignas(64) float d[EK_BATCH], m[EK_BATCH];
    for (int l = 0; l < EK_BATCH; l++) {
      d[l] = c.d[l] * c.scale[l];
      m[l] = c.dmin[l] * c.minimum[l];
    }
    choose(batch, ends->top, &want, d, m, REACH_AFTER, &c);
    keep_better(&c, best);
  }
}

static void pack_scales(const choice *c, int at, uint8_t *out) {
  uint8_t scale[GROUPS], minimum[GROUPS];
  for (int j = 0; j < GROUPS; j++) {
    scale[j] = (uint8_t)c->scale[at + j];
    minimum[j] = (uint8_t)c->minimum[at + j];
  }
  pack_k_scales(c->d[at], c->dmin[at], scale, minimum, out);
}

EK_INLINE void encode(const ek_source *source, size_t first, size_t count, uint8_t *out, const ek_ends *ends,
                      size_t bytes) {
  ek_batch batch;
  choice c;
  uint8_t codes[EK_BATCH][32];
  for (size_t i = 0; i < count; i += 2) {
    const int here = count - i < 2 ? 1 : 2;
    load_batch(source, (first + i) * EK_SUPERBLOCK, here * GROUPS, 32, EK_SUPERBLOCK, &batch);
    fit_superblocks(&batch, ends, &c);
    for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
      const ek_vf inverse = vratio(vf(1), vload(c.d + lane) * vload(c.scale + lane));
      const ek_vf m = vload(c.dmin + lane) * vload(c.minimum + lane);
      for (int k = 0; k < 32; k++) {
        put_codes(vcode((vload(&batch.x[k][lane]) + m) * inverse, 0, ends->top), 0, &codes[lane][k], 32);
      }
    }
    for (int b = 0; b < here; b++) {
      uint8_t *block = out + (i + (size_t)b) * bytes;
      pack_scales(&c, b * GROUPS, block);
      if (ends->top > 15) pack_k_fifth_bits(codes[b * GROUPS], block + 16);
      pack_k_nibbles(codes[b * GROUPS], block + bytes - 128);
    }
  }
}

ek_encode_fn EK_ISA_NAME(ek_encode_q4_k), EK_ISA_NAME(ek_encode_q5_k);

void EK_ISA_NAME(ek_encode_q4_k)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  encode(source, first, count, out, &q4_k_ends, 144);
}

void EK_ISA_NAME(ek_encode_q5_k)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  encode(source, first, count, out, &q5_k_ends, 176);
}
