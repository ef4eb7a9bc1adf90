/* control.c: the worker's end of the control socket.
 *
 * A plain C thread, unknown to Python, reads it, so that the end of the parent is noticed even
 * while some thread holds the GIL for ever. Orders are a byte and what belongs to it:
 *
 *   'q'           finish: parked threads return, boot.py's main() ends, Python exits as usual
 *   'p'           answer 'p' as soon as the GIL can be had
 *   's'           report all stacks (stacks.c) as soon as the GIL can be had
 *   'f'           report all stacks at once, without the GIL
 *   't' struct    raise RequestTimeout in the thread that runs a request (interrupt.c)
 *   end of file   the parent has died: the same as 'q', and the process is gone after GS_ORPHAN_S
 *                 seconds whatever the app does
 *
 * What needs the GIL is done by a thread of its own, which may have to wait for ever; more than
 * GS_ERRANDS_MAX of them would bring nothing new, so further orders are dropped. But for a 'p': the
 * parent has one on the way at a time, asks again after the answer, and replaces a worker that owes
 * it for long.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define GS_ORPHAN_S 5
#define GS_ERRANDS_MAX 16u
#define GS_STACK_BYTES \
    (1u << 20) /* of our threads; musl's default of 128 KiB is short for Python */

/* Follows a 't'; its Go twin is the array that Worker.Interrupt writes. */
struct target {
    uint32_t lane, slot, generation;
};

struct errand {
    char order;
    struct target target;
};

static _Atomic uint32_t errands; /* on their way */

static void quit(void)
{
    gs_pool_quit(&shim.pool);
    gs_futex_wake(&shim.pool.quitting, 1 << 30, 0);
}

/* GIL not held. len bytes: 1, or 0 at the end of file. */
static int read_all(void *to, size_t len)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = read(shim.control, (char *)to + got, len - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        got += (size_t)n;
    }
    return 1;
}

/* GIL held. */
static void interrupt(void *target)
{
    struct target *t = target;

    gs_interrupt(t->lane, t->slot, t->generation);
}

/* GIL held. */
static void nothing(void *unused)
{
    (void)unused;
}

/* GIL not held; taken and let go. Does what one order says. At the interpreter's end a thread that
 * waits for the GIL never gets it, which is as good as an end. */
static void *errand_main(void *arg)
{
    struct errand *e = arg;

    if (e->order == 's')
        gs_stacks_send();
    else if (e->order == 't')
        gs_with_gil(interrupt, &e->target);
    else {
        gs_with_gil(nothing, NULL);
        gs_report("p", 1);
    }
    free(e);
    atomic_fetch_sub(&errands, 1);
    return NULL;
}

/* GIL not held. 0, or -1 when the order is dropped. */
static int send_errand(char order, const struct target *target)
{
    struct errand *e;

    if (atomic_load(&errands) >= GS_ERRANDS_MAX && order != 'p')
        return -1;
    if (atomic_load(&shim.pool.quitting) || !(e = malloc(sizeof *e)))
        return -1;
    e->order = order;
    e->target = *target;
    atomic_fetch_add(&errands, 1);
    if (gs_spawn(errand_main, e) != 0) {
        free(e);
        atomic_fetch_sub(&errands, 1);
        return -1;
    }
    return 0;
}

/* GIL never held: this thread is not Python's. */
static void *control_main(void *unused)
{
    char order;
    struct target target = {0};

    (void)unused;
    while (read_all(&order, 1)) {
        if (order == 't' && !read_all(&target, sizeof target))
            break;
        if (order == 'q')
            quit();
        else if (order == 'f')
            gs_stacks_send_raw();
        else if (send_errand(order, &target) < 0 && order == 'p')
            gs_report("p", 1); /* it ends, or gets no thread: that is not the GIL */
    }
    quit();
    struct timespec grace = {GS_ORPHAN_S, 0};
    while (nanosleep(&grace, &grace) < 0 && errno == EINTR)
        continue;
    _exit(1);
}

/* GIL held or not. Starts a thread that nobody joins, every signal blocked in it: Python's handlers
 * belong to the main thread. 0, or an errno value. */
int gs_spawn(void *(*main)(void *), void *arg)
{
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, old;
    int err = pthread_attr_init(&attributes);

    if (err)
        return err;
    pthread_attr_setstacksize(&attributes, GS_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(&thread, &attributes, main, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    if (err == 0)
        pthread_detach(thread);
    return err;
}

/* GIL held. Starts the control thread on fd. 0, or an errno value. */
int gs_control_start(int fd)
{
    shim.control = fd;
    return gs_spawn(control_main, NULL);
}
