/* What functions that can fail return. */
#ifndef EK_STATUS_H
#define EK_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ek_status {
  EK_OK = 0,
  EK_BAD_ARGUMENT, /* a size, type or pointer that the function's comment excludes */
  EK_NO_MEMORY,
  EK_NO_THREAD,  /* the system refused to start one */
  EK_NO_KERNEL,  /* no kernel is listed for that type at that level */
  EK_NESTED_RUN, /* a pool was to run tasks from one of its own */
} ek_status;

/* "out of memory"; a sentence without its full stop, for people. */
const char *ek_status_text(ek_status status);

#ifdef __cplusplus
}
#endif

#endif
