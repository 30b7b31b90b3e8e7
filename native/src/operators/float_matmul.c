#include "kernels/stripe.h"
#include "operators/float_mode.h"

typedef struct multiplication {
  const ek_matrix *matrix;
  const float *x;
  size_t tokens, stride;
  float *out, *scratch;
} multiplication;

/* Several sums, so that the compiler may take some at once. */
static double dot(const float *a, const float *b, size_t count) {
  enum { SUMS = 8 };
  double sums[SUMS] = {0}, sum = 0;
  size_t k = 0;
  for (; k + SUMS <= count; k += SUMS) {
    for (size_t i = 0; i < SUMS; i++) sums[i] += (double)a[k + i] * b[k + i];
  }
  for (; k < count; k++) sum += (double)a[k] * b[k];
  for (size_t i = 0; i < SUMS; i++) sum += sums[i];
  return sum;
}

/* A stripe is decoded once for all tokens. */
static void stripe_task(void *context, size_t stripe, unsigned worker) {
  const multiplication *job = context;
  const ek_matrix *m = job->matrix;
  const size_t first = stripe * EK_STRIPE, columns = m->columns;
  const size_t rows = m->rows - first < EK_STRIPE ? m->rows - first : EK_STRIPE;
  float *weights = job->scratch + worker * EK_STRIPE * columns;
  ek_stripe_decode(m->type, m->interleave, columns, m->stripes + stripe * ek_stripe_bytes(m->type, columns), 0, rows,
                   weights);
  for (size_t t = 0; t < job->tokens; t++) {
    for (size_t r = 0; r < rows; r++)
      job->out[t * job->stride + first + r] = (float)dot(weights + r * columns, job->x + t * columns, columns);
  }
}

size_t ek_float_matmul_scratch(size_t columns, unsigned threads) {
  return threads * EK_STRIPE * columns * sizeof(float);
}

ek_status ek_float_matmul(ek_pool *pool, const ek_matrix *matrix, const float *x, size_t tokens, float *out,
                          size_t stride, void *scratch) {
  multiplication job = {matrix, x, tokens, stride, out, scratch};
  return ek_pool_run(pool, stripe_task, &job, (matrix->rows + EK_STRIPE - 1) / EK_STRIPE);
}
