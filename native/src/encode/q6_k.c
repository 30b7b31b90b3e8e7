/* Q6_K: sixteen groups of 16 weights, value = (d * scale) * q, int8 scale per group, q in -32 .. 31. */
#include "scale_search.h"

#include "pack.h"

#include <math.h>

enum { GROUPS = 16, GROUP = 16 };

static const ek_grid grid = {.reach = 0.72f * 32, .ratio = 1.02f, .tries = 32, .both_signs = 1};

/* The largest real scale becomes these codes at first, in turn. */
static const float starts[] = {-128, -120, -110};

/* How far from the scales wanted to look: at first, and once d is refitted. */
enum { REACH = 16, REACH_AFTER = 2 };

/* One choice of all that is stored but the codes. */
typedef struct choice {
  float d;
  _Alignas(64) float scale[EK_BATCH], error[EK_BATCH];
} choice;

static inline ek_vf nearest(ek_vf a) { return vcode(a, -32, 31); }

static void fit_groups(const ek_batch *batch, float *want) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    ek_vf fit, d = coarse_scale(batch, lane, GROUP, nearest, &grid);
    scale_error(batch, lane, GROUP, nearest, d, &fit);
    vstore(want + lane, fit);
  }
}

/* For every group: the scale within `reach` of the one nearest to `near`, with the least error. */
static void choose(const ek_batch *batch, const float *near_d, int reach, choice *c) {
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_vf d = vf(c->d), centre = vcode(vratio(vload(near_d + lane), d), -128, 127);
    ek_vf least = vf(0x1p127f), scale = vf(0), unused;
    for (int step = -reach; step <= reach; step++) {
      const ek_vf s = vcode(centre + (float)step, -128, 127);
      const ek_vf error = scale_error(batch, lane, GROUP, nearest, d * s, &unused);
      const ek_vi better = error < least;
      least = vselect(better, error, least);
      scale = vselect(better, s, scale);
    }
    vstore(c->scale + lane, scale);
    vstore(c->error + lane, least);
  }
}

/* The fp16 d that is best for the scales and codes chosen. */
static void refit(const ek_batch *batch, choice *c) {
  _Alignas(64) float slope[EK_BATCH], square[EK_BATCH];
  for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
    const ek_vf scale = vload(c->scale + lane), d = scale * c->d, inverse = vratio(vf(1), d);
    ek_vf eq = vf(0), qq = vf(0);
    for (int k = 0; k < GROUP; k++) {
      const ek_vf x = vload(&batch->x[k][lane]), w = vload(&batch->w[k][lane]);
      const ek_vf q = nearest(x * inverse);
      eq += w * (x - d * q) * q;
      qq += w * q * q;
    }
    vstore(slope + lane, scale * eq);
    vstore(square + lane, scale * scale * qq);
  }
  double up = 0, down = 0;
  for (int l = 0; l < GROUPS; l++) {
    up += slope[l];
    down += square[l];
  }
  c->d = ek_half_near((float)(c->d + (down > 0 ? up / down : 0)));
}

static float sum(const float *error) {
  float total = 0;
  for (int l = 0; l < GROUPS; l++) total += error[l];
  return total;
}

static void fit_superblock(const ek_batch *batch, choice *best) {
  _Alignas(64) float want[EK_BATCH], now[EK_BATCH];
  choice c;
  fit_groups(batch, want);
  float extreme = 0;
  for (int l = 0; l < GROUPS; l++) {
    if (fabsf(want[l]) > fabsf(extreme)) extreme = want[l];
  }
  for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
    c.d = ek_half_reaching(extreme / starts[s]);
    choose(batch, want, REACH, &c);
    if (s == 0 || sum(c.error) < sum(best->error)) *best = c;
    refit(batch, &c);
    for (int l = 0; l < GROUPS; l++) now[l] = c.d * c.scale[l];
    choose(batch, now, REACH_AFTER, &c);
    if (sum(c.error) < sum(best->error)) *best = c;
  }
}

ek_encode_fn EK_ISA_NAME(ek_encode_q6_k);

void EK_ISA_NAME(ek_encode_q6_k)(const ek_source *source, size_t first, size_t count, uint8_t *out) {
  ek_batch batch;
  choice c;
  uint8_t codes[EK_SUPERBLOCK];
  for (size_t i = 0; i < count; i++) {
    load_batch(source, (first + i) * EK_SUPERBLOCK, GROUPS, GROUP, EK_SUPERBLOCK, &batch);
    fit_superblock(&batch, &c);
    for (int lane = 0; lane < EK_BATCH; lane += EK_WIDTH) {
      const ek_vf inverse = vratio(vf(1), vload(c.scale + lane) * c.d);
      for (int k = 0; k < GROUP; k++)
        put_codes(nearest(vload(&batch.x[k][lane]) * inverse), -32, &codes[lane * GROUP + k], GROUP);
    }
    int8_t scale[GROUPS];
    for (int g = 0; g < GROUPS; g++) scale[g] = (int8_t)c.scale[g];
    pack_q6_k(c.d, scale, codes, out + i * 210);
  }
}
