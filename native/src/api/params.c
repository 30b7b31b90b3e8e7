#include "api/params.h"

#include <string.h>

static ek_status check_size(const void *given, size_t *bytes, const char *name) {
  memcpy(bytes, given, sizeof *bytes);
  if (*bytes >= sizeof *bytes) return EK_OK;
  return ek_fail(EK_BAD_ARGUMENT, "struct_size of %s is %zu: set it to sizeof(%s)", name, *bytes, name);
}

ek_status ek_params_read(const void *params, void *own, size_t own_bytes, const char *name) {
  memset(own, 0, own_bytes);
  if (!params) return EK_OK;
  size_t given;
  const ek_status status = check_size(params, &given, name);
  if (status != EK_OK) return status;
  for (size_t i = own_bytes; i < given; i++) {
    if (((const unsigned char *)params)[i] != 0) {
      return ek_fail(EK_BAD_ARGUMENT, "%s has a member set that this version of edgekit does not know (at byte %zu)",
                     name, i);
    }
  }
  memcpy(own, params, given < own_bytes ? given : own_bytes);
  return EK_OK;
}

ek_status ek_params_write(void *info, const void *own, size_t own_bytes, const char *name) {
  size_t given;
  if (!info) return ek_fail(EK_BAD_ARGUMENT, "the pointer to %s is NULL", name);
  const ek_status status = check_size(info, &given, name);
  if (status != EK_OK) return status;
  const size_t common = given < own_bytes ? given : own_bytes, first = sizeof given;
  memcpy((unsigned char *)info + first, (const unsigned char *)own + first, common - first);
  if (given > own_bytes) memset((unsigned char *)info + own_bytes, 0, given - own_bytes);
  return EK_OK;
}
