/* Measures models on the device that it runs on: see usage(). It is driven by edgekit's benchmark, over adb or ssh. */
#include "arguments.h"
#include "lifecycle.h"
#include "memory_pass.h"
#include "probe.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int usage(FILE *out) {
  fputs("usage: edgekit-bench probe [FOLDER]\n"
        "       edgekit-bench start RUN --lock PATH -- MODEL [MODEL2] --nonce HEX --prompt-tokens N --gen-tokens N\n"
        "                     --reps N [--threads N] [--cache TYPE[,TYPE]] [--cores big|all|0,2-3] [--bos ID]\n"
        "                     [--end-tokens ID,...] [--cooldown-c C --cooldown-s S [--cooldown-sensor TYPE]]\n"
        "                     [--deadline S] [--lease S]\n"
        "       edgekit-bench wait RUN --seconds N\n"
        "       edgekit-bench stop RUN\n"
        "RUN is a folder that start makes and stop removes; exit statuses are those of sysexits.h.\n",
        out);
  return BENCH_USAGE;
}

/* Whether what was printed has gone out. */
static int flushed(void) {
  return fflush(stdout) == 0 && !ferror(stdout) ? 0 : report(BENCH_CANNOT_WRITE, "the answer cannot be written");
}

static int probe(int argc, char **argv) {
  if (argc > 1) return usage(stderr);
  json j = json_to(stdout);
  probe_write(&j, NULL, argc ? argv[0] : ".");
  putchar('\n');
  return flushed();
}

static int start(int argc, char **argv) {
  run_options options;
  if (argc < 4 || strcmp(argv[1], "--lock") != 0 || strcmp(argv[3], "--") != 0) return usage(stderr);
  const int status = arguments_parse(argc - 4, argv + 4, &options);
  return status ? status : run_start(argv[0], argv[2], &options);
}

static int wait_for(int argc, char **argv) {
  double seconds;
  if (argc != 3 || strcmp(argv[1], "--seconds") != 0) return usage(stderr);
  if (!arguments_number(argv[2], 0, 3600, &seconds))
    return report(BENCH_USAGE, "--seconds %s is not right: give seconds from 0 to 3600", argv[2]);
  const int status = run_wait(argv[0], seconds);
  return status ? status : flushed();
}

static int stop(int argc, char **argv) { return argc == 1 ? run_stop(argv[0]) : usage(stderr); }

static int memory_pass(int argc, char **argv) {
  run_options options;
  if (argc < 2 || strcmp(argv[1], "--") != 0 || arguments_parse(argc - 2, argv + 2, &options)) return usage(stderr);
  const int model = atoi(argv[0]);
  return model >= 0 && model < options.model_count ? memory_child(&options, model) : usage(stderr);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
  } commands[] = {{"probe", probe}, {"start", start}, {"wait", wait_for}, {"stop", stop}, {MEMORY_PASS, memory_pass}};
  if (argc == 2 && strcmp(argv[1], "--help") == 0) {
    usage(stdout);
    return 0;
  }
  for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 2, argv + 2);
  }
  return usage(stderr);
}
