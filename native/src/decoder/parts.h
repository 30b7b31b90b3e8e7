/* What the parts of the decoder share. */
#ifndef EK_DECODER_PARTS_H
#define EK_DECODER_PARTS_H

#include "decoder/decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Tokens of one sequence among those that are computed at once. */
typedef struct ek_span {
  uint32_t sequence;
  size_t first, count; /* rows of the buffers */
} ek_span;

/* A task of what is done token by token: up to 16 tokens of a span, whose positions lie in one block of the cache, so
 * that one thread alone writes to it. */
typedef struct ek_piece {
  size_t span, first, count;
} ek_piece;

/* The activation groups that vectors are quantised for, as bits. */
enum { EK_GROUP_32 = 1, EK_GROUP_256 = 2 };

/* Rows are tokens. Heads of queries, keys and values are padded_dim apart for attention. */
struct ek_decoder {
  const ek_model *model;
  ek_cache *cache;
  int floats; /* activations are not quantised */
  size_t most_tokens, most_spans, most_blocks;
  ek_span *spans;
  ek_piece *pieces;
  size_t tokens, span_count, piece_count; /* now */
  const int32_t *ids;
  int32_t *positions;                        /* (tokens) */
  float *hidden, *normed, *delta;            /* (tokens, hidden): the residual; its norm; what is added to it */
  float *queries, *keys, *values, *attended; /* (tokens, heads or kv_heads, padded_dim) */
  float *joined;                             /* (tokens, heads, head_dim): attended without the padding */
  float *gate, *up;                          /* (tokens, ffn) */
  float *cosine[2], *sine[2];                /* (tokens, head_dim / 2), of full and of sliding layers */
  uint8_t *codes[2];                         /* activations quantised in groups of 32 and of 256 */
  uint8_t *attention_scratch, *float_scratch;
  uint8_t *memory; /* of all of these */
};

/* Cuts the spans into pieces. */
void ek_decoder_cut(ek_decoder *d);

/* --- products --- */

unsigned ek_linear_groups(const ek_decoder *d, const ek_linear *const *linears, size_t count);

/* Quantises one row, of `columns`, for those groups; does nothing in the float mode. */
void ek_decoder_quantise(const ek_decoder *d, unsigned groups, const float *row, size_t columns, size_t token);

/* outs[i] (tokens, strides[i]) = x W, without the bias, of rows (tokens, columns) that were quantised for all of the
 * matrices' groups. */
ek_status ek_decoder_multiply(ek_decoder *d, const ek_linear *const *linears, float *const *outs, const size_t *strides,
                              size_t count, const float *x);

/* --- layers --- */

/* One layer on all tokens; `kept` > 0: of the last layer, whose results are wanted for the last so many tokens only,
 * and which become all. 0: for none, so that it ends when keys and values are stored. */
ek_status ek_decoder_layer(ek_decoder *d, uint32_t layer, size_t kept);

/* One piece, in a run of the pool over all of them. */
typedef struct ek_stage {
  ek_decoder *d;
  const ek_layer *layer;
  uint32_t index; /* of the layer */
} ek_stage;

/* Whether keys or values of that type lie in the cache as ek_rotate_heads makes them. */
int ek_is_rotated(enum ek_type type);
/* A row of heads, padded_dim apart, in place; twice is none. */
void ek_rotate_heads(const ek_decoder *d, float *row, size_t heads);

/* Biases, norms, rotation and padding of queries, keys and values; stores keys and values. */
void ek_place_heads_task(void *context, size_t index, unsigned worker);

#ifdef __cplusplus
}
#endif

#endif
