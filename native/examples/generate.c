/* Continues a prompt of token ids and prints the ids that follow; Ctrl-C stops it.
 *
 *     generate MODEL.gguf COUNT TEMPERATURE [ID ...]      without ids they are read from standard input
 */
#include <edgekit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_PROMPT = 4096, INTERRUPTED = 130 };

static ek_context *context; /* for the signal handler, from before it is installed until after it is taken back */
static volatile sig_atomic_t stopped;

/* ek_cancel reaches the call that is under way; the flag is for a signal that comes just before it. */
static void stop(int number) {
  (void)number;
  stopped = 1;
  ek_cancel(context);
}

static int print_token(void *user, int32_t token) {
  (void)user;
  printf("%ld\n", (long)token);
  fflush(stdout);
  return stopped;
}

static int read_id(const char *text, int32_t *id) {
  char *end;
  const long value = strtol(text, &end, 10);
  if (end == text || *end != 0 || value < 0 || value > INT32_MAX) return 0;
  *id = (int32_t)value;
  return 1;
}

/* How many ids there are; 0: none, or what is no id among them. */
static size_t read_prompt(int count, char **texts, int32_t *ids) {
  char text[32];
  size_t read = 0;
  if (count > MOST_PROMPT) return 0;
  for (int i = 0; i < count; i++) {
    if (!read_id(texts[i], &ids[read++])) return 0;
  }
  while (count == 0 && read < MOST_PROMPT && scanf("%31s", text) == 1) {
    if (!read_id(text, &ids[read++])) return 0;
  }
  return read;
}

static ek_status generate(ek_model *model, float temperature, size_t most, const int32_t *prompt, size_t count) {
  ek_sampler *sampler = NULL;
  ek_model_info info = EK_INIT(ek_model_info);
  ek_sampler_params params = EK_INIT(ek_sampler_params);
  params.top_k = 40;
  params.temperature = temperature;
  ek_status status = ek_model_describe(model, &info);
  if (status == EK_OK) status = ek_context_create(model, NULL, &context);
  if (status == EK_OK) status = ek_sampler_create(&params, info.vocab, &sampler);
  if (status == EK_OK) {
    signal(SIGINT, stop);
    status = ek_generate(context, 0, prompt, count, sampler, most, NULL, 0, print_token, NULL, NULL);
    signal(SIGINT, SIG_DFL);
  }
  ek_sampler_free(sampler);
  ek_context_free(context);
  return status;
}

int main(int argc, char **argv) {
  static int32_t prompt[MOST_PROMPT];
  ek_model *model;
  const size_t count = argc < 4 ? 0 : read_prompt(argc - 4, argv + 4, prompt);
  if (count == 0) {
    fprintf(stderr, "usage: generate MODEL.gguf COUNT TEMPERATURE [ID ...]\n");
    return 2;
  }
  ek_status status = ek_model_open(argv[1], NULL, &model);
  if (status == EK_OK) {
    status = generate(model, strtof(argv[3], NULL), strtoul(argv[2], NULL, 10), prompt, count);
    ek_model_free(model);
  }
  if (status != EK_OK) fprintf(stderr, "generate: %s\n", ek_last_error());
  return status == EK_OK ? 0 : stopped ? INTERRUPTED : 1;
}
