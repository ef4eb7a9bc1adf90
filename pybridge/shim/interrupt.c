/* interrupt.c: an exception in the thread that runs one particular request.
 *
 * CPython raises it when that thread next runs bytecode (PyThreadState_SetAsyncExc), which may be
 * never while this request lasts. Then it would hit the thread's next request. So:
 *
 *   - It is set only while the thread runs the very request that is meant: lane, slot and
 *     generation are compared under the GIL, and the thread cannot go on before it is set.
 *   - When a request ends that was interrupted, what is still pending is taken back before the
 *     thread takes another one; no bytecode runs in between.
 *
 * Without a GIL a guard of our own, one a thread, stands for it.
 */
#define _GNU_SOURCE
#include "shim.h"

/* GIL held; nothing under the guard lets go of it. */
void gs_guard(struct context *c)
{
    if (py.free_threaded)
        gs_lock(&c->guard);
}

void gs_unguard(struct context *c)
{
    if (py.free_threaded)
        gs_unlock(&c->guard);
}

/* GIL held. From here on gs_interrupt finds the request that c->req names. */
void gs_interruptible(struct context *c)
{
    gs_guard(c);
    c->interruptible = 1;
    gs_unguard(c);
}

/* GIL held, by the thread of c. From here on it does not, and what it has set is void. */
void gs_uninterruptible(struct context *c)
{
    gs_guard(c);
    int interrupted = c->interrupted;
    c->interruptible = c->interrupted = 0;
    gs_unguard(c);
    if (interrupted)
        py.PyThreadState_SetAsyncExc(c->ident, NULL);
}

/* GIL held. Raises RequestTimeout in the thread that runs this request, if one does. */
void gs_interrupt(uint32_t lane, uint32_t slot, uint32_t generation)
{
    for (uint32_t i = 0; shim.request_timeout && i < shim.region.head.threads; i++) {
        struct context *c = &shim.contexts[i];
        gs_guard(c);
        if (c->interruptible && c->req.lane == lane && c->req.slot_no == slot
            && c->req.generation == generation) {
            c->interrupted = 1;
            py.PyThreadState_SetAsyncExc(c->ident, shim.request_timeout);
        }
        gs_unguard(c);
    }
}
