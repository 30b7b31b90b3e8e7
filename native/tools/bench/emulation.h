/* Whether the processor is a program: figures of an emulated one mean nothing. */
#ifndef BENCH_EMULATION_H
#define BENCH_EMULATION_H

/* 1, 0, or -1 where it cannot be told. *why is a string constant that says how it was told; NULL where the answer is 0.
 */
int emulation(const char **why);

#endif
