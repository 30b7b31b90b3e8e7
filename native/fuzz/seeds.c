/* Writes what the fuzzers begin with: fuzz_seeds FOLDER makes FOLDER/gguf and FOLDER/model, files that are right, files
 * that are malformed, small models of each architecture, and FOLDER/gguf.dict, the words that mean something. */
#include "gguf_variants.h"
#include "tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char path[4096];

static void write_bytes(const uint8_t *bytes, size_t size) {
  FILE *out = fopen(path, "wb");
  if (!out || fwrite(bytes, 1, size, out) != size || fclose(out) != 0) {
    perror(path);
    exit(1);
  }
}

static void write_variants(const char *folder, const gguf_variant *variants, const char *what) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  for (int i = 0; variants[i].sentence; i++) {
    const size_t size = gguf_variant_write(variants[i].changes, GGUF_CHANGES, bytes);
    (void)snprintf(path, sizeof path, "%s/gguf/%s-%03d", folder, what, i);
    write_bytes(bytes, size);
  }
}

static void write_truncated(const char *folder) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  const size_t size = gguf_variant_write(NULL, 0, bytes);
  for (size_t left = 0; left <= size; left += size / 32) {
    (void)snprintf(path, sizeof path, "%s/gguf/first-%04zu", folder, left);
    write_bytes(bytes, left);
  }
}

static void write_models(const char *folder) {
  static const char *const architectures[] = {"llama", "deci", "qwen2", "qwen3", "gemma3"};
  static const enum ek_type types[] = {EK_TYPE_f32, EK_TYPE_bf16, EK_TYPE_q8_0, EK_TYPE_q4_0, EK_TYPE_q5_1};
  for (size_t i = 0; i < 20; i++) {
    const int vary = i / 5 == 3;
    const tiny_options options = {.architecture = architectures[i % 5],
                                  .type = types[(i + i / 5) % 5],
                                  .untied = i / 5 % 2,
                                  .biases = i % 5 < 2 && i / 10,
                                  .vary = (uint32_t)vary,
                                  .layers = 1 + i / 10,
                                  .hidden = 32,
                                  .heads = 2,
                                  .head_dim = vary ? 32 : 16,
                                  .ffn = vary ? 64 : 32,
                                  .vocab = 5};
    tiny_file *file = tiny_new(options);
    if (i % 5 < 2 && i / 5 == 1) tiny_add(file, "rope_freqs.weight", EK_TYPE_f32, 8, 0, 0);
    (void)snprintf(path, sizeof path, "%s/model/%s-%02zu", folder, options.architecture, i);
    tiny_save(file, path);
    tiny_free(file);
  }
}

static void write_dictionary(const char *folder) {
  static const char *const words[] = {"GGUF",
                                      "general.architecture",
                                      "general.alignment",
                                      "llama",
                                      "deci",
                                      "qwen2",
                                      "qwen3",
                                      "gemma3",
                                      ".block_count",
                                      ".embedding_length",
                                      ".context_length",
                                      ".feed_forward_length",
                                      ".attention.head_count",
                                      ".attention.head_count_kv",
                                      ".attention.key_length",
                                      ".attention.value_length",
                                      ".attention.sliding_window",
                                      ".attention.sliding_window_pattern",
                                      ".attention.layer_norm_rms_epsilon",
                                      ".rope.freq_base",
                                      ".rope.freq_base_swa",
                                      ".rope.scaling.type",
                                      ".rope.scaling.factor",
                                      ".rope.dimension_count",
                                      "linear",
                                      "yarn",
                                      ".expert_count",
                                      ".final_logit_softcapping",
                                      "split.count",
                                      "token_embd.weight",
                                      "output.weight",
                                      "output_norm.weight",
                                      "rope_freqs.weight",
                                      "blk.0.",
                                      "blk.1.",
                                      "attn_norm",
                                      "attn_q",
                                      "attn_k",
                                      "attn_v",
                                      "attn_output",
                                      "attn_q_norm",
                                      "ffn_gate",
                                      "ffn_up",
                                      "ffn_down",
                                      "post_ffw_norm",
                                      ".weight",
                                      ".bias"};
  (void)snprintf(path, sizeof path, "%s/gguf.dict", folder);
  FILE *out = fopen(path, "w");
  if (!out) {
    perror(path);
    exit(1);
  }
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) fprintf(out, "\"%s\"\n", words[i]);
  for (int kind = 0; kind < 13; kind++) fprintf(out, "\"\\x%02x\\x00\\x00\\x00\"\n", kind);
  for (int i = 0; i < 8; i++) { /* 2^63, 2^55, ... as eight bytes */
    fprintf(out, "\"");
    for (int b = 0; b < 8; b++) fprintf(out, "\\x%02x", b == i ? 0x80 : 0);
    fprintf(out, "\"\n");
  }
  fprintf(out, "\"\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\"\n");
  fclose(out);
}

int main(int argc, char **argv) {
  if (argc != 2 || strlen(argv[1]) > 2048) {
    fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  static const char *const folders[] = {"gguf", "model"};
  (void)mkdir(argv[1], 0777);
  for (int i = 0; i < 2; i++) {
    (void)snprintf(path, sizeof path, "%s/%s", argv[1], folders[i]);
    (void)mkdir(path, 0777);
  }
  write_variants(argv[1], gguf_unusual, "unusual");
  write_variants(argv[1], gguf_malformed, "malformed");
  write_truncated(argv[1]);
  write_models(argv[1]);
  write_dictionary(argv[1]);
  return 0;
}
