/* What the device did during a run, once a second, by a thread beside it. */
#ifndef BENCH_SAMPLER_H
#define BENCH_SAMPLER_H

#include "json.h"
#include "reasons.h"

#include <sys/types.h>

typedef struct sampler sampler;

/* Begins; times count from `epoch` of now_s(). Every `period` seconds, and half as often each time that it has 1024
 * entries, of which it then drops every other one. NULL: out of memory, or no thread is to be had. `sys` is /sys. */
sampler *sampler_start(const char *sys, double epoch, double period);

/* The thread's number in the system. */
pid_t sampler_thread(const sampler *s);

/* Ends the thread; what it has found stays. */
void sampler_stop(sampler *s);

/* After sampler_stop: the member "timeline", and the reasons for what is not in it. */
void sampler_write(const sampler *s, json *j, reasons *r);

/* NULL: nothing. */
void sampler_free(sampler *s);

#endif
