/* A file that the disk has and memory has not. */
#ifndef BENCH_COLD_H
#define BENCH_COLD_H

#include "reasons.h"

/* Drops a file from the page cache, and looks whether it is gone; where it is not, the reason of load_cold_s. */
int cold_drop(const char *path, reasons *r);

#endif
