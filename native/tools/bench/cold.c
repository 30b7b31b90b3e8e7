#include "cold.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGES_AT_ONCE = 1 << 14 };

/* Pages of a file that are in memory; -1: the system does not tell. */
static long resident_pages(int file, size_t bytes, size_t page) {
  static unsigned char is_resident[PAGES_AT_ONCE];
  const size_t window = PAGES_AT_ONCE * page;
  long resident = 0;
  for (size_t at = 0; at < bytes; at += window) {
    const size_t length = bytes - at < window ? bytes - at : window, pages = (length + page - 1) / page;
    void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, file, (off_t)at);
    if (map == MAP_FAILED) return -1;
    const int failed = mincore(map, length, is_resident) != 0;
    for (size_t i = 0; i < pages; i++) resident += is_resident[i] & 1;
    munmap(map, length);
    if (failed) return -1;
  }
  return resident;
}

int cold_drop(const char *path, reasons *r) {
  struct stat status;
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &status) != 0) {
    reasons_add(r, "load_cold_s", "the file cannot be opened (%s)", strerror(errno));
    if (file >= 0) close(file);
    return 0;
  }
  (void)fsync(file); /* what has not been written yet would stay */
  const int error = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
  const long pages = ((long)status.st_size + (long)page - 1) / (long)page;
  const long resident = error ? -1 : resident_pages(file, (size_t)status.st_size, page);
  close(file);
  if (resident >= 0 && resident <= pages / 100) return 1;
  if (resident < 0) {
    reasons_add(r, "load_cold_s", "the system does not let a file be dropped from memory, or does not tell");
  } else {
    reasons_add(r, "load_cold_s", "the system kept %ld of the file's %ld pages in memory, as a tmpfs does", resident,
                pages);
  }
  return 0;
}
