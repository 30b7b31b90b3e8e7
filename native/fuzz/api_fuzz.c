/* libFuzzer: bytes as a sequence of public calls, most of their arguments hostile. What each call has to return is
 * known from what was called before. tests/api_calls_test.c runs it on random bytes. */
#include "edgekit.h"
#include "model/parts.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 24, CONTEXTS = 2, MOST_SEQUENCES = 3, WINDOW = 16, MOST_TOKENS = 24 };

/* What a context should be. */
typedef struct shadow {
  ek_context *context; /* NULL: none */
  uint32_t positions, sequences;
  uint64_t lengths[MOST_SEQUENCES], longest[MOST_SEQUENCES]; /* now, and since it was empty */
} shadow;

typedef struct world {
  const uint8_t *at, *end;
  shadow contexts[CONTEXTS];
  ek_sampler *sampler;
  shadow *generating;
} world;

unsigned long api_fuzz_calls;

static void demand(int condition) {
  if (!condition) abort();
}

static unsigned take(world *w) { return w->at < w->end ? *w->at++ : 0; }

static unsigned below(world *w, unsigned count) { return take(w) % count; }

/* Mostly one of the usual, at times a great one. */
static uint32_t number(world *w, unsigned usual) {
  static const uint32_t hostile[] = {UINT32_MAX, INT32_MAX, 1u << 31, (1u << 24) + 1, 70000};
  const unsigned kind = take(w);
  return kind < 16 ? hostile[kind % 5] : kind % usual;
}

static float real(world *w) {
  static const float hostile[] = {NAN, INFINITY, -INFINITY, -1, 1e-45f, 3e38f, 2};
  const unsigned kind = take(w);
  return kind < 14 ? hostile[kind % 7] : (float)(kind % 11) / 10;
}

static int32_t token(world *w) {
  static const int32_t hostile[] = {-1, VOCAB, INT32_MAX, INT32_MIN};
  const unsigned kind = take(w);
  return kind < 4 ? hostile[kind] : (int32_t)(kind % VOCAB);
}

static int are_tokens(const int32_t *tokens, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (tokens[i] < 0 || tokens[i] >= VOCAB) return 0;
  }
  return 1;
}

static ek_status checked(ek_status status) {
  api_fuzz_calls++;
  demand((int)status >= EK_OK && status <= EK_CANCELLED);
  demand(status == EK_OK || strlen(ek_last_error()) > 5);
  return status;
}

static ek_model *the_model(void) {
  static ek_model *model;
  static uint8_t *bytes;
  if (model) return model;
  size_t size;
  ek_gguf *file;
  tiny_file *tiny = tiny_new((tiny_options){.architecture = "gemma3",
                                            .layers = 2,
                                            .heads = 2,
                                            .kv_heads = 1,
                                            .head_dim = 32,
                                            .hidden = 32,
                                            .ffn = 32,
                                            .vocab = VOCAB,
                                            .window = WINDOW});
  bytes = tiny_bytes(tiny, &size);
  tiny_free(tiny);
  const ek_model_params params = {.struct_size = sizeof params, .threads = 1};
  demand(ek_gguf_read(bytes, size, "tiny", &file) == EK_OK && ek_model_load(file, &params, &model) == EK_OK);
  return model;
}

/* --- calls --- */

/* A size that a program of another version could have, or none. */
static size_t struct_size(world *w, size_t known) {
  const unsigned kind = take(w);
  return kind < 4 ? kind * 4 : kind < 8 ? known + 8 : known;
}

static void create_context(world *w, shadow *s) {
  struct {
    ek_context_params known;
    uint64_t later;
  } p = {.known = {.positions = number(w, 60),
                   .sequences = number(w, MOST_SEQUENCES + 1),
                   .key_type = number(w, 3),
                   .value_type = number(w, 3),
                   .micro_batch = number(w, 12),
                   .float_activations = take(w) < 32},
         .later = take(w) % 2};
  const size_t size = p.known.struct_size = struct_size(w, sizeof p.known);
  ek_context *context = NULL;
  ek_model *model = take(w) == 0 ? NULL : the_model();
  if (s->context) return;
  ek_context_params read = {.struct_size = 0};
  memcpy(&read, &p.known, size < sizeof read ? size : sizeof read);
  const int right = model && size >= sizeof size && !(size > sizeof read && p.later) && read.positions <= 1 << 24 &&
                    read.sequences <= 1024 && read.micro_batch <= 1 << 14 && read.key_type <= EK_CACHE_Q4_0 &&
                    read.value_type <= EK_CACHE_Q4_0 && !(read.float_activations && (read.key_type || read.value_type));
  const ek_status status = checked(ek_context_create(model, &p.known, &context));
  demand(status == (right ? EK_OK : EK_BAD_ARGUMENT) && (context != NULL) == right);
  if (!right) return;
  *s = (shadow){.context = context,
                .positions = read.positions == 0 ? 96 : read.positions,
                .sequences = read.sequences == 0 ? 1 : read.sequences};
}

static void free_context(shadow *s) {
  ek_context_free(s->context);
  *s = (shadow){.context = NULL};
}

static void check_lengths(const shadow *s) {
  for (uint32_t i = 0; s->context && i < s->sequences; i++) {
    uint64_t length;
    demand(ek_sequence_length(s->context, i, &length) == EK_OK && length == s->lengths[i]);
  }
}

/* What appending would give, arguments apart. */
static ek_status room(const shadow *s, uint32_t sequence, size_t count) {
  if (!s->context || sequence >= s->sequences) return EK_BAD_ARGUMENT;
  return count <= s->positions - s->lengths[sequence] ? EK_OK : EK_CACHE_FULL;
}

static void grow(shadow *s, uint32_t sequence, size_t count) {
  s->lengths[sequence] += count;
  if (s->longest[sequence] < s->lengths[sequence]) s->longest[sequence] = s->lengths[sequence];
}

static void check_logits(const float *logits, size_t rows) {
  for (size_t i = 0; i < rows * VOCAB; i++) demand(isfinite(logits[i]));
}

static void prefill(world *w, shadow *s) {
  int32_t tokens[MOST_TOKENS];
  const uint32_t sequence = number(w, MOST_SEQUENCES + 1);
  const size_t count = below(w, MOST_TOKENS + 1), outputs = below(w, 3) ? below(w, MOST_TOKENS) : 0;
  const int none = take(w) < 4, huge = take(w) == 0;
  for (size_t i = 0; i < count; i++) tokens[i] = token(w);
  float *logits = outputs > 0 ? malloc(outputs * VOCAB * sizeof *logits) : NULL;
  ek_status wanted = room(s, sequence, huge ? SIZE_MAX : count);
  if (wanted == EK_OK && !are_tokens(tokens, count)) wanted = EK_BAD_ARGUMENT;
  if ((count == 0 && !huge) || none || outputs > (huge ? SIZE_MAX : count)) wanted = EK_BAD_ARGUMENT;
  const ek_status status =
      checked(ek_prefill(s->context, sequence, none ? NULL : tokens, huge ? SIZE_MAX : count, logits, outputs));
  demand(status == wanted);
  if (status == EK_OK) {
    grow(s, sequence, count);
    check_logits(logits, outputs);
  }
  free(logits);
}

static void decode(world *w, shadow *s) {
  uint32_t sequences[MOST_SEQUENCES + 2];
  int32_t tokens[MOST_SEQUENCES + 2];
  const size_t count = below(w, MOST_SEQUENCES + 2);
  float *logits = take(w) % 2 ? malloc((count + 1) * VOCAB * sizeof *logits) : NULL;
  ek_status wanted = count > 0 && s->context && count <= s->sequences ? EK_OK : EK_BAD_ARGUMENT;
  for (size_t i = 0; i < count; i++) {
    sequences[i] = number(w, MOST_SEQUENCES);
    tokens[i] = token(w);
  }
  if (!are_tokens(tokens, count)) wanted = EK_BAD_ARGUMENT;
  for (size_t i = 0; i < count && wanted == EK_OK; i++) {
    wanted = room(s, sequences[i], 1);
    for (size_t j = 0; j < i; j++) wanted = sequences[i] == sequences[j] ? EK_BAD_ARGUMENT : wanted;
  }
  const ek_status status = checked(ek_decode(s->context, sequences, tokens, count, logits));
  demand(status == wanted);
  for (size_t i = 0; status == EK_OK && i < count; i++) grow(s, sequences[i], 1);
  if (status == EK_OK && logits) check_logits(logits, count);
  free(logits);
}

static void truncate_sequence(world *w, shadow *s) {
  const uint32_t sequence = number(w, MOST_SEQUENCES + 1);
  const uint64_t length = take(w) < 8 ? UINT64_MAX : number(w, 50);
  const ek_status status = checked(ek_sequence_truncate(s->context, sequence, length));
  if (status == EK_OK) {
    demand(room(s, sequence, 0) == EK_OK && length <= s->lengths[sequence]);
    s->lengths[sequence] = length;
    if (length == 0) s->longest[sequence] = 0;
  } else if (room(s, sequence, 0) == EK_OK && length <= s->lengths[sequence]) { /* a window has gone on */
    demand(length > 0 && length + 1 < s->longest[sequence] && s->longest[sequence] > WINDOW);
  }
}

static void fork_sequence(world *w, shadow *s) {
  const uint32_t from = number(w, MOST_SEQUENCES + 1), to = number(w, MOST_SEQUENCES + 1);
  const ek_status status = checked(ek_sequence_fork(s->context, from, to));
  demand((status == EK_OK) == (room(s, from, 0) == EK_OK && room(s, to, 0) == EK_OK));
  if (status != EK_OK) return;
  s->lengths[to] = s->lengths[from];
  s->longest[to] = s->longest[from];
}

static void describe(world *w, shadow *s) {
  ek_cache_stats stats = {.struct_size = take(w) < 8 ? take(w) % 8 : sizeof stats};
  ek_model_info info = {.struct_size = take(w) < 8 ? take(w) % 8 : sizeof info};
  uint32_t heads, kv_heads;
  const ek_status status = checked(ek_cache_describe(s->context, &stats));
  demand((status == EK_OK) == (s->context && stats.struct_size == sizeof stats));
  if (status == EK_OK) demand(stats.shared_bytes <= stats.allocated_bytes && stats.allocated_bytes <= stats.peak_bytes);
  demand((checked(ek_model_describe(the_model(), &info)) == EK_OK) == (info.struct_size == sizeof info));
  const uint32_t layer = number(w, 4);
  demand((checked(ek_model_heads(the_model(), layer, &heads, &kv_heads)) == EK_OK) == (layer < 2));
  demand(checked(ek_model_open("/none", NULL, &(ek_model *){NULL})) == EK_CANNOT_READ);
}

static void create_sampler(world *w) {
  const ek_sampler_params p = {.struct_size = struct_size(w, sizeof p),
                               .repetition_penalty = real(w),
                               .penalty_last = number(w, 9),
                               .top_k = number(w, VOCAB + 3),
                               .top_p = real(w),
                               .min_p = real(w),
                               .temperature = real(w),
                               .seed = take(w)};
  ek_sampler *made = NULL;
  const uint32_t vocab = take(w) < 8 ? number(w, 2) : VOCAB;
  if (p.struct_size > sizeof p) return; /* there is nothing behind it */
  const ek_status status = checked(ek_sampler_create(&p, vocab, &made));
  demand((status == EK_OK) == (made != NULL));
  ek_sampler *unwanted = vocab == VOCAB && made ? w->sampler : made;
  if (unwanted == w->sampler) w->sampler = made;
  ek_sampler_free(unwanted);
}

static void choose(world *w) {
  float logits[1 << 10];
  int32_t chosen = -5;
  if (!w->sampler) return;
  for (size_t i = 0; i < VOCAB; i++) logits[i] = take(w) < 250 ? (float)take(w) : real(w);
  const ek_status status = checked(ek_sampler_choose(w->sampler, logits, &chosen));
  demand(status == EK_OK ? chosen >= 0 && chosen < VOCAB : chosen == -5);
  chosen = token(w);
  demand((checked(ek_sampler_accept(w->sampler, chosen)) == EK_OK) == are_tokens(&chosen, 1));
}

static int on_token(void *user, int32_t generated) {
  world *w = user;
  ek_context *context = w->generating->context;
  demand(generated >= 0 && generated < VOCAB);
  switch (below(w, 12)) {
  case 0:
    return 1;
  case 1:
    ek_cancel(context);
    return 0;
  case 2:
    demand(checked(ek_prefill(context, 0, &generated, 1, NULL, 0)) == EK_NESTED_RUN);
    return 0;
  case 3:
    demand(checked(ek_sequence_truncate(context, 0, 0)) == EK_NESTED_RUN);
    ek_context_free(context);
    return 0;
  default:
    return 0;
  }
}

static void generate(world *w, shadow *s) {
  int32_t prompt[MOST_TOKENS], end = token(w);
  const uint32_t sequence = number(w, MOST_SEQUENCES + 1);
  const size_t count = below(w, MOST_TOKENS + 1), most = take(w) < 4 ? SIZE_MAX : below(w, 12);
  for (size_t i = 0; i < count; i++) prompt[i] = token(w);
  size_t generated = 99;
  w->generating = s;
  const ek_status status =
      checked(ek_generate(s->context, sequence, prompt, count, w->sampler, most, &end, 1, on_token, w, &generated));
  demand(generated <= most);
  if (room(s, sequence, count) != EK_OK || count == 0 || !are_tokens(prompt, count) || !w->sampler) {
    demand(status != EK_OK && generated == 0);
  } else {
    grow(s, sequence, count + (generated > 0 ? generated - 1 : 0));
  }
}

static void call(world *w) {
  shadow *s = &w->contexts[below(w, CONTEXTS)];
  switch (below(w, 16)) {
  case 0:
    create_context(w, s);
    break;
  case 1:
    if (below(w, 4) == 0) free_context(s);
    break;
  case 2:
    ek_cancel(s->context); /* nothing runs: nothing happens */
    break;
  case 3:
    create_sampler(w);
    break;
  case 4:
    choose(w);
    break;
  case 5:
    describe(w, s);
    break;
  case 6:
  case 7:
    generate(w, s);
    break;
  case 8:
  case 9:
    fork_sequence(w, s);
    break;
  case 10:
  case 11:
    truncate_sequence(w, s);
    break;
  case 12:
  case 13:
    prefill(w, s);
    break;
  default:
    decode(w, s);
  }
  check_lengths(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  world w = {.at = bytes, .end = bytes + size};
  while (w.at < w.end) call(&w);
  for (int i = 0; i < CONTEXTS; i++) free_context(&w.contexts[i]);
  ek_sampler_free(w.sampler);
  return 0;
}
