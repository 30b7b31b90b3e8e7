/* Sampling against the slow and obvious: sort everything, filter from the front, exp of the C library. */
#include "check.h"
#include "sampling/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VOCAB = 6000, GEMMA_VOCAB = 262144, MOST_TOLD = 50 };

static float logits[GEMMA_VOCAB];

/* Few different values where `step` is not 0, so that many are equal; now and then one that is impossible. */
static void fill(check_rng *rng, float *out, size_t count, float step) {
  for (size_t i = 0; i < count; i++) {
    out[i] = 3 * check_gaussian(rng);
    if (step != 0) out[i] = step * rintf(out[i] / step); /* -0 and 0 among them */
    if (check_below(rng, 50) == 0) out[i] = -INFINITY;
  }
  out[check_below(rng, (int)count)] = 1;
}

static void test_exp(void) {
  static double powers[70001];
  for (int i = 0; i <= 70000; i++) powers[i] = -i * 0.01;
  ek_exps(powers, 70001);
  for (int i = 0; i <= 70000; i++) {
    const double expected = exp(-i * 0.01);
    check_case("exp %g", -i * 0.01);
    CHECK(fabs(powers[i] - expected) <= 5e-16 * expected);
  }
  double ends[] = {0, -708.8, -709, -1e300, -HUGE_VAL};
  ek_exps(ends, 5);
  CHECK(ends[0] == 1);
  for (int i = 1; i < 5; i++) CHECK(ends[i] == 0);
  check_tested(70000, "exp");
}

/* --- the oracle --- */

static int by_logit(const void *a, const void *b) {
  const ek_candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return x->token < y->token ? -1 : x->token > y->token;
}

static int by_token(const void *a, const void *b) {
  return ((const ek_candidate *)a)->token - ((const ek_candidate *)b)->token;
}

typedef struct history {
  int32_t tokens[MOST_TOLD];
  int count;
} history;

static double weigh(ek_candidate *sorted, size_t count, double temperature) {
  long double sum = 0;
  for (size_t i = 0; i < count; i++) {
    sorted[i].weight = exp(((double)sorted[i].logit - (double)sorted[0].logit) / temperature);
    sum += sorted[i].weight;
  }
  return (double)sum;
}

/* What is left, by token, with weights that sum up to 1; *unclear where rounding decides what is. */
static size_t oracle(const ek_sampler_params *p, const history *told, size_t vocab, ek_candidate *out, int *unclear) {
  for (size_t i = 0; i < vocab; i++) out[i] = (ek_candidate){(int32_t)i, logits[i], 0};
  const int last = p->penalty_last ? (int)p->penalty_last : 64, first = told->count > last ? told->count - last : 0;
  for (int i = first; p->repetition_penalty != 0 && i < told->count; i++) {
    const float logit = logits[told->tokens[i]];
    out[told->tokens[i]].logit = logit > 0 ? logit / p->repetition_penalty : logit * p->repetition_penalty;
  }
  qsort(out, vocab, sizeof *out, by_logit);
  size_t n = p->top_k > 0 && p->top_k < vocab ? p->top_k : vocab, kept = 0;
  double sum = weigh(out, n, 1), so_far = 0;
  *unclear = 0;
  if (p->top_p > 0 && p->top_p < 1) {
    for (kept = 0; kept < n && so_far < (double)p->top_p * (1 - 1e-7) * sum; kept++) {
      so_far += out[kept].weight;
      *unclear |= fabs(so_far - (double)p->top_p * (1 - 1e-7) * sum) < 1e-9 * sum;
    }
    n = kept > 0 ? kept : 1;
  }
  for (kept = 0; kept < n && out[kept].weight >= (double)p->min_p; kept++)
    *unclear |= p->min_p > 0 && fabs(out[kept].weight - (double)p->min_p) < 1e-9;
  n = kept;
  sum = weigh(out, n, (double)p->temperature);
  for (size_t i = 0; i < n; i++) out[i].weight /= sum;
  qsort(out, n, sizeof *out, by_token);
  return n;
}

/* --- selection --- */

static ek_candidate expected[GEMMA_VOCAB], actual[GEMMA_VOCAB];

static int is_same(const ek_candidate *a, const ek_candidate *b, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (a[i].token != b[i].token) return 0;
  }
  return 1;
}

/* Weights are whole numbers, so that their sums are exact in any order. */
static size_t fill_both(check_rng *rng) {
  const size_t count = 1 + (size_t)check_below(rng, check_below(rng, 2) ? 2000 : 20);
  fill(rng, logits, count, check_below(rng, 2) ? 0.5f : 0);
  for (size_t i = 0; i < count; i++) {
    const double weight = floor(exp((double)logits[i]) * 100);
    expected[i] = actual[i] = (ek_candidate){(int32_t)i, logits[i], weight};
  }
  qsort(expected, count, sizeof *expected, by_logit);
  return count;
}

static void test_selection(int cases) {
  for (int i = 0; i < cases; i++) {
    check_case("selection %d", i);
    check_rng rng = check_seed("selection", i);
    size_t count = fill_both(&rng), most = (size_t)check_below(&rng, (int)count + 2);
    size_t wanted = most < count ? most : count, kept = ek_keep_greatest(actual, count, most);
    qsort(expected, wanted, sizeof *expected, by_token);
    CHECK(kept == wanted && is_same(expected, actual, kept));

    count = fill_both(&rng);
    double sum = 0, so_far = 0;
    for (size_t j = 0; j < count; j++) sum += expected[j].weight;
    const double mass = check_below(&rng, 4) ? 1 + floor((double)check_uniform(&rng, 0, 1) * (sum - 1)) : sum;
    for (wanted = 0; wanted < count && so_far < mass; wanted++) so_far += expected[wanted].weight;
    qsort(expected, wanted, sizeof *expected, by_token);
    kept = ek_keep_mass(actual, count, mass);
    CHECK(kept == wanted && is_same(expected, actual, kept));
  }
  check_tested(cases, "selection");
}

/* --- distributions --- */

static ek_sampler_params random_params(check_rng *rng, size_t vocab) {
  ek_sampler_params p = EK_INIT(ek_sampler_params);
  p.temperature = check_uniform(rng, 0.1f, 2);
  p.seed = check_bits(rng);
  if (check_below(rng, 2)) p.top_k = 1 + (uint32_t)check_below(rng, (int)(vocab > 80 ? 80 : vocab));
  if (check_below(rng, 4) == 0) p.top_k = 1 + (uint32_t)check_below(rng, (int)vocab + 9);
  if (check_below(rng, 2)) p.top_p = check_uniform(rng, 0.01f, 1);
  if (check_below(rng, 2)) p.min_p = check_uniform(rng, 0, check_below(rng, 2) ? 0.05f : 1);
  if (check_below(rng, 2)) p.repetition_penalty = check_uniform(rng, 0.5f, 2);
  if (check_below(rng, 2)) p.penalty_last = 1 + (uint32_t)check_below(rng, MOST_TOLD);
  return p;
}

static void tell(check_rng *rng, ek_sampler *sampler, size_t vocab, history *told) {
  told->count = check_below(rng, MOST_TOLD - 10);
  for (int i = 0; i < told->count; i++) {
    told->tokens[i] = check_below(rng, (int)(vocab < 20 ? vocab : 20)); /* some twice */
    CHECK(ek_sampler_accept(sampler, told->tokens[i]) == EK_OK);
  }
}

/* Returns whether rounding decides what is left. */
static int compare(const ek_sampler_params *p, ek_sampler *sampler, const history *told, size_t vocab) {
  int unclear;
  const ek_candidate *left = NULL;
  size_t count = 0;
  long double sum = 0;
  const size_t wanted = oracle(p, told, vocab, expected, &unclear);
  CHECK(ek_sampler_distribution(sampler, logits, &left, &count) == EK_OK);
  if (unclear) return 1;
  CHECK(count == wanted && is_same(expected, left, count));
  for (size_t i = 0; i < count; i++) sum += left[i].weight;
  for (size_t i = 0; count == wanted && i < count; i++)
    CHECK(fabs(left[i].weight / (double)sum - expected[i].weight) <= 1e-12 * expected[i].weight);
  return 0;
}

/* 0 <= x < 1, of SplitMix64. */
static double next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

/* A few choices, told to the history: each is the token in which the random number falls when the probabilities are
 * laid side by side, by token. Returns in how many rounding decides. */
static int compare_choices(const ek_sampler_params *p, ek_sampler *sampler, history *told, size_t vocab, int choices) {
  uint64_t state = p->seed;
  int unclear_choices = 0;
  for (int k = 0; k < choices; k++) {
    int unclear;
    int32_t token = -1;
    const size_t left = oracle(p, told, vocab, expected, &unclear);
    const double random = next_random(&state);
    double so_far = 0;
    size_t i = 0;
    for (; i + 1 < left && so_far + expected[i].weight <= random; i++) so_far += expected[i].weight;
    unclear |= fabs(so_far - random) < 1e-9 || fabs(so_far + expected[i].weight - random) < 1e-9;
    CHECK(ek_sampler_choose(sampler, logits, &token) == EK_OK);
    CHECK(unclear || token == expected[i].token);
    unclear_choices += unclear;
    told->tokens[told->count++] = token;
  }
  return unclear_choices;
}

static void test_distributions(int cases) {
  enum { CHOICES = 3 };
  int unclear = 0, unclear_choices = 0;
  for (int i = 0; i < cases; i++) {
    check_case("distribution %d", i);
    check_rng rng = check_seed("distribution", i);
    const size_t vocab = 1 + (size_t)check_below(&rng, check_below(&rng, 2) ? MOST_VOCAB : 100);
    fill(&rng, logits, vocab, check_below(&rng, 2) ? 0.25f : 0);
    for (size_t j = 0; i % 3 == 0 && j < vocab; j++) logits[j] -= 40; /* all far below 0 */
    const ek_sampler_params p = random_params(&rng, vocab);
    ek_sampler *sampler = NULL;
    history told;
    CHECK(ek_sampler_create(&p, (uint32_t)vocab, &sampler) == EK_OK);
    tell(&rng, sampler, vocab, &told);
    unclear += compare(&p, sampler, &told, vocab);
    unclear_choices += compare_choices(&p, sampler, &told, vocab, CHOICES);
    ek_sampler_free(sampler);
  }
  check_case("distributions");
  CHECK(unclear <= cases / 50 + 1 && unclear_choices <= CHOICES * (cases / 50 + 1));
  check_tested(cases, "distributions");
}

static void test_large(void) {
  const ek_sampler_params all[] = {{.temperature = 1},
                                   {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f},
                                   {.temperature = 1, .top_p = 0.9f},
                                   {.temperature = 1, .min_p = 0.001f, .top_p = 0.99f, .seed = 7},
                                   {.temperature = 0.5f, .seed = 9},
                                   {.temperature = 1, .top_k = 100000}};
  check_rng rng = check_seed("large", 0);
  for (size_t i = 0; i < 2 * sizeof all / sizeof *all; i++) {
    check_case("vocabulary of Gemma %zu", i);
    ek_sampler_params p = all[i / 2];
    ek_sampler *sampler = NULL;
    p.struct_size = sizeof p;
    fill(&rng, logits, GEMMA_VOCAB, i % 2 ? 1 : 0);
    CHECK(ek_sampler_create(&p, GEMMA_VOCAB, &sampler) == EK_OK);
    CHECK(!compare(&p, sampler, &(history){.count = 0}, GEMMA_VOCAB));
    CHECK(!compare_choices(&p, sampler, &(history){.count = 0}, GEMMA_VOCAB, 2));
    ek_sampler_free(sampler);
  }
  check_tested(2 * sizeof all / sizeof *all, "vocabulary of Gemma");
}

/* --- choices --- */

static int32_t choose(ek_sampler *sampler) {
  int32_t token = -1;
  CHECK(ek_sampler_choose(sampler, logits, &token) == EK_OK);
  return token;
}

static void test_greedy(int cases) {
  for (int i = 0; i < cases; i++) {
    check_case("greedy %d", i);
    check_rng rng = check_seed("greedy", i);
    const size_t vocab = 1 + (size_t)check_below(&rng, 300);
    fill(&rng, logits, vocab, check_below(&rng, 2) ? 1 : 0);
    int32_t best = 0;
    for (size_t j = 0; j < vocab; j++) best = logits[j] > logits[best] ? (int32_t)j : best;
    const ek_sampler_params kinds[] = {
        {.top_k = 5}, {.temperature = 2, .top_k = 1}, {.temperature = 1, .top_p = 1e-30f}};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
      ek_sampler_params p = kinds[k];
      ek_sampler *sampler = NULL;
      p.struct_size = sizeof p;
      CHECK(ek_sampler_create(&p, (uint32_t)vocab, &sampler) == EK_OK);
      CHECK(choose(sampler) == best);
      ek_sampler_free(sampler);
    }
  }
  check_tested(cases, "greedy");
}

/* Greedy with a penalty goes on to other tokens, and comes back once they are forgotten. */
static void test_penalty(void) {
  check_case("penalty");
  const ek_sampler_params p = {sizeof p, .repetition_penalty = 2, .penalty_last = 2};
  const float some[] = {3, 4, -1, 2.5f};
  const int32_t tokens[] = {1, 0, 3, 1, 0, 3};
  ek_sampler *sampler = NULL;
  CHECK(ek_sampler_create(&p, 4, &sampler) == EK_OK);
  memcpy(logits, some, sizeof some);
  for (int i = 0; i < 6; i++) CHECK(choose(sampler) == tokens[i]);
  ek_sampler_free(sampler);
  check_tested(6, "penalty");
}

static void test_frequencies(void) {
  enum { VOCAB = 12, DRAWS = 50000 };
  check_case("frequencies");
  int counts[VOCAB] = {0}, unclear;
  const ek_sampler_params p = {sizeof p, .temperature = 0.7f, .top_k = 9, .min_p = 0.01f, .seed = 3};
  ek_sampler *sampler = NULL;
  for (int i = 0; i < VOCAB; i++) logits[i] = (float)(i * 7 % VOCAB) * 0.25f;
  const size_t left = oracle(&p, &(history){.count = 0}, VOCAB, expected, &unclear);
  CHECK(ek_sampler_create(&p, VOCAB, &sampler) == EK_OK);
  for (int i = 0; i < DRAWS; i++) counts[choose(sampler) % VOCAB]++;
  double chi = 0;
  int drawn = 0;
  for (size_t i = 0; i < left; i++) {
    const double mean = expected[i].weight * DRAWS;
    chi += (counts[expected[i].token] - mean) * (counts[expected[i].token] - mean) / mean;
    drawn += counts[expected[i].token];
  }
  CHECK(left == 9 && drawn == DRAWS);
  CHECK(chi > 1 && chi < 26); /* 8 degrees of freedom: one in a thousand is beyond 26.1 */
  ek_sampler_free(sampler);
  check_tested(DRAWS, "frequencies");
}

/* The same on every machine: these are the tokens that x86-64 gave. */
static void test_seeds(void) {
  enum { VOCAB = 1000, DRAWS = 500 };
  const ek_sampler_params p = {sizeof p, .temperature = 1.3f, .top_p = 0.98f, .repetition_penalty = 1.1f, .seed = 42};
  check_case("seeds");
  ek_sampler *first = NULL, *second = NULL;
  uint64_t hash = 0xcbf29ce484222325u;
  check_rng rng = check_seed("seeds", 0);
  for (int i = 0; i < VOCAB; i++) logits[i] = 3 * check_gaussian(&rng);
  CHECK(ek_sampler_create(&p, VOCAB, &first) == EK_OK && ek_sampler_create(&p, VOCAB, &second) == EK_OK);
  for (int i = 0; i < DRAWS; i++) {
    const int32_t token = choose(first);
    CHECK(token == choose(second));
    hash = (hash ^ (uint64_t)token) * 0x100000001b3u;
  }
  CHECK(hash == 0x7719cf221b1287eb);
  ek_sampler_free(first);
  ek_sampler_free(second);
  check_tested(DRAWS, "seeds");
}

/* --- refusals --- */

static void refuse(const ek_sampler_params *p, uint32_t vocab) {
  ek_sampler *sampler = (ek_sampler *)(void *)logits; /* stays */
  CHECK(ek_sampler_create(p, vocab, &sampler) == EK_BAD_ARGUMENT);
  CHECK(sampler == (ek_sampler *)(void *)logits && strlen(ek_last_error()) > 10);
}

static void test_bad_parameters(void) {
  const ek_sampler_params bad[] = {{0},
                                   {.struct_size = 7},
                                   {sizeof *bad, .temperature = -1},
                                   {sizeof *bad, .temperature = NAN},
                                   {sizeof *bad, .temperature = INFINITY},
                                   {sizeof *bad, .top_p = -0.1f},
                                   {sizeof *bad, .top_p = 1.1f},
                                   {sizeof *bad, .top_p = NAN},
                                   {sizeof *bad, .min_p = 2},
                                   {sizeof *bad, .min_p = NAN},
                                   {sizeof *bad, .repetition_penalty = -1},
                                   {sizeof *bad, .repetition_penalty = INFINITY},
                                   {sizeof *bad, .penalty_last = UINT32_MAX}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_case("bad parameters %zu", i);
    refuse(&bad[i], 10);
  }
  refuse(NULL, 0);
  refuse(NULL, UINT32_MAX);
  CHECK(ek_sampler_create(NULL, 10, NULL) == EK_BAD_ARGUMENT);
  check_tested(sizeof bad / sizeof *bad + 3, "bad parameters");
}

/* What is refused changes nothing: the next draw is the one that would have come. */
static void test_bad_logits(void) {
  const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
  const ek_sampler_params kinds[] = {{sizeof *kinds, .temperature = 1, .repetition_penalty = 1.5f},
                                     {.struct_size = sizeof *kinds}};
  for (size_t i = 0; i < 8; i++) {
    check_case("bad logits %zu", i);
    ek_sampler *sampler = NULL, *other = NULL;
    int32_t token = -7;
    CHECK(ek_sampler_create(&kinds[i % 2], 200, &sampler) == EK_OK);
    CHECK(ek_sampler_create(&kinds[i % 2], 200, &other) == EK_OK);
    for (int j = 0; j < 200; j++) logits[j] = i / 2 == 3 ? -INFINITY : 0;
    logits[150] = bad[i / 2];
    CHECK(ek_sampler_choose(sampler, logits, &token) == EK_BAD_ARGUMENT && token == -7);
    CHECK(ek_sampler_accept(sampler, -1) == EK_BAD_ARGUMENT && ek_sampler_accept(sampler, 200) == EK_BAD_ARGUMENT);
    CHECK(ek_sampler_choose(NULL, logits, &token) == EK_BAD_ARGUMENT);
    CHECK(ek_sampler_choose(sampler, NULL, &token) == EK_BAD_ARGUMENT);
    CHECK(ek_sampler_choose(sampler, logits, NULL) == EK_BAD_ARGUMENT);
    CHECK(ek_sampler_accept(NULL, 0) == EK_BAD_ARGUMENT);
    for (int j = 0; j < 200; j++) logits[j] = (float)(j % 7);
    for (int j = 0; j < 20; j++) CHECK(choose(sampler) == choose(other));
    ek_sampler_free(sampler);
    ek_sampler_free(other);
  }
  ek_sampler_free(NULL);
  check_tested(8, "bad logits");
}

int main(int argc, char **argv) {
  const int cases = check_start(argc, argv, 500).cases;
  test_exp();
  test_selection(cases);
  test_distributions(cases);
  test_large();
  test_greedy(cases);
  test_penalty();
  test_frequencies();
  test_seeds();
  test_bad_parameters();
  test_bad_logits();
  return check_end();
}
