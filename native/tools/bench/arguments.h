/* What to run, from the command line. */
#ifndef BENCH_ARGUMENTS_H
#define BENCH_ARGUMENTS_H

#include <edgekit.h>

enum { MOST_MODELS = 2, MOST_END_TOKENS = 256 };

typedef struct run_options {
  const char *models[MOST_MODELS];
  int model_count;
  const char *nonce; /* hexadecimal */
  uint32_t prompt_tokens, gen_tokens, reps;
  uint32_t threads;      /* 0: one for each core */
  const char *cache;     /* as given */
  uint32_t keys, values; /* ek_cache_type_id */
  const char *cores;     /* "big", "all" or a list */
  int32_t bos;           /* -1: none */
  int32_t end_tokens[MOST_END_TOKENS];
  uint32_t end_count;
  double cooldown_c, cooldown_s; /* both NAN: none */
  const char *cooldown_sensor;   /* NULL: the hottest */
  double deadline_s, lease_s;
  int argc; /* what was parsed, for the memory's process to parse again */
  char **argv;
} run_options;

/* Of `start` what follows "--". The strings stay those of argv. 0, or the exit status after a report. */
int arguments_parse(int argc, char **argv, run_options *options);

/* The number that a text is, if it is one from least to most. */
int arguments_number(const char *text, double least, double most, double *number);

#endif
