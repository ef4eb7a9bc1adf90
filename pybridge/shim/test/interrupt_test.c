/* interrupt_test.c: an interruption hits the request it is meant for or none, also where no GIL
 * keeps the two threads apart (free-threaded Python). CPython is played by one word: the exception
 * that is pending for the serving thread.
 */
#define _GNU_SOURCE
#include "../interrupt.c"
#include "check.h"

#include <pthread.h>
#include <sched.h>

struct py_api py;
struct shim shim;

#define HITS 1000u          /* wanted */
#define ROUNDS_MAX 5000000u /* in vain: the other thread gets no turn */
#define IDENT 4711ul

static _Atomic uintptr_t pending; /* what the next bytecode would raise; 0: nothing */
static _Atomic uint32_t meant;    /* generation of the request that the last one is meant for */
static _Atomic uint32_t at;       /* generation that runs now */
static _Atomic int finished;      /* the serving thread has */

static int set_async_exc(unsigned long ident, PyObj *exception)
{
    CHECK(ident == IDENT, "ident: got %lu, want %lu", ident, IDENT);
    atomic_store(&pending, (uintptr_t)exception);
    return 1;
}

static void set_up(struct context *c, int free_threaded)
{
    memset(c, 0, sizeof *c);
    c->ident = IDENT;
    shim.contexts = c;
    shim.region.head.threads = 1;
    shim.request_timeout = (PyObj *)&py;
    py.PyThreadState_SetAsyncExc = set_async_exc;
    py.free_threaded = free_threaded;
    atomic_store(&pending, 0);
}

/* Only the very request is hit, and only while it runs. */
static void only_the_one(void)
{
    struct context c;

    set_up(&c, 0);
    c.req.lane = 1;
    c.req.slot_no = 2;
    c.req.generation = 3;
    gs_interrupt(1, 2, 3);
    CHECK(!pending, "a request that does not run was interrupted");
    gs_interruptible(&c);
    gs_interrupt(0, 2, 3);
    gs_interrupt(1, 0, 3);
    gs_interrupt(1, 2, 4);
    CHECK(!pending, "another request was interrupted");
    gs_interrupt(1, 2, 3);
    CHECK(pending, "the request was not interrupted");
    gs_uninterruptible(&c);
    CHECK(!pending, "the exception outlives its request");
    gs_interrupt(1, 2, 3);
    CHECK(!pending, "a request that has ended was interrupted");
    gs_interruptible(&c);
    atomic_store(&pending, 1); /* the app's own affair */
    gs_uninterruptible(&c);
    CHECK(pending == 1, "what others have set was taken back");
}

/* A thread that serves one request after the other. */
static void *serve(void *arg)
{
    struct context *c = arg;
    uint32_t i = 0, hits = 0;

    while (hits < HITS && ++i < ROUNDS_MAX) {
        c->req.generation = i;
        gs_interruptible(c);
        atomic_store(&at, i);
        for (int step = 0; step < 100; step++) { /* of bytecode */
            if (step == 50 && i % 16 == 0)
                sched_yield(); /* on a busy machine both may share a core */
            if (!atomic_load(&pending))
                continue;
            CHECK(atomic_load(&meant) == i, "request %u got the exception of %u", i,
                  atomic_load(&meant));
            hits++;
            break;
        }
        gs_uninterruptible(c);
        CHECK(!atomic_load(&pending), "request %u leaves an exception behind", i);
    }
    atomic_store(&finished, 1);
    CHECK(hits == HITS, "hits: got %u of %u requests, want %u", hits, i, HITS);
    return NULL;
}

static void without_gil(void)
{
    static struct context c;
    pthread_t thread;

    set_up(&c, 1);
    CHECK(pthread_create(&thread, NULL, serve, &c) == 0, "no thread");
    while (!atomic_load(&finished)) {
        uint32_t target = atomic_load(&at);
        atomic_store(&meant, target);
        gs_interrupt(0, 0, target);
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    only_the_one();
    without_gil();
    puts("interrupt_test: ok");
    return 0;
}
