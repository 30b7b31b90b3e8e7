/* Attention of new tokens over the cache of one layer, over the threads of a pool. */
#ifndef EK_ATTENTION_H
#define EK_ATTENTION_H

#include "error.h"
#include "kernels/kernels.h"
#include "threads/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Token at position q attends to position p where p >= 0, p <= q if causal, and p > q - window if window > 0; its
 * weights are softmax(cap(scale * q . k)), cap(x) = softcap * tanh(x / softcap) if softcap > 0, else x. */
typedef struct ek_attention {
  enum ek_type key_type, value_type; /* f16, q8_0 or q4_0 each */
  size_t kv_heads, group, dims;      /* `group` query heads for each KV head; dims: a multiple of 32, at most 512 */
  float scale, softcap;
  int32_t window;
  int causal;
} ek_attention;

/* What is cached: for each KV head as many blocks of 16 positions (kernels/cache_block.h), in any order. They belong to
 * the caller and are only read. */
typedef struct ek_attention_cache {
  size_t blocks;
  const uint8_t *const *keys;   /* (kv_heads, blocks) */
  const uint8_t *const *values; /* (kv_heads, blocks) */
  const int32_t *positions;     /* (kv_heads, blocks, 16): position in the sequence of what a slot holds; -1: nothing */
  size_t positions_stride;      /* from one head's positions to the next's; 0 where all heads share them */
  size_t blocks_stride;         /* from one head's pointers to the next's; 0: they are `blocks` */
} ek_attention_cache;

/* Bytes of scratch memory for ek_attention_run, in at most `threads` threads. EK_BAD_ARGUMENT: a type, head or size
 * that the comments exclude, no tokens, or more than 2^12 KV heads, 2^8 query heads for each or 2^27 blocks. */
ek_status ek_attention_scratch(const ek_attention *attention, size_t tokens, size_t blocks, unsigned threads,
                               size_t *bytes);

/* out (tokens, kv_heads * group, dims) of queries of that shape at `positions` (tokens); a row that may attend to
 * nothing gives zeros. scratch is aligned to 64 bytes. The result does not depend on the number of threads.
 * EK_BAD_ARGUMENT as above, EK_NO_KERNEL, or what ek_pool_run returns. */
ek_status ek_attention_run(const ek_kernels *kernels, ek_pool *pool, const ek_attention *attention,
                           const ek_attention_cache *cache, const float *queries, const int32_t *positions,
                           size_t tokens, float *out, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
