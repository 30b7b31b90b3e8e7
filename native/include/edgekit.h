/* edgekit: runs GGUF language models on phones and small boards. Token ids in, logits or token ids out: text is turned
 * into ids, and back, by the program.
 *
 *   ek_model *model = NULL;       // the weights
 *   ek_context *context = NULL;   // tokens so far, and their attention cache
 *   ek_sampler *sampler = NULL;   // how tokens are chosen
 *   ek_model_info info = EK_INIT(ek_model_info);
 *   if (ek_model_open("model.gguf", NULL, &model) != EK_OK || ek_model_describe(model, &info) != EK_OK ||
 *       ek_context_create(model, NULL, &context) != EK_OK || ek_sampler_create(NULL, info.vocab, &sampler) != EK_OK ||
 *       ek_generate(context, 0, prompt, prompt_count, sampler, 100, NULL, 0, print_token, NULL, NULL) != EK_OK)
 *     puts(ek_last_error());
 *   ek_sampler_free(sampler);
 *   ek_context_free(context);
 *   ek_model_free(model);
 *
 * Errors. What can fail returns an ek_status; ek_last_error then has one sentence. A failed call leaves its outputs as
 * they were and changes nothing, but where its comment says otherwise. Nothing here prints, aborts or exits. NULL where
 * no comment allows it is EK_BAD_ARGUMENT; so are indices out of range. Not checked, as it cannot be: that a handle is
 * one that was returned and not freed, and that arrays are as long as their counts say.
 *
 * Ownership. Handles are opaque. Whoever got one from a create or open function frees it, with the matching free
 * function, which takes NULL too. Arrays and structs that are passed in stay the caller's, and are read or written
 * during the call alone; returned strings belong to the handle that they were got from.
 *
 * Threads. Each function says which may call it:
 *   "any thread": at any time, others at the same time.
 *   "one thread at a time": of those that use the same context or sampler, not always the same one. Using a context
 *   that is in use is EK_BAD_ARGUMENT, or EK_NESTED_RUN from a callback of the call that uses it, and harms nothing; a
 *   sampler does not look out for that.
 * Contexts of one model share its threads and take turns layer by layer. Where a processor has little cores too, the
 * model's threads keep to the big ones, and so does a calling thread, unless it may run on little ones alone, while it
 * computes; callbacks run wherever it could before. After fork() the child must use no handle.
 *
 * State. There is none outside of handles but the table of kernels, filled once, and each thread's last error. Results
 * do not depend on the number of threads.
 *
 * Versions. Parameter structs begin with struct_size: EK_INIT sets it, and the rest to 0, which means defaults. Later
 * versions add members at the end, and take the shorter structs of programs that were compiled before; a member that a
 * library does not know yet has to be 0. */
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

/* major << 16 | minor of the library, to compare with the macros of the header. Any thread. */
EK_API uint32_t ek_version(void);

/* ek_context_params params = EK_INIT(ek_context_params); */
#ifdef __cplusplus
extern "C++" template <typename Params> inline Params ek_init_params() {
  Params params = Params();
  params.struct_size = sizeof params;
  return params;
}
#define EK_INIT(type) (ek_init_params<type>())
#else
#define EK_INIT(type) ((type){.struct_size = sizeof(type)})
#endif

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
  EK_CANCELLED = 10,  /* ek_cancel or a callback asked to stop; what was finished before is kept */
} ek_status;

/* "out of memory"; a sentence without its full stop. Never NULL, and there as long as the library is. Any thread. */
EK_API const char *ek_status_text(ek_status status);

/* Why the last call of this thread that failed did: one sentence naming the file or argument and the way out. Empty
 * before the first; never NULL. It stays valid until the thread's next call of a function that can fail, and must not
 * be freed. Any thread: each has its own. */
EK_API const char *ek_last_error(void);

/* ---- model */

/* A language model, ready to run: immutable. */
typedef struct ek_model ek_model;

/* Called in the thread of ek_model_open now and then while a model loads, with 0 <= done <= total bytes; a value other
 * than 0 stops: EK_CANCELLED. */
typedef int ek_progress_fn(void *user, uint64_t done, uint64_t total);

typedef struct ek_model_params {
  size_t struct_size;
  /* At most 1024; 0: one for each big core that this thread may run on. With more, little cores work too, and the
   * others wait for them. */
  uint32_t threads;
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
 * The file must not be changed while the model is there. The caller frees *model. Any thread.
 * EK_CANNOT_READ, EK_BAD_FILE, EK_UNSUPPORTED, EK_NO_MEMORY, EK_NO_THREAD, EK_NO_KERNEL, EK_CANCELLED. */
EK_API ek_status ek_model_open(const char *path, const ek_model_params *params, ek_model **model);

/* After all of its contexts are freed, and while no other thread uses the model. NULL: nothing. */
EK_API void ek_model_free(ek_model *model);

/* Fills in *info, which comes from EK_INIT. The strings live as long as the model. Any thread. */
EK_API ek_status ek_model_describe(const ek_model *model, ek_model_info *info);

/* Query and KV heads of a layer. Any thread. EK_BAD_ARGUMENT: no such layer. */
EK_API ek_status ek_model_heads(const ek_model *model, uint32_t layer, uint32_t *heads, uint32_t *kv_heads);

/* ---- context: sequences and their attention cache */

/* A number of sequences, each a row of tokens at positions 0, 1, ... that were computed with a model, and the memory
 * for computing. The numbers of sequences are 0 .. sequences - 1; all are empty at first. */
typedef struct ek_context ek_context;

typedef enum ek_cache_type_id { EK_CACHE_F16 = 0, EK_CACHE_Q8_0 = 1, EK_CACHE_Q4_0 = 2 } ek_cache_type_id;

typedef struct ek_context_params {
  size_t struct_size;
  uint32_t positions;            /* tokens that one sequence may hold, at most 16777216; 0: the model's context, at most
                                    4096 */
  uint32_t sequences;            /* at most 1024; 0: 1 */
  uint32_t key_type, value_type; /* ek_cache_type_id */
  uint32_t micro_batch;          /* tokens of a prompt computed at once, at most 16384: more are faster and need more
                                    memory, and ek_cancel waits for them; 0: 512 */
  uint32_t float_activations;    /* not 0: weights are multiplied with unrounded activations and the cache is float32,
                                    slowly; for comparisons; key_type and value_type have to be 0 */
} ek_context_params;

/* params may be NULL. The cache's memory is taken as tokens come. The caller frees *context, before the model. Any
 * thread. EK_BAD_ARGUMENT, EK_NO_MEMORY. */
EK_API ek_status ek_context_create(ek_model *model, const ek_context_params *params, ek_context **context);

/* NULL: nothing. One thread at a time: while another call works on the context, as in a callback, nothing is freed. */
EK_API void ek_context_free(ek_context *context);

/* Appends `count` >= 1 tokens to a sequence and writes the logits that follow each of the last `outputs` <= count of
 * them, (outputs, vocab) floats; NULL and 0: none. Only these logits are computed. Works in micro-batches: after
 * EK_CANCELLED and EK_NO_MEMORY those that were finished are in the sequence (ek_sequence_length says how many tokens),
 * and logits are unspecified. One thread at a time.
 * EK_BAD_ARGUMENT: no such sequence or token. EK_CACHE_FULL: not all of the tokens fit; nothing was added. */
EK_API ek_status ek_prefill(ek_context *context, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                            size_t outputs);

/* Appends tokens[i] to sequences[i], `count` different ones at whatever length they are, and writes the logits that
 * follow, (count, vocab) floats; NULL: none. All at once or, after a failure, nothing. One thread at a time.
 * EK_BAD_ARGUMENT: no such sequence or token, or a sequence twice. EK_CACHE_FULL, EK_NO_MEMORY, EK_CANCELLED. */
EK_API ek_status ek_decode(ek_context *context, const uint32_t *sequences, const int32_t *tokens, size_t count,
                           float *logits);

/* Tokens of a sequence so far: the next one's position. One thread at a time. */
EK_API ek_status ek_sequence_length(const ek_context *context, uint32_t sequence, uint64_t *length);

/* Forgets all tokens from `length` on. EK_BAD_ARGUMENT where that is more than there are, or where a sliding-window
 * layer has already let go of positions that the shorter sequence needs: 0 is always possible, and one less than there
 * are after a token was appended. One thread at a time. */
EK_API ek_status ek_sequence_truncate(ek_context *context, uint32_t sequence, uint64_t length);

/* `to` becomes a copy of `from`, whatever it was; memory is shared until one of the two writes to it. Nothing happens
 * where they are the same. One thread at a time. EK_BAD_ARGUMENT: no such sequence. */
EK_API ek_status ek_sequence_fork(ek_context *context, uint32_t from, uint32_t to);

typedef struct ek_cache_stats {
  size_t struct_size;
  uint64_t allocated_bytes, peak_bytes; /* of the cache now, and at most so far; tables included */
  uint64_t shared_bytes;                /* of them in blocks that more than one sequence holds */
} ek_cache_stats;

/* Fills in *stats, which comes from EK_INIT. One thread at a time. */
EK_API ek_status ek_cache_describe(const ek_context *context, ek_cache_stats *stats);

/* Asks the call that works on the context to stop; it then returns EK_CANCELLED. ek_prefill stops before its next
 * micro-batch, which is kept out of the sequence whole; ek_decode before its next layer, and leaves the sequences as
 * they were; ek_generate as the one of the two that it is at. Any thread, callback or signal handler; never waits.
 *
 * It concerns the call that is under way at that moment and no other: it does nothing where none is, and nothing to
 * one that has begun its last micro-batch or its logits, which returns as if it had not been asked. So a request that
 * comes just before a call begins is lost; who must not lose one keeps a flag too and looks at it between calls and in
 * on_token, see examples/generate.c. The context must not be freed meanwhile; NULL: nothing. */
EK_API void ek_cancel(ek_context *context);

/* ---- sampling */

/* Chooses tokens; has a generator of random numbers and the last tokens. The same parameters, logits and calls give the
 * same tokens on every machine. */
typedef struct ek_sampler ek_sampler;

/* Applied in the order of its members, each to what the one before it left: the three filters to the probabilities at
 * temperature 1, the temperature to what they leave. Of equal logits that with the lower number comes first. All 0:
 * the greatest logit. */
typedef struct ek_sampler_params {
  size_t struct_size;
  float repetition_penalty; /* of the last tokens' logits: divided by it if positive, else multiplied; 0 or 1: none */
  uint32_t penalty_last;    /* how many tokens that concerns, at most 1048576; 0: 64 */
  uint32_t top_k;           /* the most probable ones; 0: all */
  float top_p;              /* the smallest set of the most probable ones that makes up this much; 0 or 1: all */
  float min_p;              /* those with at least this share of the greatest probability, 0 .. 1 */
  float temperature;        /* of the final draw; 0: the greatest logit */
  uint64_t seed;
} ek_sampler_params;

/* For logits of `vocab` >= 1 tokens; params may be NULL. The caller frees *sampler. Any thread. EK_BAD_ARGUMENT,
 * EK_NO_MEMORY. */
EK_API ek_status ek_sampler_create(const ek_sampler_params *params, uint32_t vocab, ek_sampler **sampler);

/* NULL: nothing. One thread at a time. */
EK_API void ek_sampler_free(ek_sampler *sampler);

/* Chooses from logits (vocab), which are left as they are, and remembers the choice for the repetition penalty. One
 * thread at a time.
 * EK_BAD_ARGUMENT: logits that are NaN or +infinity, or all -infinity. */
EK_API ek_status ek_sampler_choose(ek_sampler *sampler, const float *logits, int32_t *token);

/* Remembers a token that was not chosen here, as those of a prompt, for the repetition penalty. One thread at a time.
 * EK_BAD_ARGUMENT: no such token. */
EK_API ek_status ek_sampler_accept(ek_sampler *sampler, int32_t token);

/* ---- generation */

/* Called in the thread of ek_generate with every generated token; a value other than 0 stops: EK_CANCELLED. With the
 * context it may call ek_cancel alone, with the sampler nothing. */
typedef int ek_token_fn(void *user, int32_t token);

/* Appends `prompt_count` >= 1 tokens to a sequence, also told to the sampler, and generates up to `most` tokens, each
 * given to on_token (which may be NULL); the last is the `most`th or one of the `end_count` tokens in `ends`.
 * *generated (generated may be NULL) counts the tokens given to on_token, after every failure too. All of them but the
 * last are then in the sequence: begin the next prompt with that one. One thread at a time, of the context and of the
 * sampler.
 * The failures of ek_prefill, ek_decode and ek_sampler_choose; EK_CACHE_FULL may come after some tokens. */
EK_API ek_status ek_generate(ek_context *context, uint32_t sequence, const int32_t *prompt, size_t prompt_count,
                             ek_sampler *sampler, size_t most, const int32_t *ends, size_t end_count,
                             ek_token_fn *on_token, void *user, size_t *generated);

#ifdef __cplusplus
}
#endif

#endif
