/* Measures every kernel that this machine can run, see usage(). Figures depend on what else runs: what is compared is
 * measured in turns with what it is compared with. */
#include "bench.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const bench_row rows[] = {
#define EK_KERNEL(op, type, level)                                                                                     \
  {BENCH_##op, EK_TYPE_##type, EK_LEVEL_##level, (void (*)(void))ek_##op##_##type##_##level},
#include "kernels/kernels.inc"
#undef EK_KERNEL
};
enum { ROWS = sizeof rows / sizeof *rows };

static const char *const operation_names[BENCH_OPERATIONS] = {
#define NAME(op) #op,
    EK_OPERATIONS(NAME)
#undef NAME
};

typedef struct options {
  const char *level, *operation, *type, *json; /* NULL: all; not written */
  unsigned threads;
  double seconds;
  int emulated;
} options;

static void usage(FILE *out) {
  fputs("usage: bench_kernels [options]\n"
        "  --level NAME      only these kernels: scalar, avx2, avx512vnni, neon, dotprod, i8mm\n"
        "  --operation NAME  only this operation: gemv, gemm, scores, values, ...\n"
        "  --type NAME       only this type: q4_0, q4_k, ...; f32 for operations on plain vectors\n"
        "  --threads N       instead of one for each big core\n"
        "  --seconds S       for each kernel, 0.5 unless given\n"
        "  --json FILE       writes the results there too\n"
        "  --emulated        says so of the figures, which then mean nothing as speed; found out under qemu-user\n",
        out);
}

static void refuse(const char *what, const char *text) {
  fprintf(stderr, "bench_kernels: %s: %s\n", what, text);
  usage(stderr);
  exit(2);
}

static double number_of(const char *option, const char *text, double least, double most) {
  char *end;
  const double number = strtod(text, &end);
  if (end == text || *end || !(number >= least && number <= most)) refuse(option, text);
  return number;
}

static options parse(int argc, char **argv) {
  static const struct option known[] = {{"level", 1, NULL, 'l'},    {"operation", 1, NULL, 'o'}, {"type", 1, NULL, 't'},
                                        {"threads", 1, NULL, 'n'},  {"seconds", 1, NULL, 's'},   {"json", 1, NULL, 'j'},
                                        {"emulated", 0, NULL, 'e'}, {"help", 0, NULL, 'h'},      {NULL, 0, NULL, 0}};
  options o = {.seconds = 0.5};
  for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    switch (c) {
    case 'l':
      o.level = optarg;
      break;
    case 'o':
      o.operation = optarg;
      break;
    case 't':
      o.type = optarg;
      break;
    case 'n':
      o.threads = (unsigned)number_of("--threads", optarg, 1, EK_MOST_THREADS);
      break;
    case 's':
      o.seconds = number_of("--seconds", optarg, 0.001, 60);
      break;
    case 'j':
      o.json = optarg;
      break;
    case 'e':
      o.emulated = 1;
      break;
    default:
      usage(c == 'h' ? stdout : stderr);
      exit(c == 'h' ? 0 : 2);
    }
  }
  if (optind < argc) refuse("not an option", argv[optind]);
  if (o.level && ek_level_named(o.level) == EK_LEVELS) refuse("no such level", o.level);
  if (o.level && !ek_level_supported(ek_level_named(o.level))) refuse("this machine cannot run", o.level);
  if (o.type && !ek_format_find(o.type)) refuse("no such type", o.type);
  return o;
}

static int is_wanted(const options *o, const bench_row *row) {
  if (!ek_level_supported(row->level)) return 0;
  if (o->level && strcmp(o->level, ek_level_name(row->level)) != 0) return 0;
  if (o->operation && strcmp(o->operation, operation_names[row->operation]) != 0) return 0;
  return !o->type || strcmp(o->type, ek_formats[row->type].name) == 0;
}

/* --- the table --- */

static void print_head(const bench_machine *machine, int count) {
  if (machine->emulated) printf("EMULATED: these figures say that the kernels run, not how fast.\n");
  printf("%s, %u threads, best level %s; an empty run of the pool %.2f us, one where all threads meet %.2f us\n",
         machine->processor, ek_pool_threads(machine->pool), ek_level_name(machine->kernels.level), machine->run_us,
         machine->meeting_us);
  printf("%d kernels. best and median of many runs; share: of the bests\n\n", count);
  printf("%-15s %-7s %-11s %-32s %9s %9s %-6s %7s  %s\n", "operation", "type", "level", "shape", "best", "median", "",
         "share", "of");
}

static double rate(double amount, double seconds) { return amount / seconds * 1e-9; }

static void print_result(const bench_machine *machine, const bench_row *row, const bench_result *r) {
  const int by_bytes = r->limit ? r->limited_by_bytes : r->bytes > 0;
  const double amount = by_bytes ? r->bytes : r->operations;
  const char *unit = by_bytes ? "GB/s" : "GOP/s";
  printf("%-15s %-7s %-11s %-32s %9.2f %9.2f %-6s", operation_names[row->operation], ek_formats[row->type].name,
         ek_level_name(row->level), r->shape, rate(amount, r->time.best), rate(amount, r->time.median), unit);
  if (r->limit) {
    const double limit = rate(r->limit_amount, r->limit_time.best);
    printf(" %5.1f %%  %.1f %s %s", 100 * rate(amount, r->time.best) / limit, limit, unit, r->limit);
  }
  if (by_bytes && r->operations > 0) printf(", %.1f GOP/s", rate(r->operations, r->time.best));
  printf("%s\n", machine->emulated ? " (emulated)" : "");
}

/* --- JSON: all strings are our own or the processor's name, which has no quotes or backslashes to escape --- */

static void put_figure(FILE *json, const char *name, double amount, const bench_time *time) {
  if (amount > 0 && time->best > 0) {
    fprintf(json, ", \"%s_best\": %.4g, \"%s_median\": %.4g", name, rate(amount, time->best), name,
            rate(amount, time->median));
  }
}

static void put_result(FILE *json, int is_first, const bench_row *row, const bench_result *r) {
  fprintf(json,
          "%s\n    {\"kernel\": \"ek_%s_%s_%s\", \"operation\": \"%s\", \"type\": \"%s\", \"level\": \"%s\", "
          "\"shape\": \"%s\", \"samples\": %d",
          is_first ? "" : ",", operation_names[row->operation], ek_formats[row->type].name, ek_level_name(row->level),
          operation_names[row->operation], ek_formats[row->type].name, ek_level_name(row->level), r->shape,
          r->time.samples);
  put_figure(json, "gb_per_s", r->bytes, &r->time);
  put_figure(json, "gop_per_s", r->operations, &r->time);
  if (r->limit) {
    fprintf(json, ", \"limit\": \"%s\"", r->limit);
    put_figure(json, r->limited_by_bytes ? "limit_gb_per_s" : "limit_gop_per_s", r->limit_amount, &r->limit_time);
  }
  fprintf(json, "}");
}

static FILE *begin_json(const char *path, const bench_machine *machine) {
  FILE *json = path ? fopen(path, "w") : NULL;
  if (path && !json) {
    perror(path);
    exit(1);
  }
  if (json) {
    char name[sizeof machine->processor];
    snprintf(name, sizeof name, "%s", machine->processor);
    for (char *c = name; *c; c++) {
      if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = ' ';
    }
    fprintf(json, "{\n  \"processor\": \"%s\",\n  \"threads\": %u,\n  \"emulated\": %s,\n  \"pool_run_us\": %.3f,\n",
            name, ek_pool_threads(machine->pool), machine->emulated ? "true" : "false", machine->run_us);
    fprintf(json, "  \"pool_meeting_us\": %.3f,\n  \"rows\": [", machine->meeting_us);
  }
  return json;
}

static int end_json(FILE *json, const char *path) {
  if (!json) return 0;
  fprintf(json, "\n  ]\n}\n");
  const int failed = ferror(json);
  if (fclose(json) == 0 && !failed) return 0;
  perror(path);
  return 1;
}

static void measure(const bench_machine *machine, const bench_row *row, bench_result *result) {
  if (row->operation == BENCH_gemv || row->operation == BENCH_gemm) {
    bench_product(machine, row, result);
  } else if (row->operation <= BENCH_online_softmax) {
    bench_attention(machine, row, result);
  } else {
    bench_elementwise(machine, row, result);
  }
}

int main(int argc, char **argv) {
  const options o = parse(argc, argv);
  bench_machine machine = {.emulated = o.emulated || bench_emulated(), .seconds = o.seconds};
  int count = 0, done = 0;
  for (int i = 0; i < ROWS; i++) count += is_wanted(&o, &rows[i]);
  if (count == 0) refuse("no such kernel here", o.operation ? o.operation : "");
  if (!ek_kernels_here()) refuse("this machine cannot run EDGEKIT_ISA", getenv("EDGEKIT_ISA"));
  const ek_status status = ek_pool_create(o.threads, &machine.pool);
  if (status != EK_OK) refuse("threads", ek_status_text(status));
  ek_cores before; /* which ends with the program */
  ek_pool_pin_caller(machine.pool, &before);
  bench_look(&machine);
  FILE *json = begin_json(o.json, &machine);
  setvbuf(stdout, NULL, _IOLBF, 0);
  print_head(&machine, count);
  for (int i = 0; i < ROWS; i++) {
    if (!is_wanted(&o, &rows[i])) continue;
    if (isatty(STDERR_FILENO)) fprintf(stderr, "%d of %d ...\r", done + 1, count);
    bench_result result = {.bytes = 0};
    measure(&machine, &rows[i], &result);
    print_result(&machine, &rows[i], &result);
    if (json) put_result(json, done == 0, &rows[i], &result);
    done++;
  }
  ek_pool_destroy(machine.pool);
  return end_json(json, o.json);
}
