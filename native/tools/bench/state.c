#include "state.h"
#include "run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char magic[16] = "edgekit-bench 1";

_Static_assert(sizeof(run_state) <= STATE_BYTES, "the state fits into its file");

static void *map(int file, int protection) {
  void *page = mmap(NULL, STATE_BYTES, protection, MAP_SHARED, file, 0);
  return page == MAP_FAILED ? NULL : page;
}

run_state *state_create(int folder) {
  static const char zeros[STATE_BYTES];
  const int file = openat(folder, STATE_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return NULL;
  const ssize_t written = write(file, zeros, sizeof zeros);
  if (written >= 0 && written < STATE_BYTES) errno = ENOSPC;
  run_state *state = written == STATE_BYTES ? map(file, PROT_READ | PROT_WRITE) : NULL;
  const int error = errno;
  close(file);
  errno = error;
  if (state) memcpy(state->magic, magic, sizeof magic);
  return state;
}

static int open_state(int folder) {
  char start[sizeof magic];
  const int file = openat(folder, STATE_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return -1;
  if (lseek(file, 0, SEEK_END) == STATE_BYTES && pread(file, start, sizeof start, 0) == sizeof start &&
      memcmp(start, magic, sizeof magic) == 0)
    return file;
  close(file);
  return -1;
}

const run_state *state_open(int folder) {
  const int file = open_state(folder);
  if (file < 0) return NULL;
  const run_state *state = map(file, PROT_READ);
  close(file);
  return state;
}

int state_is_there(int folder) {
  const int file = open_state(folder);
  if (file >= 0) close(file);
  return file >= 0;
}
