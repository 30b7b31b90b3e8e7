/* Models are loaded whole: of every architecture and type, each weight is the file's, read back out of the packed
 * stripes; what a shape is made of; progress and cancelling; parameter structs of other sizes. */
#include "kernels/stripe.h"
#include "model/parts.h"
#include "operators/rope.h"
#include "threads/pool.h"
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const architectures[] = {"llama", "deci", "qwen2", "qwen3", "gemma3"};
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* The file and what is loaded from it; the bytes outlive the model. */
typedef struct loaded {
  tiny_options options;
  tiny_file *file;
  uint8_t *bytes;
  size_t size;
  ek_model *model;
} loaded;

static ek_status load(loaded *l, const ek_model_params *params) {
  const ek_model_params defaults = {.struct_size = sizeof defaults, .threads = 2};
  ek_gguf *file = NULL;
  l->bytes = tiny_bytes(l->file, &l->size);
  l->model = NULL;
  const ek_status status = ek_gguf_read(l->bytes, l->size, "test.gguf", &file);
  return status == EK_OK ? ek_model_load(file, params ? params : &defaults, &l->model) : status;
}

static loaded load_tiny(tiny_options options) {
  loaded l = {.options = tiny_defaults(options), .file = tiny_new(options)};
  if (load(&l, NULL) != EK_OK) check_fail("%s", ek_last_error());
  return l;
}

static void unload(loaded *l) {
  ek_model_free(l->model);
  tiny_free(l->file);
  free(l->bytes);
}

/* --- every weight --- */

static enum ek_type type_of(const tiny_tensor *tensor) {
  for (int type = 0; type < EK_TYPES; type++) {
    static const uint32_t numbers[EK_TYPES] = {0, 1, 30, 8, 2, 3, 6, 7, 20, 12, 13, 14};
    if (numbers[type] == tensor->ggml_type) return (enum ek_type)type;
  }
  return EK_TYPES;
}

/* Row `row` of a tensor as ek_dequantise has it. */
static void dequantised(const tiny_tensor *tensor, size_t row, float *out) {
  const ek_format *format = &ek_formats[type_of(tensor)];
  const size_t blocks = (size_t)tensor->sizes[0] / (size_t)format->block;
  ek_dequantise(format, tensor->data + row * blocks * (size_t)format->block_bytes, blocks, out);
}

static void check_matrix(const loaded *l, const ek_matrix *m, const char *name) {
  const tiny_tensor *tensor = tiny_find(l->file, name);
  if (!tensor || m->rows != tensor->sizes[1] || m->columns != tensor->sizes[0] || m->type != type_of(tensor)) {
    check_fail("%s: %zu x %zu", name, m->rows, m->columns);
    return;
  }
  float *expected = malloc(2 * m->columns * sizeof(float)), *actual = expected + m->columns;
  for (size_t row = 0; row < m->rows; row++) {
    const uint8_t *stripe = m->stripes + row / EK_STRIPE * ek_stripe_bytes(m->type, m->columns);
    dequantised(tensor, row, expected);
    ek_stripe_decode(m->type, m->interleave, m->columns, stripe, row % EK_STRIPE, 1, actual);
    if (memcmp(expected, actual, m->columns * sizeof(float)) != 0) check_fail("%s: row %zu differs", name, row);
  }
  free(expected);
}

/* There where the file has it, with the same values; else NULL. */
static void check_vector(const loaded *l, const float *vector, const char *name) {
  const tiny_tensor *tensor = tiny_find(l->file, name);
  if ((tensor == NULL) != (vector == NULL)) check_fail("%s is %s", name, vector ? "there" : "not there");
  if (!tensor || !vector) return;
  float *expected = malloc((size_t)tensor->sizes[0] * sizeof(float));
  dequantised(tensor, 0, expected);
  if (memcmp(expected, vector, (size_t)tensor->sizes[0] * sizeof(float)) != 0) check_fail("%s differs", name);
  free(expected);
}

static void check_layer(const loaded *l, unsigned index) {
  const ek_layer *layer = &l->model->layers[index];
  const ek_linear *linears[] = {&layer->q, &layer->k, &layer->v, &layer->o, &layer->gate, &layer->up, &layer->down};
  static const char *const modules[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
  const float *vectors[] = {layer->attention_norm, layer->ffn_norm,   layer->after_attention_norm,
                            layer->after_ffn_norm, layer->query_norm, layer->key_norm};
  static const char *const norms[] = {"attn_norm",     "ffn_norm",    "post_attention_norm",
                                      "post_ffw_norm", "attn_q_norm", "attn_k_norm"};
  char name[64];
  for (int i = 0; i < 7; i++) {
    (void)snprintf(name, sizeof name, "blk.%u.%s.weight", index, modules[i]);
    check_matrix(l, &linears[i]->matrix, name);
    (void)snprintf(name, sizeof name, "blk.%u.%s.bias", index, modules[i]);
    check_vector(l, linears[i]->bias, name);
  }
  for (int i = 0; i < 6; i++) {
    (void)snprintf(name, sizeof name, "blk.%u.%s.weight", index, norms[i]);
    check_vector(l, vectors[i], name);
  }
}

static void check_embedding(const loaded *l) {
  const tiny_tensor *tensor = tiny_find(l->file, "token_embd.weight");
  const ek_shape *shape = &l->model->shape;
  const size_t row_bytes = shape->hidden * sizeof(float);
  float *expected = malloc(row_bytes);
  check_buffer out = check_buffer_new(row_bytes, sizeof(float), CHECK_END);
  for (uint32_t token = 0; token < shape->vocab; token++) {
    ek_model_embed(l->model, (int32_t)token, (float *)(void *)out.data);
    dequantised(tensor, token, expected);
    for (uint32_t i = 0; i < shape->hidden; i++) expected[i] *= shape->embedding_scale;
    if (memcmp(expected, out.data, row_bytes) != 0) check_fail("the embedding of token %u differs", (unsigned)token);
  }
  CHECK(check_buffer_tight(&out));
  check_buffer_free(&out);
  free(expected);
}

/* Sizes as they follow from the file's tensors. */
static void check_sizes(const loaded *l) {
  ek_model_info info = {.struct_size = sizeof info};
  uint64_t packed = 0, mapped = 0, row = 0;
  for (size_t i = 0; i < l->file->tensor_count; i++) {
    const tiny_tensor *tensor = &l->file->tensors[i];
    size_t bytes = (size_t)tensor->sizes[0] * sizeof(float);
    if (l->options.untied && strcmp(tensor->name, "token_embd.weight") == 0) {
      mapped = tensor->bytes;
      row = tensor->bytes / tensor->sizes[1];
      continue;
    }
    if (tensor->dimensions == 2) {
      CHECK(ek_matrix_size(type_of(tensor), tensor->sizes[1], tensor->sizes[0], NULL, &bytes) == EK_OK);
    }
    packed += bytes;
  }
  CHECK(ek_model_describe(l->model, &info) == EK_OK);
  CHECK(info.decode_bytes == packed + row && info.mapped_bytes == mapped);
  CHECK(info.weight_bytes >= packed && info.weight_bytes < packed + 64 * l->file->tensor_count);
  CHECK(info.layers == l->options.layers && info.hidden == l->options.hidden && info.vocab == l->options.vocab);
  CHECK(info.head_dim == l->options.head_dim && info.context == l->options.context && info.threads == 2);
  CHECK(strcmp(info.architecture, l->options.architecture) == 0 && strlen(info.isa) > 0);
}

static void check_heads(const loaded *l) {
  for (uint32_t i = 0; i < l->options.layers; i++) {
    const uint32_t divisor = l->options.vary && i % 2 ? 2 : 1;
    uint32_t heads = 0, kv_heads = 0;
    CHECK(ek_model_heads(l->model, i, &heads, &kv_heads) == EK_OK);
    CHECK(heads == l->options.heads / divisor && kv_heads == l->options.kv_heads / divisor);
    CHECK(l->model->layers[i].ffn == l->options.ffn / divisor);
  }
}

static void check_whole(const tiny_options options) {
  check_case("%s, %s%s%s%s", options.architecture, ek_formats[options.type].name, options.untied ? ", untied" : "",
             options.biases ? ", biases" : "", options.vary ? ", counts of each layer" : "");
  loaded l = load_tiny(options);
  if (l.model) {
    for (unsigned i = 0; i < l.model->shape.layers; i++) check_layer(&l, i);
    check_vector(&l, l.model->output_norm, "output_norm.weight");
    check_matrix(&l, &l.model->head.matrix, options.untied ? "output.weight" : "token_embd.weight");
    CHECK((l.model->embedding != NULL) == options.untied && (l.model->file != NULL) == options.untied);
    check_embedding(&l);
    check_sizes(&l);
    check_heads(&l);
  }
  unload(&l);
}

/* Few: each type in one architecture, since encoding takes long under qemu. */
static void test_whole(int few) {
  int tested = 0;
  for (int a = 0; a < ARCHITECTURES; a++) {
    for (int type = 0; type < EK_TYPES; type++) {
      if (few && type % ARCHITECTURES != a) continue;
      const int superblocks = ek_formats[type].block == EK_SUPERBLOCK;
      check_whole((tiny_options){.architecture = architectures[a],
                                 .type = (enum ek_type)type,
                                 .untied = (a + type) % 2,
                                 .biases = a < 2 && type % 3 == 0,
                                 .layers = 2,
                                 .hidden = superblocks ? 256 : 96,
                                 .ffn = superblocks ? 256 : 64,
                                 .head_dim = superblocks ? 64 : 24,
                                 .seed = (uint64_t)type});
      tested++;
    }
    check_whole((tiny_options){.architecture = architectures[a],
                               .type = EK_TYPE_q8_0,
                               .vary = 1,
                               .head_dim = 16,
                               .hidden = 64,
                               .heads = 8,
                               .kv_heads = 4,
                               .ffn = 128,
                               .vocab = 37});
    tested++;
  }
  check_whole((tiny_options){.architecture = "qwen3", .layers = 1, .vocab = 5003}); /* packed in two pieces */
  check_tested(tested + 1, "every weight");
}

/* --- shapes --- */

static int close_to(double a, double b) { return fabs(a - b) <= 1e-6 * fabs(b); }

static void test_defaults(void) {
  static const struct {
    const char *architecture;
    int geglu, adjacent, window, differ;
    float scale;
  } expected[] = {{"llama", 0, 1, 0, 0, 1},
                  {"deci", 0, 1, 0, 0, 1},
                  {"qwen2", 0, 0, 0, 0, 1},
                  {"qwen3", 0, 0, 0, 0, 1},
                  {"gemma3", 1, 0, 16, 1, 16}};
  for (int a = 0; a < ARCHITECTURES; a++) {
    check_case("the shape of %s", architectures[a]);
    loaded l = load_tiny((tiny_options){.architecture = architectures[a], .layers = 7});
    if (l.model) {
      const ek_shape *shape = &l.model->shape;
      CHECK(strcmp(shape->architecture, expected[a].architecture) == 0 && shape->geglu == expected[a].geglu);
      CHECK(shape->rope_adjacent == expected[a].adjacent && shape->window == (uint32_t)expected[a].window);
      CHECK(shape->embedding_scale == expected[a].scale && shape->norm_epsilon == 1e-5f && shape->padded_dim == 64);
      CHECK(shape->attention_scale == 0.125f && shape->logit_softcap == 0);
      CHECK((l.model->frequencies != l.model->sliding_frequencies) == expected[a].differ);
      for (int i = 0; i < 7; i++) CHECK(l.model->layers[i].sliding == (a == 4 && i != 5));
      CHECK(close_to(l.model->frequencies[3], pow(a == 4 ? 1e6 : 1e4, -6.0 / 64)));
      CHECK(close_to(l.model->sliding_frequencies[3], pow(1e4, -6.0 / 64)));
    }
    unload(&l);
  }
  check_tested(ARCHITECTURES, "shapes");
}

/* Files with keys of their own; what their models then are. */
static void check_changed(const char *what, tiny_file *file, int expected(const ek_model *)) {
  loaded l = {.file = file};
  check_case("%s", what);
  if (load(&l, NULL) != EK_OK) {
    check_fail("%s", ek_last_error());
  } else {
    CHECK(expected(l.model));
  }
  unload(&l);
}

static tiny_file *tiny(const char *architecture) { return tiny_new((tiny_options){.architecture = architecture}); }

static int is_halved(const ek_model *m) {
  return close_to(m->frequencies[3], pow(m->shape.geglu ? 1e6 : 1e4, -6.0 / 64) / 2) &&
         close_to(m->sliding_frequencies[0], m->shape.geglu ? 1 : 0.5);
}
static int is_not_scaled(const ek_model *m) { return close_to(m->frequencies[3], pow(1e4, -6.0 / 64)); }
static int is_divided(const ek_model *m) {
  return close_to(m->frequencies[0], 1) && close_to(m->frequencies[31], pow(1e4, -62.0 / 64) / 4);
}
static int has_local_base(const ek_model *m) { return close_to(m->sliding_frequencies[3], pow(500, -6.0 / 64)); }
static int is_every_second(const ek_model *m) {
  return m->layers[0].sliding && !m->layers[1].sliding && m->layers[2].sliding && m->shape.window == 16;
}
static int is_flagged(const ek_model *m) {
  return !m->layers[0].sliding && m->layers[1].sliding && !m->layers[2].sliding && m->shape.window == 16;
}
static int is_full(const ek_model *m) {
  return !m->layers[0].sliding && !m->layers[2].sliding && m->shape.window == 0 &&
         m->frequencies == m->sliding_frequencies;
}
static int is_capped(const ek_model *m) { return m->shape.logit_softcap == 30; }
static int is_not_capped(const ek_model *m) { return m->shape.logit_softcap == 0; }
static int has_short_context(const ek_model *m) { return m->shape.context == 48 && m->shape.window == 0; }
static int has_split_heads(const ek_model *m) { return m->shape.head_dim == 64 && m->layers[0].kv_heads == 4; }
static int has_27b_scale(const ek_model *m) { return close_to(m->shape.attention_scale, 1 / sqrt(128 / 4)); }
static int has_six_dims(const ek_model *m) { return m->shape.head_dim == 6 && m->shape.padded_dim == 32; }

static void test_keys(void) {
  tiny_file *file = tiny("qwen2");
  tiny_set_text(file, "qwen2.rope.scaling.type", "linear");
  tiny_set_float(file, "qwen2.rope.scaling.factor", 2);
  check_changed("linear scaling", file, is_halved);
  file = tiny("gemma3");
  tiny_set_float(file, "gemma3.rope.scaling.factor", 2);
  check_changed("linear scaling of full layers, without a type", file, is_halved);
  file = tiny("llama");
  tiny_set_float(file, "llama.rope.scale_linear", 2);
  check_changed("linear scaling by its old name", file, is_halved);
  tiny_set_text(file = tiny("llama"), "llama.rope.scaling.type", "none");
  tiny_set_float(file, "llama.rope.scaling.factor", 2);
  check_changed("scaling of type none", file, is_not_scaled);
  tiny_unset(file = tiny("qwen3"), "qwen3.rope.freq_base");
  check_changed("the default RoPE base", file, is_not_scaled);
  file = tiny("deci");
  float *factors = (float *)(void *)tiny_add(file, "rope_freqs.weight", EK_TYPE_f32, 32, 0, 0)->data;
  for (int i = 0; i < 32; i++) factors[i] = i < 16 ? 1 : 4;
  check_changed("RoPE factors", file, is_divided);
  tiny_set_float(file = tiny("gemma3"), "gemma3.rope.freq_base_swa", 500);
  check_changed("a RoPE base of sliding layers", file, has_local_base);
  tiny_set_uint(file = tiny("gemma3"), "gemma3.attention.sliding_window_pattern", 2);
  check_changed("a sliding period", file, is_every_second);
  tiny_set_flags(file = tiny("gemma3"), "gemma3.attention.sliding_window_pattern", (const uint8_t *)"\0\1\0", 3);
  check_changed("sliding flags", file, is_flagged);
  tiny_set_uint(file = tiny("gemma3"), "gemma3.attention.sliding_window_pattern", 1);
  check_changed("a sliding period of 1", file, is_full);
  tiny_unset(file = tiny("gemma3"), "gemma3.attention.sliding_window");
  check_changed("no sliding window", file, is_full);
  tiny_set_float(file = tiny("gemma3"), "gemma3.final_logit_softcapping", 30);
  check_changed("a cap of logits", file, is_capped);
  tiny_set_float(file = tiny("gemma3"), "gemma3.attn_logit_softcapping", 50);
  check_changed("a cap that the graph does not have", file, is_not_capped);
  tiny_set_float(file = tiny("llama"), "llama.final_logit_softcapping", 30);
  check_changed("a cap of another graph's logits", file, is_not_capped);
  tiny_set_uint(file = tiny("qwen2"), "qwen2.attention.sliding_window", 48);
  check_changed("a window that the graph does not have", file, has_short_context);
  file = tiny_new((tiny_options){.architecture = "llama", .kv_heads = 4});
  tiny_unset(file, "llama.attention.key_length");
  tiny_unset(file, "llama.attention.value_length");
  tiny_unset(file, "llama.attention.head_count_kv");
  check_changed("head sizes that follow from others", file, has_split_heads);
  check_changed("heads of 6 dimensions", tiny_new((tiny_options){.architecture = "qwen3", .head_dim = 6}),
                has_six_dims);
  check_tested(17, "keys");
}

/* Gemma 3 27B: its shape alone. */
static void test_27b(void) {
  tiny_file *file = tiny_new((tiny_options){.architecture = "gemma3", .layers = 8, .hidden = 128});
  size_t size;
  ek_gguf *gguf = NULL;
  ek_model model = {.file = NULL};
  check_case("62 layers");
  tiny_set_uint(file, "gemma3.block_count", 62);
  uint8_t *bytes = tiny_bytes(file, &size);
  CHECK(ek_gguf_read(bytes, size, "test.gguf", &gguf) == EK_OK);
  CHECK(ek_shape_read(gguf, &model.shape, &model.layers) == EK_OK && has_27b_scale(&model));
  free(model.layers);
  ek_gguf_close(gguf);
  free(bytes);
  tiny_free(file);
  check_tested(1, "the scale of 62 layers");
}

/* --- progress --- */

typedef struct progress {
  uint64_t done, total;
  int calls, stop_at; /* 0: never */
} progress;

static int on_progress(void *user, uint64_t done, uint64_t total) {
  progress *p = user;
  CHECK(done >= p->done && done <= total && (p->calls == 0 || total == p->total));
  CHECK(p->calls != 0 || done == 0);
  p->done = done;
  p->total = total;
  return ++p->calls == p->stop_at;
}

static void test_progress(void) {
  progress p = {.stop_at = 0};
  const ek_model_params params = {.struct_size = sizeof params, .threads = 2, .progress = on_progress, .user = &p};
  loaded l = {.file = tiny_new((tiny_options){.layers = 1})};
  check_case("progress");
  CHECK(load(&l, &params) == EK_OK && p.done == p.total && p.total > 0);
  const int calls = p.calls;
  CHECK(calls > 9);
  for (int stop_at = 1; stop_at <= calls; stop_at++) {
    check_case("stopped at call %d of %d", stop_at, calls);
    loaded stopped = {.file = tiny_new((tiny_options){.layers = 1})};
    p = (progress){.stop_at = stop_at};
    CHECK(load(&stopped, &params) == EK_CANCELLED && stopped.model == NULL && p.calls == stop_at);
    CHECK(strstr(ek_last_error(), "cancelled") != NULL);
    unload(&stopped);
  }
  unload(&l);
  check_tested(calls + 1, "progress");
}

/* --- parameters, results, files --- */

typedef struct longer_params {
  ek_model_params known;
  uint64_t more;
} longer_params;

typedef struct longer_info {
  ek_model_info known;
  uint64_t more;
} longer_info;

static void check_params(const char *path) {
  ek_model *model = NULL;
  longer_params longer = {.known = {.struct_size = sizeof longer}};
  check_case("parameters");
  CHECK(ek_model_open(path, (const ek_model_params *)&longer, &model) == EK_OK);
  ek_model_free(model);
  longer.more = 1;
  model = NULL;
  CHECK(ek_model_open(path, (const ek_model_params *)&longer, &model) == EK_BAD_ARGUMENT && model == NULL);
  CHECK(strstr(ek_last_error(), "does not know"));
  longer = (longer_params){.known = {.struct_size = offsetof(ek_model_params, progress), .threads = 1}};
  longer.known.progress = (ek_progress_fn *)(uintptr_t)1; /* not looked at */
  CHECK(ek_model_open(path, &longer.known, &model) == EK_OK && ek_pool_threads(model->pool) == 1);
  ek_model_free(model);
  model = NULL;
  longer.known.struct_size = 0;
  CHECK(ek_model_open(path, &longer.known, &model) == EK_BAD_ARGUMENT && strstr(ek_last_error(), "sizeof"));
  longer.known = (ek_model_params){.struct_size = sizeof longer.known, .threads = EK_MOST_THREADS + 1};
  CHECK(ek_model_open(path, &longer.known, &model) == EK_BAD_ARGUMENT && strstr(ek_last_error(), "threads"));
  CHECK(ek_model_open(NULL, NULL, &model) == EK_BAD_ARGUMENT && ek_model_open(path, NULL, NULL) == EK_BAD_ARGUMENT);
  CHECK(ek_model_open("/nowhere/x.gguf", NULL, &model) == EK_CANNOT_READ && model == NULL);
  CHECK(strstr(ek_last_error(), "/nowhere/x.gguf"));
}

static void check_info(const ek_model *model) {
  longer_info longer = {.known = {.struct_size = sizeof longer}, .more = 77};
  ek_model_info info = {.struct_size = offsetof(ek_model_info, vocab), .vocab = 77};
  uint32_t heads = 77, kv_heads = 77;
  check_case("results");
  CHECK(ek_model_describe(model, (ek_model_info *)&longer) == EK_OK && longer.more == 0 && longer.known.vocab == 40);
  CHECK(longer.known.struct_size == sizeof longer);
  CHECK(ek_model_describe(model, &info) == EK_OK && info.head_dim == 64 && info.vocab == 77);
  info.struct_size = 3;
  CHECK(ek_model_describe(model, &info) == EK_BAD_ARGUMENT && ek_model_describe(model, NULL) == EK_BAD_ARGUMENT);
  CHECK(ek_model_describe(NULL, &info) == EK_BAD_ARGUMENT);
  CHECK(ek_model_heads(model, 3, &heads, &kv_heads) == EK_BAD_ARGUMENT && heads == 77);
  CHECK(ek_model_heads(model, 0, NULL, &kv_heads) == EK_BAD_ARGUMENT && kv_heads == 77);
  ek_model_free(NULL);
}

/* The same stripes from a mapped file, and with other threads. */
static void check_same(const ek_model *a, const ek_model *b) {
  CHECK(a->weight_bytes == b->weight_bytes);
  for (uint32_t i = 0; i < a->shape.layers; i++) {
    const ek_matrix *x = &a->layers[i].down.matrix, *y = &b->layers[i].down.matrix;
    CHECK(memcmp(x->stripes, y->stripes, x->rows / EK_STRIPE * ek_stripe_bytes(x->type, x->columns)) == 0);
  }
}

static void test_files(void) {
  char folder[] = "/tmp/edgekit-model-XXXXXX", path[64];
  const ek_model_params three = {.struct_size = sizeof three, .threads = 3};
  CHECK(mkdtemp(folder) != NULL);
  (void)snprintf(path, sizeof path, "%s/x.gguf", folder);
  for (int untied = 0; untied < 2; untied++) {
    check_case("a file, %s", untied ? "untied" : "tied");
    loaded l = load_tiny((tiny_options){.type = EK_TYPE_q5_1, .untied = untied});
    tiny_save(l.file, path);
    ek_model *opened = NULL;
    if (ek_model_open(path, &three, &opened) != EK_OK) {
      check_fail("%s", ek_last_error());
    } else {
      check_same(opened, l.model);
      ek_model_free(l.model);
      l.model = opened;
      check_embedding(&l);
      check_info(opened);
    }
    unload(&l);
  }
  check_params(path);
  CHECK(remove(path) == 0 && remove(folder) == 0);
  check_tested(4, "files and parameters");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 100);
  test_whole(options.cases < 100);
  test_defaults();
  test_keys();
  test_27b();
  test_progress();
  test_files();
  return check_end();
}
