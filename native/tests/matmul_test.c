/* Every gemv and gemm row of kernels.inc: the scalar ones against a dense product in float64 of the decoded weights,
 * the others against the scalar ones. */
#include "half.h"
#include "kernels/stripe.h"
#include "product.h"

#include <stdlib.h>

/* The written outputs are close, all else is untouched. */
static void compare(const product *p, double tolerance) {
  CHECK(check_buffer_tight(&p->out));
  const float *out = (const float *)p->out.data;
  for (int t = 0; t < p->tokens; t++) {
    for (int r = 0; r < p->out_stride && (t + 1 < p->tokens || r < p->rows); r++) {
      const float actual = out[t * p->out_stride + r];
      if (r >= p->rows) {
        if (ek_bits_of_float(actual) != 0xffffffffu) check_fail("token %d: wrote %g after the last row", t, actual);
        continue;
      }
      const double expected = p->expected[t * p->rows + r], terms = p->terms[t * p->rows + r];
      if (ek_bits_of_float(actual) == 0xffffffffu) check_fail("token %d, row %d: not written", t, r);
      if (!check_close(expected, actual, terms, tolerance))
        check_fail("token %d, row %d: %.9g, should be %.9g (terms %g)", t, r, actual, expected, terms);
    }
  }
}

static void run(const check_row *row, const product *p, const uint8_t *stripes, float *out, int out_stride) {
  const ek_activations x = product_activations(p);
  const size_t rows = (size_t)p->rows, columns = (size_t)p->columns;
  if (row->operation == CHECK_gemm) {
    ((ek_gemm_fn *)row->kernel)(stripes, rows, columns, &x, (size_t)p->tokens, out, (size_t)out_stride);
  } else {
    ((ek_gemv_fn *)row->kernel)(stripes, rows, columns, &x, out);
  }
}

/* The scalar row's product becomes the expected one. */
static void scalar_product(const check_row *row, product *p) {
  const size_t stripes = (size_t)(p->rows + EK_STRIPE - 1) / EK_STRIPE, count = (size_t)(p->tokens * p->rows);
  uint8_t *packed = malloc(stripes * ek_stripe_bytes(p->type, (size_t)p->columns));
  float *out = malloc(count * sizeof(float));
  ek_repack(p->type, ek_level_interleave(EK_LEVEL_scalar), p->blocks, (size_t)p->rows, (size_t)p->columns, 0, stripes,
            packed);
  run(check_find(row->operation, row->type, EK_LEVEL_scalar), p, packed, out, p->rows);
  for (size_t i = 0; i < count; i++) p->expected[i] = out[i];
  free(packed);
  free(out);
}

static void test_row(const check_row *row, int cases) {
  const char *operation = check_operation_names[row->operation], *type = ek_formats[row->type].name;
  const char *level = ek_level_name(row->level);
  for (int number = 0; number < cases; number++) {
    product p = product_new(row->type, row->operation == CHECK_gemm, number, ek_level_interleave(row->level));
    check_case("%s %s %s, case %d: %d rows x %d columns, %d tokens, stride %d", operation, type, level, number, p.rows,
               p.columns, p.tokens, p.out_stride);
    run(row, &p, p.stripes.data, (float *)p.out.data, p.out_stride);
    compare(&p, row->level == EK_LEVEL_scalar ? 1e-6 : 1e-5);
    if (row->level != EK_LEVEL_scalar) {
      scalar_product(row, &p);
      compare(&p, 1e-5);
    }
    product_free(&p);
  }
  check_tested(cases, "%s %s %s", operation, type, level);
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 60);
  for (const check_row *row = check_rows; row->kernel; row++) {
    const int is_product = row->operation == CHECK_gemv || row->operation == CHECK_gemm;
    if (is_product && check_wanted(&options, row->level)) test_row(row, options.cases);
  }
  return check_end();
}
