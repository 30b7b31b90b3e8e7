#include "api/context.h"

enum { CANCELLED = 1 };

_Static_assert(ATOMIC_POINTER_LOCK_FREE == 2, "ek_cancel may be called by a signal handler");

static _Thread_local int here; /* its address, which is even, stands for the thread */

/* Functions that only look at a context take it as const; being in use is not part of what they look at. */
static _Atomic(uintptr_t) *user_of(const ek_context *context) { return &((ek_context *)(uintptr_t)context)->user; }

ek_status ek_context_enter(const ek_context *context, const char *function) {
  uintptr_t user = 0;
  const uintptr_t self = (uintptr_t)&here;
  if (!context) return ek_fail(EK_BAD_ARGUMENT, "the context for %s is NULL", function);
  if (atomic_compare_exchange_strong(user_of(context), &user, self)) return EK_OK;
  if ((user & ~(uintptr_t)CANCELLED) == self)
    return ek_fail(EK_NESTED_RUN, "%s was called by a callback of a call that uses the same context: return first",
                   function);
  return ek_fail(EK_BAD_ARGUMENT, "%s was called while another thread uses the context: wait for it, or use two",
                 function);
}

void ek_context_leave(const ek_context *context) { atomic_store(user_of(context), 0); }

ek_status ek_context_check_cancel(const ek_context *context) {
  if (!(atomic_load(user_of(context)) & CANCELLED)) return EK_OK;
  return ek_fail(EK_CANCELLED, "cancelled by ek_cancel");
}

/* One exchange at most takes effect: on the call that was there when it was read, or on one that has begun since in the
 * same thread, while this runs. */
void ek_cancel(ek_context *context) {
  if (!context) return;
  uintptr_t user = atomic_load(&context->user);
  if (user != 0) (void)atomic_compare_exchange_strong(&context->user, &user, user | CANCELLED);
}
