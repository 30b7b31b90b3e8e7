/* The frequencies of rotary embeddings: against their formulas as published, and values of another implementation. */
#include "check.h"
#include "operators/rope.h"

#include <math.h>
#include <string.h>

enum { MOST_PAIRS = 128 };

static int near(double actual, double expected, double tolerance) {
  return fabs(actual - expected) <= tolerance * fabs(expected);
}

/* theta_i = base^(-2 i / d) (Su et al., 2021, arXiv:2104.09864). */
static void test_plain(void) {
  double frequencies[MOST_PAIRS];
  for (size_t dims = 2; dims <= 2 * MOST_PAIRS; dims += 2) {
    check_case("plain, %zu dims", dims);
    CHECK(ek_rope_frequencies(dims, 10000, NULL, frequencies) == EK_OK);
    for (size_t i = 0; i < dims / 2; i++) {
      CHECK(near(frequencies[i], exp(-log(10000.0) * 2 * (double)i / (double)dims), 1e-13));
    }
    const ek_rope_scaling none = {.linear = 1};
    double same[MOST_PAIRS];
    CHECK(ek_rope_frequencies(dims, 10000, &none, same) == EK_OK);
    CHECK(memcmp(frequencies, same, dims / 2 * sizeof *same) == 0);
  }
  check_tested(MOST_PAIRS, "plain");
}

static void test_linear(void) {
  double plain[MOST_PAIRS], scaled[MOST_PAIRS];
  const ek_rope_scaling by_8 = {.linear = 8};
  check_case("linear");
  ek_rope_frequencies(256, 1e6, NULL, plain);
  CHECK(ek_rope_frequencies(256, 1e6, &by_8, scaled) == EK_OK);
  for (size_t i = 0; i < 128; i++) CHECK(near(8 * scaled[i], plain[i], 1e-15));
  check_tested(1, "linear");
}

/* Llama 3.1: factor 8 of 8192 positions, low 1, high 4, base 500000, 128 dims. By wavelengths, as its authors write it,
 * and by what transformers 5 gives, in float32. */
static void test_llama3(void) {
  const ek_rope_scaling llama = {.factor = 8, .low_frequency = 1, .high_frequency = 4, .original_context = 8192};
  double frequencies[64], by_factors[64];
  float factors[64];
  check_case("llama3");
  CHECK(ek_rope_frequencies(128, 500000, &llama, frequencies) == EK_OK);
  for (int i = 0; i < 64; i++) {
    const double plain = pow(500000, -i / 64.0), wavelength = 2 * acos(-1) / plain;
    double expected = plain;
    if (wavelength > 8192 / 1.0) {
      expected = plain / 8;
    } else if (wavelength >= 8192 / 4.0) {
      const double smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0);
      expected = (1 - smooth) * plain / 8 + smooth * plain;
    }
    CHECK(near(frequencies[i], expected, 1e-13));
    factors[i] = (float)(plain / expected);
  }
  static const struct {
    int pair;
    double frequency;
  } known[] = {{0, 1.0},
               {1, 0.8146172165870667},
               {20, 0.016560440883040428},
               {28, 0.0032114461064338684},
               {29, 0.0021665706299245358},
               {30, 0.0013718936825171113},
               {32, 0.0005248460220173001},
               {34, 0.0001785077911335975},
               {35, 9.556212171446532e-05},
               {36, 7.784655463183299e-05},
               {63, 3.068925877869333e-07}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    CHECK(near(frequencies[known[i].pair], known[i].frequency, 1e-6));
  }
  /* the same as a list of factors, as GGUF stores it */
  const ek_rope_scaling listed = {.factors = factors};
  CHECK(ek_rope_frequencies(128, 500000, &listed, by_factors) == EK_OK);
  for (int i = 0; i < 64; i++) CHECK(near(by_factors[i], frequencies[i], 1e-7));
  check_tested(1, "llama3");
}

static void test_rows(void) {
  static const uint64_t positions[] = {0, 1, 2, 4095, 131071, 1000000};
  double frequencies[MOST_PAIRS];
  float cosine[MOST_PAIRS], sine[MOST_PAIRS];
  check_case("rows");
  ek_rope_frequencies(256, 10000, NULL, frequencies);
  for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
    ek_rope_row(frequencies, MOST_PAIRS, positions[p], cosine, sine);
    for (int i = 0; i < MOST_PAIRS; i++) {
      const double angle = (double)positions[p] * pow(10000, -i / 128.0);
      CHECK(fabs(cosine[i] - cos(angle)) <= 6e-8 + 1e-15 * angle);
      CHECK(fabs(sine[i] - sin(angle)) <= 6e-8 + 1e-15 * angle);
    }
  }
  CHECK(cosine[0] != 1); /* position 1000000, by one radian each */
  check_tested(6, "rows");
}

static void test_refusals(void) {
  double frequencies[MOST_PAIRS];
  const float factors[] = {1, 0}, good_factors[] = {1, 2};
  const ek_rope_scaling bad[] = {
      {.linear = -1},
      {.linear = NAN},
      {.factor = -8, .low_frequency = 1, .high_frequency = 4, .original_context = 8192},
      {.factor = 8, .low_frequency = 4, .high_frequency = 4, .original_context = 8192},
      {.factor = 8, .low_frequency = 0, .high_frequency = 4, .original_context = 8192},
      {.factor = 8, .low_frequency = 1, .high_frequency = INFINITY, .original_context = 8192},
      {.factor = 8, .low_frequency = 1, .high_frequency = 4},
      {.factors = factors},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_case("refusal %zu", i);
    CHECK(ek_rope_frequencies(4, 10000, &bad[i], frequencies) == EK_BAD_ARGUMENT);
  }
  check_case("refusals");
  CHECK(ek_rope_frequencies(4, 10000, &(ek_rope_scaling){.factors = good_factors}, frequencies) == EK_OK);
  CHECK(ek_rope_frequencies(0, 10000, NULL, frequencies) == EK_BAD_ARGUMENT);
  CHECK(ek_rope_frequencies(5, 10000, NULL, frequencies) == EK_BAD_ARGUMENT);
  CHECK(ek_rope_frequencies(4, 0, NULL, frequencies) == EK_BAD_ARGUMENT);
  CHECK(ek_rope_frequencies(4, NAN, NULL, frequencies) == EK_BAD_ARGUMENT);
  check_tested(sizeof bad / sizeof *bad + 5, "refusals");
}

int main(int argc, char **argv) {
  check_start(argc, argv, 1);
  test_plain();
  test_linear();
  test_llama3();
  test_rows();
  test_refusals();
  return check_end();
}
