/* Failures: a status for the program, a sentence for the person. */
#ifndef EK_ERROR_H
#define EK_ERROR_H

#include "edgekit.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Keeps the sentence for ek_last_error of this thread, cut at 1 KiB, and returns the status. For whoever finds the
 * failure; those that pass it on leave the sentence alone. Text from files goes through ek_printable first. */
ek_status ek_fail(ek_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ek_fail with the status' own text: "attention cache: out of memory". */
ek_status ek_fail_plain(ek_status status, const char *what);

enum { EK_PRINTABLE = 80 };

/* Up to 79 bytes of text that came from a file, fit for a terminal: what is not printable ASCII becomes '?'. */
const char *ek_printable(const char *text, size_t length, char out[EK_PRINTABLE]);

#ifdef __cplusplus
}
#endif

#endif
