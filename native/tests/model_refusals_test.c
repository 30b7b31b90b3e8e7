/* Files that are GGUF, but no model that can be run: each is refused with its own sentence, and nothing is left behind.
 */
#include "model/parts.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is done to a right file. */
typedef enum edit {
  UINT,   /* a key gets a number */
  FLOAT,  /* a key gets a float */
  TEXT,   /* a key gets a text */
  COUNTS, /* a key gets an array: `number` times 2 */
  LAST_0, /* a key gets an array for 3 layers: 2, 2, 0 */
  UNSET,  /* a key goes */
  ROWS,   /* a tensor loses a row, or an element */
  SWAP,   /* a matrix lies on its side */
  DEPTH,  /* a tensor has a third dimension, of 1 */
  TYPE,   /* a tensor gets a type, its bytes stay */
  VECTOR, /* a vector of `number` F32 is added */
  REMOVE, /* a tensor goes */
  HALF,   /* a vector becomes q8_0 */
} edit;

typedef struct refusal {
  const char *architecture;
  edit edit;
  const char *name;
  double number;
  const char *text;
  ek_status status;
  const char *sentence;
} refusal;

#define BAD EK_BAD_FILE
#define NOT EK_UNSUPPORTED
static const char range[] = "not a whole number from 1 to", per_layer[] = "nor one for each of 3 layers";
static const char missing[] = "is missing", shape[] = "the first two";

static const refusal refusals[] = {
    {"llama", UNSET, "general.architecture", 0, NULL, BAD, "general.architecture is missing"},
    {"llama", UINT, "general.architecture", 1, NULL, BAD, "general.architecture is missing or no text"},
    {"llama", TEXT, "general.architecture", 0, "mamba", NOT, "'mamba'"},
    {"llama", TEXT, "general.architecture", 0, "llama4", NOT, "'llama4'"},
    {"llama", TEXT, "general.architecture", 0, "llam", NOT, "'llam'"},
    {"llama", TEXT, "general.architecture", 0, "", NOT, "''"},
    {"llama", TEXT, "general.architecture", 0, "\x1b[2J", NOT, "'?[2J'"},
    {"gemma3", TEXT, "general.architecture", 0, "gemma2", NOT, "'gemma2'"},
    {"llama", UINT, "split.count", 2, NULL, NOT, "llama-gguf-split --merge"},
    {"llama", UNSET, "llama.block_count", 0, NULL, BAD, "llama.block_count is missing"},
    {"llama", UINT, "llama.block_count", 0, NULL, BAD, range},
    {"llama", UINT, "llama.block_count", 513, NULL, BAD, "from 1 to 512"},
    {"llama", UINT, "llama.block_count", 4294967295.0, NULL, BAD, range},
    {"llama", FLOAT, "llama.block_count", 3, NULL, BAD, range},
    {"llama", UINT, "llama.block_count", 4, NULL, BAD, "'blk.3.attn_norm.weight' is missing"},
    {"llama", UINT, "llama.block_count", 2, NULL, NOT, "has the tensor 'blk.2."},
    {"qwen3", UNSET, "qwen3.embedding_length", 0, NULL, BAD, missing},
    {"qwen3", UINT, "qwen3.embedding_length", 0, NULL, BAD, range},
    {"qwen3", UINT, "qwen3.embedding_length", 131073, NULL, BAD, "from 1 to 131072"},
    {"qwen3", UINT, "qwen3.embedding_length", 255, NULL, BAD, shape},
    {"qwen3", UNSET, "qwen3.context_length", 0, NULL, BAD, missing},
    {"qwen3", UINT, "qwen3.context_length", 0, NULL, BAD, range},
    {"qwen3", UINT, "qwen3.context_length", 4294967295.0, NULL, BAD, range},
    {"llama", UNSET, "llama.attention.head_count", 0, NULL, BAD, missing},
    {"llama", UINT, "llama.attention.head_count", 0, NULL, NOT, "head_count is 0 in layer 0"},
    {"llama", UINT, "llama.attention.head_count", 4097, NULL, BAD, "larger than 4096"},
    {"llama", UINT, "llama.attention.head_count", 5, NULL, BAD, "no multiple of its 2 KV heads"},
    {"llama", UINT, "llama.attention.head_count", 6, NULL, BAD, shape},
    {"llama", FLOAT, "llama.attention.head_count", 4, NULL, BAD, per_layer},
    {"llama", COUNTS, "llama.attention.head_count", 2, NULL, BAD, per_layer},
    {"llama", COUNTS, "llama.attention.head_count", 4, NULL, BAD, per_layer},
    {"deci", COUNTS, "deci.attention.head_count", 0, NULL, BAD, per_layer},
    {"deci", LAST_0, "deci.attention.head_count", 0, NULL, NOT, "head_count is 0 in layer 2"},
    {"deci", LAST_0, "deci.attention.head_count_kv", 0, NULL, NOT, "head_count_kv is 0 in layer 2"},
    {"deci", LAST_0, "deci.feed_forward_length", 0, NULL, NOT, "feed_forward_length is 0 in layer 2"},
    {"deci", COUNTS, "deci.attention.head_count_kv", 1, NULL, BAD, per_layer},
    {"deci", TEXT, "deci.attention.head_count_kv", 0, "2", BAD, per_layer},
    {"llama", UINT, "llama.attention.head_count_kv", 3, NULL, BAD, "no multiple of its 3 KV heads"},
    {"llama", UINT, "llama.attention.head_count_kv", 8, NULL, BAD, "no multiple of its 8 KV heads"},
    {"llama", UINT, "llama.attention.head_count_kv", 1, NULL, BAD, "'blk.0.attn_k.weight'"},
    {"llama", UNSET, "llama.attention.head_count_kv", 0, NULL, BAD, "'blk.0.attn_k.weight'"},
    {"qwen2", UNSET, "qwen2.feed_forward_length", 0, NULL, BAD, missing},
    {"qwen2", UINT, "qwen2.feed_forward_length", 128, NULL, BAD, "'blk.0.ffn_gate.weight'"},
    {"qwen2", UINT, "qwen2.feed_forward_length", 1048577, NULL, BAD, "larger than 1048576"},
    {"llama", UINT, "llama.attention.key_length", 32, NULL, NOT, "value_length is 64 where a head's key has 32"},
    {"llama", UINT, "llama.attention.value_length", 32, NULL, NOT, "value_length is 32"},
    {"llama", UINT, "llama.rope.dimension_count", 32, NULL, NOT, "dimension_count is 32"},
    {"llama", UINT, "llama.rope.dimension_count", 0, NULL, BAD, range},
    {"gemma3", UINT, "gemma3.attention.key_length_swa", 32, NULL, NOT, "key_length_swa is 32"},
    {"llama", UINT, "llama.expert_count", 8, NULL, NOT, "expert_count is 8"},
    {"llama", FLOAT, "llama.attention.scale", 0.5, NULL, NOT, "attention.scale is set"},
    {"llama", FLOAT, "llama.logit_scale", 2, NULL, NOT, "logit_scale is set"},
    {"llama", FLOAT, "llama.embedding_scale", 2, NULL, NOT, "embedding_scale is set"},
    {"llama", FLOAT, "llama.residual_scale", 2, NULL, NOT, "residual_scale is set"},
    {"llama", FLOAT, "llama.attention.clamp_kqv", 8, NULL, NOT, "clamp_kqv is set"},
    {"llama", TEXT, "llama.rope.scaling.type", 0, "yarn", NOT, "rope.scaling.type is 'yarn'"},
    {"llama", TEXT, "llama.rope.scaling.type", 0, "longrope", NOT, "'longrope'"},
    {"llama", TEXT, "llama.rope.scaling.type", 0, "linea", NOT, "'linea'"},
    {"llama", UINT, "llama.rope.scaling.type", 1, NULL, BAD, "rope.scaling.type is no text"},
    {"llama", FLOAT, "llama.rope.scaling.factor", -1, NULL, BAD, "from 0 to 1e12"},
    {"llama", FLOAT, "llama.rope.scaling.factor", INFINITY, NULL, BAD, "from 0 to 1e12"},
    {"llama", FLOAT, "llama.rope.scaling.attn_factor", 0.5, NULL, NOT, "attn_factor is 0.5"},
    {"llama", FLOAT, "llama.rope.freq_base", 0, NULL, BAD, "RoPE base"},
    {"llama", FLOAT, "llama.rope.freq_base", -10000, NULL, BAD, "from 0 to 1e12"},
    {"llama", FLOAT, "llama.rope.freq_base", NAN, NULL, BAD, "from 0 to 1e12"},
    {"llama", UINT, "llama.rope.freq_base", 10000, NULL, BAD, "from 0 to 1e12"},
    {"gemma3", FLOAT, "gemma3.rope.freq_base_swa", 0, NULL, BAD, "RoPE base"},
    {"llama", UNSET, "llama.attention.layer_norm_rms_epsilon", 0, NULL, BAD, missing},
    {"llama", FLOAT, "llama.attention.layer_norm_rms_epsilon", 0, NULL, BAD, "epsilon is 0"},
    {"llama", FLOAT, "llama.attention.layer_norm_rms_epsilon", NAN, NULL, BAD, "from 0 to 1e12"},
    {"gemma3", FLOAT, "gemma3.final_logit_softcapping", -30, NULL, BAD, "from 0 to 1e12"},
    {"gemma3", FLOAT, "gemma3.attention.sliding_window", 16, NULL, BAD, "sliding_window is not a whole number"},
    {"gemma3", UINT, "gemma3.attention.sliding_window", 4294967295.0, NULL, BAD, "sliding_window is not"},
    {"gemma3", UINT, "gemma3.attention.sliding_window_pattern", 0, NULL, BAD, "sliding_window_pattern is 0"},
    {"gemma3", TEXT, "gemma3.attention.sliding_window_pattern", 0, "LLG", BAD, "nor a flag for each"},
    {"gemma3", COUNTS, "gemma3.attention.sliding_window_pattern", 3, NULL, BAD, "nor a flag for each"},
    {"gemma3", COUNTS, "gemma3.attention.sliding_window_pattern", 2, NULL, BAD, "nor a flag for each"},
    {"llama", VECTOR, "rope_freqs.weight", 16, NULL, BAD, "not a list of 32 F32 factors"},
    {"llama", VECTOR, "rope_freqs.weight", 32, "0", BAD, "RoPE base, scaling or factors"},
    {"qwen2", VECTOR, "rope_freqs.weight", 32, NULL, NOT, "'rope_freqs.weight', which no model of architecture qwen2"},
    {"llama", VECTOR, "output.bias", 40, NULL, NOT, "has the tensor 'output.bias'"},
    {"llama", VECTOR, "blk.0.attn_q_norm.weight", 64, NULL, NOT, "has the tensor 'blk.0.attn_q_norm.weight'"},
    {"llama", VECTOR, "blk.0.attn_q.bias", 255, NULL, BAD, shape},
    {"qwen3", VECTOR, "blk.0.attn_q.bias", 256, NULL, NOT, "has the tensor 'blk.0.attn_q.bias'"},
    {"qwen2", VECTOR, "blk.0.ffn_up.bias", 256, NULL, NOT, "has the tensor 'blk.0.ffn_up.bias'"},
    {"llama", VECTOR, "blk.3.attn_norm.weight", 256, NULL, NOT, "has the tensor 'blk.3.attn_norm.weight'"},
    {"llama", VECTOR, "a", 1, NULL, NOT, "has the tensor 'a'"},
    {"llama", REMOVE, "token_embd.weight", 0, NULL, BAD, "'token_embd.weight' is missing"},
    {"llama", REMOVE, "output_norm.weight", 0, NULL, BAD, "'output_norm.weight' is missing"},
    {"llama", REMOVE, "blk.2.ffn_down.weight", 0, NULL, BAD, "'blk.2.ffn_down.weight' is missing"},
    {"llama", REMOVE, "blk.0.attn_norm.weight", 0, NULL, BAD, missing},
    {"qwen2", REMOVE, "blk.1.attn_v.bias", 0, NULL, BAD, "'blk.1.attn_v.bias' is missing"},
    {"qwen3", REMOVE, "blk.1.attn_k_norm.weight", 0, NULL, BAD, missing},
    {"gemma3", REMOVE, "blk.1.post_ffw_norm.weight", 0, NULL, BAD, missing},
    {"gemma3", REMOVE, "blk.0.post_attention_norm.weight", 0, NULL, BAD, missing},
    {"llama", ROWS, "blk.1.attn_q.weight", 0, NULL, BAD, shape},
    {"llama", ROWS, "blk.1.ffn_norm.weight", 0, NULL, BAD, shape},
    {"llama", SWAP, "token_embd.weight", 0, NULL, BAD, shape},
    {"llama", SWAP, "blk.0.attn_k.weight", 0, NULL, BAD, shape},
    {"llama", DEPTH, "blk.0.attn_k.weight", 0, NULL, BAD, "has 3 dimensions"},
    {"llama", DEPTH, "token_embd.weight", 0, NULL, BAD, "no matrix"},
    {"llama", DEPTH, "blk.0.attn_norm.weight", 0, NULL, BAD, "has 2 dimensions"},
    {"llama", TYPE, "blk.0.attn_k.weight", 10, NULL, NOT, "ggml's type 10"},
    {"llama", TYPE, "token_embd.weight", 39, NULL, NOT, "ggml's type 39"},
    {"llama", TYPE, "blk.0.attn_norm.weight", 24, NULL, NOT, "ggml's type 24"},
    {"llama", HALF, "blk.0.attn_norm.weight", 0, NULL, NOT, "vector of type q8_0"},
};
enum { REFUSALS = sizeof refusals / sizeof *refusals };

static void set_counts(tiny_file *file, const char *key, size_t count) {
  static const uint32_t twos[] = {2, 2, 2, 2};
  tiny_set_uints(file, key, twos, count);
}

static void edit_tensor(tiny_file *file, const refusal *r) {
  tiny_tensor *tensor = tiny_find(file, r->name);
  CHECK(tensor != NULL);
  if (!tensor) return;
  const uint64_t columns = tensor->sizes[0];
  switch (r->edit) {
  case ROWS:
    tensor->sizes[tensor->dimensions - 1]--;
    break;
  case SWAP:
    tensor->sizes[0] = tensor->sizes[1];
    tensor->sizes[1] = columns;
    break;
  case DEPTH:
    tensor->dimensions++;
    break;
  case TYPE:
    tensor->ggml_type = (uint32_t)r->number;
    break;
  default:
    tensor->ggml_type = 8;
    break;
  }
}

static void apply(tiny_file *file, const refusal *r) {
  static const uint32_t last_0[] = {2, 2, 0};
  switch (r->edit) {
  case UINT:
    tiny_set_uint(file, r->name, (uint32_t)r->number);
    break;
  case FLOAT:
    tiny_set_float(file, r->name, (float)r->number);
    break;
  case TEXT:
    tiny_set_text(file, r->name, r->text);
    break;
  case COUNTS:
    set_counts(file, r->name, (size_t)r->number);
    break;
  case LAST_0:
    tiny_set_uints(file, r->name, last_0, 3);
    break;
  case UNSET:
    tiny_unset(file, r->name);
    break;
  case VECTOR: {
    tiny_tensor *tensor = tiny_add(file, r->name, EK_TYPE_f32, (size_t)r->number, 0, 1);
    if (r->text) memset(tensor->data, 0, tensor->bytes);
    break;
  }
  case REMOVE:
    tiny_remove(file, r->name);
    break;
  default:
    edit_tensor(file, r);
    break;
  }
}

static void check_refusal(int number) {
  const refusal *r = &refusals[number];
  const ek_model_params params = {.struct_size = sizeof params, .threads = 1};
  tiny_file *file = tiny_new((tiny_options){.architecture = r->architecture});
  ek_gguf *gguf = NULL;
  ek_model *model = NULL;
  size_t size;
  check_case("refusal %d: %s, %s, %g", number, r->architecture, r->name, r->number);
  apply(file, r);
  uint8_t *bytes = tiny_bytes(file, &size);
  if (ek_gguf_read(bytes, size, "test.gguf", &gguf) != EK_OK) {
    check_fail("no GGUF: %s", ek_last_error());
  } else {
    const ek_status status = ek_model_load(gguf, &params, &model);
    const char *sentence = ek_last_error();
    if (status != r->status) check_fail("status %d: %s", status, status == EK_OK ? "accepted" : sentence);
    CHECK(model == NULL);
    if (!strstr(sentence, r->sentence)) check_fail("\"%s\" does not say \"%s\"", sentence, r->sentence);
    CHECK(strstr(sentence, "test.gguf") != NULL);
  }
  ek_model_free(model);
  free(bytes);
  tiny_free(file);
}

int main(int argc, char **argv) {
  (void)check_start(argc, argv, 1);
  for (int i = 0; i < REFUSALS; i++) check_refusal(i);
  check_tested(REFUSALS, "models that cannot be run");
  return check_end();
}
