/* edgekit: runs GGUF language models on phones and small boards.
 *
 * Handles are opaque; whoever gets one from a create or open function frees it with the matching free function, which
 * takes NULL too. Every function that can fail returns an ek_status and leaves its outputs as they were; ek_last_error
 * then has the sentence. Nothing here prints, aborts, or keeps state outside its handles (but the once-filled table of
 * kernels). Strings are UTF-8 and belong to the caller of a function, or to the handle that they were got from.
 *
 * Threads: a model may be used by any number of threads at once. A context is used by one thread at a time; only
 * ek_cancel may be called from another while it works. Contexts of one model share its thread pool and take turns.
 *
 * Parameter structs begin with struct_size: set it to sizeof and the rest to 0 for defaults (EK_INIT does). Members may
 * be added at the end; 0 keeps meaning the default. */
#ifndef EDGEKIT_H
#define EDGEKIT_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define EK_API __attribute__((visibility("default")))
#else
#define EK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EK_VERSION_MAJOR 0
#define EK_VERSION_MINOR 1

/* major << 16 | minor of the library, to compare with the macros of the header. */
EK_API uint32_t ek_version(void);

/* Values are part of the interface: they do not change. */
typedef enum ek_status {
  EK_OK = 0,
  EK_BAD_ARGUMENT = 1, /* a size, index or pointer that the function's comment excludes */
  EK_NO_MEMORY = 2,
  EK_NO_THREAD = 3,   /* the system refused to start one */
  EK_NO_KERNEL = 4,   /* EDGEKIT_ISA names no level that this machine can run */
  EK_NESTED_RUN = 5,  /* a callback called back into the context that it serves */
  EK_CANNOT_READ = 6, /* the file is not there or not readable */
  EK_BAD_FILE = 7,    /* not a GGUF, truncated, or it contradicts itself */
  EK_UNSUPPORTED = 8, /* a GGUF of a model or type that is not supported */
  EK_CACHE_FULL = 9,  /* the tokens do not fit; nothing was added */
  EK_CANCELLED = 10,  /* ek_cancel, or a callback asked to stop; what was finished before is kept */
} ek_status;

/* "out of memory"; a sentence without its full stop. Never NULL. */
EK_API const char *ek_status_text(ek_status status);

/* Why the last call of this thread that failed did: one sentence naming the file or argument and the way out. Empty
 * before the first. It stays valid until the thread's next call of a function that can fail. */
EK_API const char *ek_last_error(void);

/* ---- model */

typedef struct ek_model ek_model;

/* Called now and then while a model loads, with 0 <= done <= total bytes; a value other than 0 stops: EK_CANCELLED. */
typedef int ek_progress_fn(void *user, uint64_t done, uint64_t total);

typedef struct ek_model_params {
  size_t struct_size;
  uint32_t threads;         /* 0: one for each big core that this thread may run on */
  ek_progress_fn *progress; /* may be NULL */
  void *user;
} ek_model_params;

/* What a model is. Counts per layer are got with ek_model_heads. */
typedef struct ek_model_info {
  size_t struct_size;
  uint32_t layers, hidden, head_dim, vocab;
  uint32_t context;      /* positions that it was trained for */
  uint32_t window;       /* of its sliding-window layers; 0: it has none */
  uint64_t weight_bytes; /* held in memory, packed */
  uint64_t mapped_bytes; /* left in the file, read when needed (an embedding table that is not also the head) */
  uint64_t decode_bytes; /* of weights that every decoded token reads */
  uint32_t threads;
  const char *architecture; /* "gemma3" */
  const char *isa;          /* level of the kernels: "avx512vnni" */
} ek_model_info;

/* Maps the file, checks all of its header against its size, and packs the weights for this machine. params may be NULL.
 * EK_CANNOT_READ, EK_BAD_FILE, EK_UNSUPPORTED, EK_NO_MEMORY, EK_NO_THREAD, EK_NO_KERNEL, EK_CANCELLED. */
EK_API ek_status ek_model_open(const char *path, const ek_model_params *params, ek_model **model);
/* After all of its contexts. */
EK_API void ek_model_free(ek_model *model);
/* Set info->struct_size before the call. */
EK_API ek_status ek_model_describe(const ek_model *model, ek_model_info *info);
/* Query and KV heads of a layer. */
EK_API ek_status ek_model_heads(const ek_model *model, uint32_t layer, uint32_t *heads, uint32_t *kv_heads);

/* ---- context: sequences and their attention cache */

typedef struct ek_context ek_context;

typedef enum ek_cache_type_id { EK_CACHE_F16 = 0, EK_CACHE_Q8_0 = 1, EK_CACHE_Q4_0 = 2 } ek_cache_type_id;

typedef struct ek_context_params {
  size_t struct_size;
  uint32_t positions;            /* that one sequence may hold; 0: the model's context, at most 4096 */
  uint32_t sequences;            /* 0: 1 */
  uint32_t key_type, value_type; /* ek_cache_type_id */
  uint32_t micro_batch;          /* tokens computed at once; 0: 512 (the cancel latency of a prefill) */
  uint32_t float_activations;    /* not 0: weights are multiplied with unrounded activations, slowly; for comparisons */
} ek_context_params;

typedef struct ek_cache_stats {
  size_t struct_size;
  uint64_t allocated_bytes, peak_bytes; /* of the cache now, and at most so far; tables included */
  uint64_t shared_bytes;                /* of them in blocks that more than one sequence holds */
} ek_cache_stats;

EK_API ek_status ek_context_create(ek_model *model, const ek_context_params *params, ek_context **context);
EK_API void ek_context_free(ek_context *context);

/* Appends `count` tokens to a sequence and, where logits is not NULL, writes those of the last `outputs` tokens,
 * (outputs, vocab) floats, 1 <= outputs <= count. Computed in micro-batches; only the wanted logits are computed.
 * EK_BAD_ARGUMENT: no such sequence or token, or count 0. EK_CACHE_FULL: nothing was added. EK_CANCELLED: the
 * micro-batches that were finished are in the cache, see ek_sequence_length. */
EK_API ek_status ek_prefill(ek_context *context, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                            size_t outputs);

/* Appends one token to each of `count` different sequences, at whatever length they are; logits (count, vocab), may be
 * NULL. EK_CACHE_FULL: nothing was added to any. */
EK_API ek_status ek_decode(ek_context *context, const uint32_t *sequences, const int32_t *tokens, size_t count,
                           float *logits);

/* Tokens of a sequence so far, dropped ones included: the next one's position. */
EK_API ek_status ek_sequence_length(const ek_context *context, uint32_t sequence, uint64_t *length);
/* Forgets all tokens from `length` on. EK_BAD_ARGUMENT where a sliding-window layer has already let go of positions
 * that the shorter sequence needs (unless length is 0). */
EK_API ek_status ek_sequence_truncate(ek_context *context, uint32_t sequence, uint64_t length);
/* `to` becomes a copy of `from`; whole blocks are shared until one of the two writes to them. */
EK_API ek_status ek_sequence_fork(ek_context *context, uint32_t from, uint32_t to);
EK_API ek_status ek_cache_describe(const ek_context *context, ek_cache_stats *stats);

/* Makes the call that works on the context return EK_CANCELLED before its next micro-batch or token; a call that comes
 * later is not affected. From any thread. */
EK_API void ek_cancel(ek_context *context);

/* ---- sampling */

typedef struct ek_sampler ek_sampler;

/* Applied in the order of its members; all 0: greedy. */
typedef struct ek_sampler_params {
  size_t struct_size;
  float repetition_penalty; /* logits of the last `penalty_last` tokens: divided if positive, else multiplied; 0, 1:
                               none */
  uint32_t penalty_last;    /* 0: 64 */
  float temperature;        /* 0: the greatest logit */
  uint32_t top_k;           /* 0: all */
  float top_p;              /* 0, 1: all */
  float min_p;              /* relative to the greatest probability */
  uint64_t seed;
} ek_sampler_params;

EK_API ek_status ek_sampler_create(const ek_sampler_params *params, uint32_t vocab, ek_sampler **sampler);
EK_API void ek_sampler_free(ek_sampler *sampler);
/* Chooses from logits (vocab), which are left as they are, and remembers the choice. NaN logits: EK_BAD_ARGUMENT. */
EK_API ek_status ek_sampler_choose(ek_sampler *sampler, const float *logits, int32_t *token);
/* Tells of a token that was not chosen here (the prompt's), for the repetition penalty. */
EK_API ek_status ek_sampler_accept(ek_sampler *sampler, int32_t token);

/* Called with every generated token; a value other than 0 stops. It must not use the context. */
typedef int ek_token_fn(void *user, int32_t token);

/* Prefills the prompt and generates up to `most` tokens, each given to on_token and appended; stops after one of
 * `ends`. *generated counts them, also when it is cancelled. */
EK_API ek_status ek_generate(ek_context *context, uint32_t sequence, const int32_t *prompt, size_t prompt_count,
                             ek_sampler *sampler, size_t most, const int32_t *ends, size_t end_count,
                             ek_token_fn *on_token, void *user, size_t *generated);

#ifdef __cplusplus
}
#endif

#endif
