/* Packed stripes against what stripe.h says of them: every weight, read back in the obvious way; missing rows; sizes;
 * and that stripes do not depend on how the work was cut. */
#include "check.h"
#include "kernels/stripe.h"

#include <stdlib.h>
#include <string.h>

typedef struct matrix {
  enum ek_type type;
  int interleave;
  size_t rows, columns, stripes;
  check_buffer blocks, packed;
} matrix;

static size_t row_bytes(const matrix *m) {
  const ek_format *format = &ek_formats[m->type];
  return m->columns / (size_t)format->block * (size_t)format->block_bytes;
}

/* Equal, or both NaN; of either sign where 0. */
static int same(float a, float b) { return a == b || (a != a && b != b); }

/* Every weight is the one that the blocks decode to, and 0 in a missing row. */
static void check_weights(const matrix *m) {
  const ek_format *format = &ek_formats[m->type];
  const size_t bytes = ek_stripe_bytes(m->type, m->columns);
  float *expected = calloc(2 * m->columns, sizeof(float)), *actual = expected + m->columns;
  for (size_t row = 0; row < m->stripes * EK_STRIPE; row++) {
    if (row < m->rows) {
      ek_dequantise(format, m->blocks.data + row * row_bytes(m), m->columns / (size_t)format->block, expected);
    } else {
      memset(expected, 0, m->columns * sizeof(float));
    }
    const uint8_t *stripe = m->packed.data + row / EK_STRIPE * bytes;
    ek_stripe_decode(m->type, m->interleave, m->columns, stripe, row % EK_STRIPE, 1, actual);
    size_t k = 0;
    while (k < m->columns && same(expected[k], actual[k])) k++;
    if (k < m->columns) check_fail("row %zu, column %zu: %.9g, should be %.9g", row, k, actual[k], expected[k]);
  }
  free(expected);
}

/* Rows at once are the rows one by one. */
static void check_rows_at_once(check_rng *rng, const matrix *m) {
  const size_t first = (size_t)check_below(rng, EK_STRIPE),
               rows = 1 + (size_t)check_below(rng, (int)(EK_STRIPE - first));
  const uint8_t *stripe = m->packed.data + (m->stripes - 1) * ek_stripe_bytes(m->type, m->columns);
  check_buffer all = check_buffer_new(rows * m->columns * sizeof(float), sizeof(float), CHECK_END);
  float *one = malloc(m->columns * sizeof(float));
  ek_stripe_decode(m->type, m->interleave, m->columns, stripe, first, rows, (float *)(void *)all.data);
  for (size_t r = 0; r < rows; r++) {
    ek_stripe_decode(m->type, m->interleave, m->columns, stripe, first + r, 1, one);
    CHECK(memcmp(one, all.data + r * m->columns * sizeof(float), m->columns * sizeof(float)) == 0);
  }
  CHECK(check_buffer_tight(&all));
  check_buffer_free(&all);
  free(one);
}

/* The same work in pieces, each to a buffer that ends with it. */
static void check_cuts(check_rng *rng, const matrix *m) {
  const size_t bytes = ek_stripe_bytes(m->type, m->columns);
  for (size_t first = 0; first < m->stripes;) {
    const size_t count = 1 + (size_t)check_below(rng, (int)(m->stripes - first));
    check_buffer piece = check_buffer_new(count * bytes, 1, CHECK_END);
    ek_repack(m->type, m->interleave, m->blocks.data, m->rows, m->columns, first, count, piece.data);
    CHECK(memcmp(piece.data, m->packed.data + first * bytes, count * bytes) == 0);
    CHECK(check_buffer_tight(&piece));
    check_buffer_free(&piece);
    first += count;
  }
}

static void check_sizes(enum ek_type type, int interleave) {
  const ek_format *format = &ek_formats[type];
  const int grows = type == EK_TYPE_q4_k || type == EK_TYPE_q5_k;
  for (size_t columns = (size_t)format->block; columns <= 4096; columns += (size_t)format->block) {
    const size_t before = EK_STRIPE * columns / (size_t)format->block * (size_t)format->block_bytes;
    const size_t after = ek_stripe_bytes(type, columns);
    CHECK(grows ? after > before && (double)after <= 1.03 * (double)before : after == before);
  }
  /* every lane has a place of its own */
  int seen[256] = {0};
  for (size_t r = 0; r < EK_STRIPE; r++) {
    for (size_t k = 0; k < 32; k++) seen[ek_lane(interleave, r, k)]++;
  }
  for (int l = 0; l < 256; l++) CHECK(seen[l] == 1);
}

static void test_case(enum ek_type type, int interleave, int number) {
  const ek_format *format = &ek_formats[type];
  check_rng rng = check_seed(format->name, number);
  const check_place place = (check_place)(number % CHECK_PLACES);
  matrix m = {.type = type, .interleave = interleave};
  m.rows = 1 + (size_t)check_below(&rng, 40);
  m.columns = (size_t)(format->block * (1 + check_below(&rng, format->block == 1 ? 100 : 5)));
  m.stripes = (m.rows + EK_STRIPE - 1) / EK_STRIPE;
  check_case("repack %s, interleave %d, case %d: %zu rows x %zu columns", format->name, interleave, number, m.rows,
             m.columns);
  m.blocks = check_buffer_new(m.rows * row_bytes(&m), 1, place);
  m.packed = check_buffer_new(m.stripes * ek_stripe_bytes(type, m.columns), 1, place);
  check_bytes(&rng, m.blocks.data, m.blocks.bytes); /* all bits, so NaN scales too */
  check_buffer_seal(&m.blocks);
  ek_repack(type, interleave, m.blocks.data, m.rows, m.columns, 0, m.stripes, m.packed.data);
  CHECK(check_buffer_tight(&m.packed));
  check_weights(&m);
  check_rows_at_once(&rng, &m);
  check_cuts(&rng, &m);
  check_buffer_free(&m.blocks);
  check_buffer_free(&m.packed);
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 40);
  for (int type = 0; type < EK_TYPES; type++) {
    for (int interleave = 4; interleave <= 16; interleave += 12) {
      for (int number = 0; number < options.cases; number++) test_case((enum ek_type)type, interleave, number);
      check_sizes((enum ek_type)type, interleave);
      check_tested(options.cases, "repack %s, interleave %d", ek_formats[type].name, interleave);
    }
  }
  return check_end();
}
