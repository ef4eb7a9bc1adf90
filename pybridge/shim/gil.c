/* gil.c: the one place where the GIL is let go and taken, and where threads wait (invariant 7).
 *
 * A thread that serves keeps the GIL from request to request while its lanes have work; it lets go
 * of it only to park, and while its response ring is full. On free-threaded builds "GIL" means
 * being attached, and the taker's turn is a lock of our own.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <pthread.h>

/* The taker's turn: who takes requests from and puts replies on the rings. The GIL gives it for
 * free. */
void gs_turn_take(void)
{
    if (py.free_threaded)
        gs_lock(&shim.turn);
}

void gs_turn_give(void)
{
    if (py.free_threaded)
        gs_unlock(&shim.turn);
}

/* GIL held. The next request into c->req: 1, or 0 when there is none. */
static int take(struct context *c)
{
    struct request *r = &c->req;

    gs_turn_take();
    int got = gs_take(&shim.region, &c->next_lane, &r->lane, &r->slot_no, &r->generation);
    gs_turn_give();
    if (got)
        r->slot = gs_slot(&shim.region, &shim.region.lane[r->lane], r->slot_no);
    return got;
}

/* GIL held. The slot tells the loop who runs its request since when, and what it waited for the GIL
 * before. */
static void note_taken(struct context *c, uint64_t now)
{
    struct slot *s = c->req.slot;

    atomic_store_explicit(&s->taken_ns, now, memory_order_relaxed);
    atomic_store_explicit(&s->gil_us, c->gil_us, memory_order_relaxed);
    atomic_store_explicit(&s->thread, c->thread.id, memory_order_relaxed);
    c->gil_us = 0;
}

/* GIL held. Runs what the lanes have, one request after the other; then is now. */
static void serve_queued(struct context *c, uint64_t then)
{
    uint64_t now;

    while (!atomic_load_explicit(&shim.pool.quitting, memory_order_relaxed) && take(c)) {
        atomic_fetch_add_explicit(&shim.pool.started, 1, memory_order_relaxed);
        note_taken(c, then);
        gs_interruptible(c);
        gs_request_run(c);
        gs_uninterruptible(c);
        now = gs_now_ns();
        gs_pool_served(&shim.pool, now - then);
        then = now;
        if (GS_PLAIN || gs_pool_is_over(&shim.pool, &c->thread, now))
            return;
    }
}

/* GIL held; let go while there is nothing to do. One thread's life: 0 when the worker ends, -1 with
 * an exception set by a signal handler (main thread only). */
int gs_serve(struct context *c)
{
    uint64_t now = gs_now_ns();

    atomic_store(&c->ident, (unsigned long)pthread_self());
    for (;;) {
        serve_queued(c, now);
        void *state = py.PyEval_SaveThread();
        enum park_result why = gs_pool_park(&shim.pool, &c->thread);
        uint64_t before = gs_now_ns();
        py.PyEval_RestoreThread(state);
        if (why == PARK_QUIT)
            return 0;
        if (why == PARK_SIGNAL && py.PyErr_CheckSignals() < 0)
            return -1;
        now = gs_now_ns();
        c->gil_us = (uint32_t)((now - before) / 1000);
        gs_pool_got_gil(&shim.pool, &c->thread, now - before);
    }
}

/* GIL held; let go. Waits until the loop has acknowledged a reply of this thread: 0, or -1 when the
 * worker ends. */
int gs_wait_for_room(struct context *c)
{
    uint32_t lane = c->req.lane;
    void *state = py.PyEval_SaveThread();
    int room = 0;

    while (!room && !atomic_load(&shim.pool.quitting))
        room = gs_wait_ack(&shim.region, lane, c->thread.id, &c->outlet[lane], 1000);
    uint64_t before = gs_now_ns();
    py.PyEval_RestoreThread(state);
    atomic_fetch_add_explicit(&c->req.slot->gil_us, (uint32_t)((gs_now_ns() - before) / 1000),
                              memory_order_relaxed);
    return room ? 0 : -1;
}

/* GIL not held; taken and let go. Runs f(arg) with it, on a thread that Python does not know. */
void gs_with_gil(void (*f)(void *), void *arg)
{
    int state = py.PyGILState_Ensure();

    f(arg);
    py.PyGILState_Release(state);
}

/* GIL held; let go. The main thread beside serving threads: waits for the end and runs Python's
 * signal handlers. 0 at the end, -1 with an exception set by a handler. */
int gs_main_wait(void)
{
    while (!atomic_load(&shim.pool.quitting)) {
        void *state = py.PyEval_SaveThread();
        gs_futex_wait(&shim.pool.quitting, 0, -1, 0);
        py.PyEval_RestoreThread(state);
        if (py.PyErr_CheckSignals() < 0)
            return -1;
    }
    return 0;
}
