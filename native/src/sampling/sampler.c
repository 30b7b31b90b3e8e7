#include "sampling/sampler.h"

#include "api/params.h"
#include "memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 64, MOST_VOCAB = 1 << 24, MOST_PENALTY_LAST = 1 << 20, DEFAULT_PENALTY_LAST = 64 };

/* top_p comes as a float, and 0.3f is more than 0.3: ten equal tokens would be cut to four and not three. */
static const double TOP_P_SLACK = 1e-7;

struct ek_sampler {
  ek_sampler_params params; /* with defaults filled in */
  size_t vocab, chunks;
  uint64_t random;
  int32_t *last;            /* ring of params.penalty_last tokens; NULL without a penalty */
  size_t told;              /* tokens so far */
  float *scores;            /* (vocab) logits after the penalty; NULL without one */
  int32_t *tops;            /* (chunks) greatest logit, as ek_order_of has it, of each chunk of 64 */
  ek_candidate *candidates; /* (vocab); NULL where it is greedy */
  double *weights;          /* (chunks), likewise */
};

uint32_t ek_sampler_vocab(const ek_sampler *sampler) { return (uint32_t)sampler->vocab; }

/* --- creation --- */

static ek_status check_value(const char *name, float value, float least, float most, const char *allowed) {
  if (value >= least && value <= most) return EK_OK;
  return ek_fail(EK_BAD_ARGUMENT, "%s %g is out of range: give %s", name, (double)value, allowed);
}

static ek_status check_params(const ek_sampler_params *p) {
  ek_status status = check_value("repetition_penalty", p->repetition_penalty, 0, HUGE_VALF, "more than 0");
  if (status == EK_OK) status = check_value("top_p", p->top_p, 0, 1, "0 to 1");
  if (status == EK_OK) status = check_value("min_p", p->min_p, 0, 1, "0 to 1");
  if (status == EK_OK) status = check_value("temperature", p->temperature, 0, HUGE_VALF, "0 or more");
  if (status != EK_OK) return status;
  if (isinf(p->repetition_penalty) || isinf(p->temperature))
    return ek_fail(EK_BAD_ARGUMENT, "repetition_penalty and temperature have to be finite");
  if (p->penalty_last > MOST_PENALTY_LAST)
    return ek_fail(EK_BAD_ARGUMENT, "penalty_last %lu is out of range: give at most %d", (unsigned long)p->penalty_last,
                   MOST_PENALTY_LAST);
  return EK_OK;
}

static int is_penalising(const ek_sampler_params *p) {
  return p->repetition_penalty != 0 && p->repetition_penalty != 1;
}

static int allocate(ek_sampler *s) {
  s->tops = ek_memory_new(s->chunks * sizeof *s->tops);
  if (s->params.temperature > 0) {
    s->candidates = ek_memory_new(s->vocab * sizeof *s->candidates);
    s->weights = ek_memory_new(s->chunks * sizeof *s->weights);
    if (!s->candidates || !s->weights) return 0;
  }
  if (is_penalising(&s->params)) {
    s->last = malloc(s->params.penalty_last * sizeof *s->last);
    s->scores = ek_memory_new(s->vocab * sizeof *s->scores);
    if (!s->last || !s->scores) return 0;
  }
  return s->tops != NULL;
}

ek_status ek_sampler_create(const ek_sampler_params *params, uint32_t vocab, ek_sampler **sampler) {
  if (!sampler) return ek_fail(EK_BAD_ARGUMENT, "the pointer for the sampler is NULL");
  ek_sampler_params own;
  ek_status status = ek_params_read(params, &own, sizeof own, "ek_sampler_params");
  if (status == EK_OK) status = check_params(&own);
  if (status != EK_OK) return status;
  if (vocab == 0 || vocab > MOST_VOCAB)
    return ek_fail(EK_BAD_ARGUMENT, "a sampler for %lu tokens cannot be made: 1 to %d are possible",
                   (unsigned long)vocab, MOST_VOCAB);
  if (own.penalty_last == 0) own.penalty_last = DEFAULT_PENALTY_LAST;
  ek_sampler *made = calloc(1, sizeof *made);
  if (made) {
    *made =
        (ek_sampler){.params = own, .vocab = vocab, .chunks = ((size_t)vocab + CHUNK - 1) / CHUNK, .random = own.seed};
  }
  if (!made || !allocate(made)) {
    ek_sampler_free(made);
    return ek_fail_plain(EK_NO_MEMORY, "sampler");
  }
  *sampler = made;
  return EK_OK;
}

void ek_sampler_free(ek_sampler *sampler) {
  if (!sampler) return;
  free(sampler->last);
  free(sampler->scores);
  free(sampler->tops);
  free(sampler->candidates);
  free(sampler->weights);
  free(sampler);
}

/* --- logits --- */

/* Of a chunk: the greatest order; *magnitude grows to the greatest absolute value's bits. In steps that the compiler
 * can do for several values at once. */
static int32_t scan(const float *values, size_t count, int32_t *magnitude) {
  int32_t top = INT32_MIN, greatest = *magnitude;
  for (size_t i = 0; i < count; i++) {
    const int32_t order = ek_order_of(values[i]), absolute = order < 0 ? ~order : order;
    top = order > top ? order : top;
    greatest = absolute > greatest ? absolute : greatest;
  }
  *magnitude = greatest;
  return top;
}

static size_t chunk_length(const ek_sampler *s, size_t chunk) {
  const size_t left = s->vocab - chunk * CHUNK;
  return left < CHUNK ? left : CHUNK;
}

/* Fills in the chunks' tops; *best is the greatest. */
static ek_status survey(ek_sampler *s, const float *values, int32_t *best) {
  int32_t magnitude = 0, top = INT32_MIN;
  for (size_t c = 0; c < s->chunks; c++) {
    s->tops[c] = scan(values + c * CHUNK, chunk_length(s, c), &magnitude);
    top = s->tops[c] > top ? s->tops[c] : top;
  }
  if (magnitude > 0x7f800000 || top == ek_order_of(HUGE_VALF) || top == ek_order_of(-HUGE_VALF))
    return ek_fail(EK_BAD_ARGUMENT,
                   "the logits are NaN or infinite: the model's file is damaged, or these are not its logits");
  *best = top;
  return EK_OK;
}

static const float *penalise(ek_sampler *s, const float *logits) {
  if (!s->scores) return logits;
  const float penalty = s->params.repetition_penalty;
  const size_t count = s->told < s->params.penalty_last ? s->told : s->params.penalty_last;
  memcpy(s->scores, logits, s->vocab * sizeof *logits);
  for (size_t i = 0; i < count; i++) { /* once for a token that is there twice: from the logit itself */
    const float logit = logits[s->last[i]];
    s->scores[s->last[i]] = logit > 0 ? logit / penalty : logit * penalty;
  }
  return s->scores;
}

/* The first of the greatest. */
static int32_t greatest(const ek_sampler *s, const float *values, int32_t best) {
  size_t i = 0;
  while (s->tops[i / CHUNK] != best) i += CHUNK;
  while (ek_order_of(values[i]) != best) i++;
  return (int32_t)i;
}

/* --- filters --- */

/* An order that at least `most` values reach, and few more: as many chunks have tops that do. */
static int32_t floor_of_most(ek_sampler *s, size_t most) {
  if (most == 0 || most >= s->chunks) return INT32_MIN;
  ek_candidate *tops = s->candidates;
  for (size_t c = 0; c < s->chunks; c++) tops[c].logit = ek_ordered(s->tops[c]);
  const size_t kept = ek_keep_greatest(tops, s->chunks, most);
  int32_t least = INT32_MAX;
  for (size_t i = 0; i < kept; i++) {
    const int32_t order = ek_order_of(tops[i].logit);
    least = order < least ? order : least;
  }
  return least;
}

/* Adds those of a chunk to `count` candidates; returns how many there are then. */
static size_t gather_chunk(ek_sampler *s, const float *values, int32_t least, size_t chunk, size_t count) {
  const size_t begin = chunk * CHUNK, end = begin + chunk_length(s, chunk);
  for (size_t i = begin; i < end; i++) {
    if (ek_order_of(values[i]) >= least) s->candidates[count++] = (ek_candidate){(int32_t)i, values[i], 1};
  }
  return count;
}

static size_t gather(ek_sampler *s, const float *values, int32_t least) {
  size_t count = 0;
  for (size_t c = 0; c < s->chunks; c++) {
    if (s->tops[c] >= least) count = gather_chunk(s, values, least, c, count);
  }
  return count;
}

static size_t keep_min_p(ek_candidate *candidates, size_t count, double least) {
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    if (candidates[i].weight >= least) candidates[kept++] = candidates[i];
  }
  return kept;
}

static int has_top_p(const ek_sampler_params *p) { return p->top_p > 0 && p->top_p < 1; }

/* The logit order below which a token has less than the share of the greatest one's weight; roughly, on the safe side.
 */
static int32_t floor_of_share(float best, double share) { return ek_order_of((float)(best + log(share) - 0.01)); }

/* Where top_k keeps all: an order that all reach that the other filters keep, and few more. *total: of top_p. What all
 * tokens below the share (1 - p) total / vocab have together, top_p leaves out. */
static int32_t floor_of_filters(const ek_sampler *s, const float *values, float best, double *total) {
  const ek_sampler_params *p = &s->params;
  int32_t least = INT32_MIN;
  if (p->min_p > 0) least = floor_of_share(best, (double)p->min_p);
  if (!has_top_p(p)) return least;
  *total = ek_weight_of(values, s->vocab, best, 1);
  const int32_t other = floor_of_share(best, (1 - (double)p->top_p * (1 - TOP_P_SLACK)) * *total / (double)s->vocab);
  return other > least ? other : least;
}

/* The candidates that are left, weighed; returns the sum of their weights. */
static double distribution(ek_sampler *s, const float *values, float best, size_t *count) {
  const ek_sampler_params *p = &s->params;
  double total = 0;
  const int32_t least = p->top_k > 0 ? floor_of_most(s, p->top_k) : floor_of_filters(s, values, best, &total);
  size_t n = gather(s, values, least);
  if (p->top_k > 0) n = ek_keep_greatest(s->candidates, n, p->top_k);
  if (has_top_p(p) || p->min_p > 0) {
    const double sum = ek_weigh(s->candidates, n, best, 1);
    if (p->top_k > 0) total = sum;
    if (has_top_p(p)) n = ek_keep_mass(s->candidates, n, (double)p->top_p * (1 - TOP_P_SLACK) * total);
    n = keep_min_p(s->candidates, n, (double)p->min_p);
  }
  *count = n;
  return ek_weigh(s->candidates, n, best, p->temperature);
}

ek_status ek_sampler_distribution(ek_sampler *sampler, const float *logits, const ek_candidate **candidates,
                                  size_t *count) {
  int32_t best;
  if (sampler->params.temperature == 0)
    return ek_fail(EK_BAD_ARGUMENT, "a sampler of temperature 0 has no distribution: it takes the greatest logit");
  const float *values = penalise(sampler, logits);
  const ek_status status = survey(sampler, values, &best);
  if (status != EK_OK) return status;
  (void)distribution(sampler, values, ek_ordered(best), count);
  *candidates = sampler->candidates;
  return EK_OK;
}

/* --- choice --- */

/* SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): 0 <= x < 1. */
static double next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int32_t draw(const ek_candidate *candidates, size_t count, double at) {
  int32_t token = candidates[0].token;
  for (size_t i = 0; i < count; i++) {
    if (candidates[i].weight == 0) continue;
    token = candidates[i].token; /* where rounding leaves something of `at`: the last that is possible */
    if (at < candidates[i].weight) break;
    at -= candidates[i].weight;
  }
  return token;
}

/* From all tokens: the chunk first, by the chunks' weights, then the token in it. */
static int32_t draw_from_all(ek_sampler *s, const float *values, float best, double random) {
  const float temperature = s->params.temperature;
  double sum = 0;
  for (size_t c = 0; c < s->chunks; c++)
    sum += s->weights[c] = ek_weight_of(values + c * CHUNK, chunk_length(s, c), best, temperature);
  double at = random * sum;
  size_t chunk = 0;
  for (size_t c = 0; c < s->chunks; c++) {
    if (s->weights[c] == 0) continue;
    chunk = c;
    if (at < s->weights[c]) break;
    at -= s->weights[c];
  }
  const size_t count = gather_chunk(s, values, INT32_MIN, chunk, 0);
  (void)ek_weigh(s->candidates, count, best, temperature);
  return draw(s->candidates, count, at);
}

static int32_t choose(ek_sampler *s, const float *values, int32_t best) {
  const ek_sampler_params *p = &s->params;
  if (p->temperature == 0) return greatest(s, values, best);
  const double random = next_random(&s->random);
  if (p->top_k == 0 && !has_top_p(p) && p->min_p == 0) return draw_from_all(s, values, ek_ordered(best), random);
  size_t count;
  const double sum = distribution(s, values, ek_ordered(best), &count);
  return draw(s->candidates, count, random * sum);
}

static void remember(ek_sampler *s, int32_t token) {
  if (s->last) s->last[s->told++ % s->params.penalty_last] = token;
}

ek_status ek_sampler_choose(ek_sampler *sampler, const float *logits, int32_t *token) {
  if (!sampler || !logits || !token) return ek_fail(EK_BAD_ARGUMENT, "an argument of ek_sampler_choose is NULL");
  int32_t best;
  const float *values = penalise(sampler, logits);
  const ek_status status = survey(sampler, values, &best);
  if (status != EK_OK) return status;
  *token = choose(sampler, values, best);
  remember(sampler, *token);
  return EK_OK;
}

ek_status ek_sampler_accept(ek_sampler *sampler, int32_t token) {
  if (!sampler) return ek_fail(EK_BAD_ARGUMENT, "the sampler is NULL");
  if (token < 0 || (size_t)token >= sampler->vocab)
    return ek_fail(EK_BAD_ARGUMENT, "there is no token %ld: the sampler was created for %zu", (long)token,
                   sampler->vocab);
  remember(sampler, token);
  return EK_OK;
}
