/* Structs of edgekit.h that begin with struct_size: callers may have been compiled with an older or a newer header. */
#ifndef EK_PARAMS_H
#define EK_PARAMS_H

#include "error.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Copies parameters into `own`, a struct of own_bytes: members that the caller's struct does not have are 0, those that
 * only his has must be. params NULL: all 0. EK_BAD_ARGUMENT: struct_size is smaller than itself, or a member that is
 * not known here is set. `name` is for the sentence: "ek_model_params". */
ek_status ek_params_read(const void *params, void *own, size_t own_bytes, const char *name);

/* Copies results into the caller's struct as far as it reaches, and zeros over members that only his has; his
 * struct_size stays. EK_BAD_ARGUMENT: it is NULL, or struct_size is smaller than itself. */
ek_status ek_params_write(void *info, const void *own, size_t own_bytes, const char *name);

#ifdef __cplusplus
}
#endif

#endif
