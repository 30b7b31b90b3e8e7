#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "gguf/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    const ek_status tried = (call);                                                                                    \
    if (tried != EK_OK) return tried;                                                                                  \
  } while (0)

static ek_status new_file(const char *path, ek_gguf **file) {
  ek_gguf *made = calloc(1, sizeof *made);
  if (made) made->path = strdup(path);
  if (!made || !made->path) {
    free(made);
    return ek_fail_plain(EK_NO_MEMORY, path);
  }
  *file = made;
  return EK_OK;
}

ek_status ek_gguf_read(const uint8_t *bytes, size_t size, const char *path, ek_gguf **file) {
  ek_gguf *made = NULL;
  TRY(new_file(path, &made));
  made->bytes = bytes;
  made->size = size;
  const ek_status status = ek_gguf_read_header(made);
  if (status == EK_OK) {
    *file = made;
  } else {
    ek_gguf_close(made);
  }
  return status;
}

static ek_status cannot_read(const char *path, const char *why) {
  return ek_fail(EK_CANNOT_READ, "%s cannot be read: %s: give the path of a .gguf file", path, why);
}

/* A file that is made shorter while it is mapped ends the process (SIGBUS), as with every mapped file. */
static ek_status map_file(int descriptor, ek_gguf *file) {
  struct stat about;
  if (fstat(descriptor, &about) != 0) return cannot_read(file->path, strerror(errno));
  if (!S_ISREG(about.st_mode)) return cannot_read(file->path, "it is not a file");
  if (about.st_size == 0) return ek_gguf_bad(file, "it is empty");
  if ((uintmax_t)about.st_size > SIZE_MAX / 2) return cannot_read(file->path, "it is too large for this machine");
  file->size = (size_t)about.st_size;
  void *bytes = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (bytes == MAP_FAILED) return cannot_read(file->path, strerror(errno));
  file->bytes = bytes;
  file->mapped = 1;
  return EK_OK;
}

ek_status ek_gguf_open(const char *path, ek_gguf **file) {
  ek_gguf *made = NULL;
  TRY(new_file(path, &made));
  ek_status status;
  const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is to be refused, not waited for */
  if (descriptor < 0) {
    status = cannot_read(path, strerror(errno));
  } else {
    status = map_file(descriptor, made);
    (void)close(descriptor);
    if (status == EK_OK) status = ek_gguf_read_header(made);
  }
  if (status == EK_OK) {
    *file = made;
  } else {
    ek_gguf_close(made);
  }
  return status;
}

void ek_gguf_close(ek_gguf *file) {
  if (!file) return;
  if (file->mapped) (void)munmap((void *)(uintptr_t)file->bytes, file->size);
  free(file->by_name);
  free(file->tensors);
  free(file->pairs);
  free(file->path);
  free(file);
}

void ek_gguf_release(const ek_gguf *file, const ek_gguf_tensor *tensor) {
  if (!file->mapped || tensor->bytes == 0) return;
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const uintptr_t first = (uintptr_t)tensor->data / page * page; /* neighbours' bytes there are read again */
  (void)madvise((void *)first, (uintptr_t)tensor->data + tensor->bytes - first, MADV_DONTNEED);
}
