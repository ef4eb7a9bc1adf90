/* pool.c: see pool.h. Plain C: the GIL is the caller's business. */
#define _GNU_SOURCE
#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* GIL held or not. CLOCK_MONOTONIC in nanoseconds. */
uint64_t gs_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* GIL held or not; the critical sections are a few dozen instructions, none of them a system call.
 */
void gs_lock(_Atomic uint32_t *lock)
{
    uint32_t free = 0;

    if (atomic_compare_exchange_strong(lock, &free, 1))
        return;
    while (atomic_exchange(lock, 2) != 0)
        gs_futex_wait(lock, 2, -1, 0);
}

void gs_unlock(_Atomic uint32_t *lock)
{
    if (atomic_exchange(lock, 0) == 2)
        gs_futex_wake(lock, 1, 0);
}

void gs_pool_init(struct pool *p, struct region *r, int free_threaded)
{
    memset(p, 0, sizeof *p);
    p->region = r;
    p->free_threaded = free_threaded;
}

/* GIL held or not. The kernel's line about the calling thread: a descriptor, or -1. */
static int open_stat(void)
{
    char path[40];

    snprintf(path, sizeof path, "/proc/self/task/%ld/stat", syscall(SYS_gettid));
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* GIL held or not. 1 when the thread runs, or would if it had a CPU. */
static int is_runnable(const struct thread *t)
{
    char line[128]; /* "TID (NAME) STATE ...", NAME at most 15 bytes */
    ssize_t n = pread(t->stat, line, sizeof line - 1, 0);

    line[n > 0 ? n : 0] = 0;
    const char *state = strrchr(line, ')');
    return state && state[1] == ' ' && state[2] == 'R';
}

/* GIL held or not. A thread joins the pool, running. */
void gs_pool_enter(struct pool *p, struct thread *t, uint32_t id)
{
    t->id = id;
    t->wake = gs_wake_word(p->region, id);
    t->stat = open_stat();
    gs_lock(&p->lock);
    p->entered[id] = t;
    t->state = THREAD_RUNNING;
    p->running++;
    gs_unlock(&p->lock);
}

/* Lock held. Long requests while the GIL is mostly free: waking another thread at once pays. The
 * mean tells of a wait for the GIL when it is over; until then who waits speaks for himself, or a
 * GIL that has become busy would draw all threads to its door. */
static int eager(const struct pool *p)
{
    return p->free_threaded
           || (atomic_load_explicit(&p->at_door, memory_order_relaxed) == 0
               && atomic_load_explicit(&p->service_ns, memory_order_relaxed) > GS_LONG_NS
               && atomic_load_explicit(&p->gil_wait_ns, memory_order_relaxed) < GS_GIL_FREE_NS);
}

/* Lock held. The loop shall wake t when it publishes a request. */
static void name_in_bell(struct pool *p, struct thread *t)
{
    p->listener = t;
    atomic_store(p->region->bell, t ? t->id + 1 : 0);
}

/* Lock held. */
static void push(struct pool *p, struct thread *t)
{
    t->state = THREAD_PARKED;
    t->below = p->parked;
    p->parked = t;
    p->running--;
}

/* Lock held. Takes t off the stack and counts it as running. */
static void unpark(struct pool *p, struct thread *t)
{
    struct thread **at = &p->parked;

    while (*at && *at != t)
        at = &(*at)->below;
    if (*at)
        *at = t->below;
    if (p->watcher == t)
        p->watcher = NULL;
    t->state = THREAD_RUNNING;
    p->running++;
}

/* Lock held. t is about to serve: somebody has to notice if it blocks. Returns the thread to wake
 * as watcher, or NULL. */
static struct thread *leave_lookout(struct pool *p)
{
    struct thread *top = p->parked;

    if (p->watcher || !top) {
        name_in_bell(p, NULL);
        return NULL;
    }
    name_in_bell(p, top);
    /* What was published before the bell named `top` rings nobody; one of those the caller takes
     * itself. */
    if (gs_queued(p->region) > 1 && atomic_exchange(p->region->bell, 0))
        return top;
    return NULL;
}

/* GIL held or not, lock not held. */
static void wake(struct thread *t)
{
    atomic_fetch_add(t->wake, 1);
    gs_futex_wake(t->wake, 1, 1);
}

/* Lock held. Whether a thread that serves could run now. Asked only when the process used next to
 * no CPU for a tick, so the few microseconds that it takes are rare. */
static int one_is_runnable(const struct pool *p)
{
    for (uint32_t i = 0; i < p->region->head.threads; i++) {
        const struct thread *t = p->entered[i];
        if (t && t->state == THREAD_RUNNING && is_runnable(t))
            return 1;
    }
    return 0;
}

/* What the watcher sees: what happened since its last look. */
struct look {
    uint64_t now, wall_ns, cpu_ns;
    int begun; /* some request was */
};

/* Lock held. */
static struct look look(struct pool *p)
{
    uint64_t cpu = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint32_t started = atomic_load_explicit(&p->started, memory_order_relaxed);
    struct look l = {.now = gs_now_ns(), .begun = started != p->seen_started};

    l.wall_ns = l.now - p->look_ns;
    l.cpu_ns = cpu - p->look_cpu_ns;
    p->look_ns = l.now;
    p->look_cpu_ns = cpu;
    p->seen_started = started;
    if (l.begun)
        p->begun_ns = l.now;
    return l;
}

/* Lock held; requests wait and another thread runs. Whether the watcher shall serve: see the rule
 * in pool.h. */
static int running_ones_are_blocked(struct pool *p, const struct look *l)
{
    if (l->begun || atomic_load_explicit(&p->at_door, memory_order_relaxed))
        return 0;
    if (l->cpu_ns * 5 < l->wall_ns && !one_is_runnable(p))
        return 1;
    if (l->now - p->begun_ns < (uint64_t)GS_FAIR_NS * p->running)
        return 0;
    p->begun_ns = l->now;
    return 1;
}

/* Lock held. Another parked thread was named last. */
static int other_listens(const struct pool *p, const struct thread *t)
{
    return p->listener && p->listener != t && p->listener->state == THREAD_PARKED;
}

/* Lock held. t, parked, shall hear of the next request unless another parked thread does. 1 when
 * requests came meanwhile. */
static int be_named(struct pool *p, struct thread *t)
{
    if (other_listens(p, t) && atomic_load(p->region->bell))
        return 0;
    name_in_bell(p, t);
    return gs_queued(p->region) > 0;
}

static void begin_watch(struct pool *p, struct thread *t)
{
    p->watcher = t;
    p->idle_ticks = 0;
    p->tick_us = GS_TICK_US;
    atomic_store(p->region->bell, 0);
    look(p);
}

/* Whether requests are begun, and ended, much quicker than the watcher looks. */
static int is_brisk(const struct pool *p, const struct look *l)
{
    return l->begun
           && atomic_load_explicit(&p->service_ns, memory_order_relaxed) < GS_SHORT_NS;
}

/* Lock held, after the watcher's look. It looks less often as long as the others are busy and it is
 * not needed: each look is a wake-up on a CPU that they could use. 0 when there was nothing to do
 * for so long that it may sleep. */
static int pace(struct pool *p, int busy)
{
    if (!busy) {
        p->tick_us = GS_TICK_US;
        return ++p->idle_ticks <= GS_IDLE_TICKS_MAX;
    }
    p->idle_ticks = 0;
    p->tick_us = p->tick_us < GS_TICK_MAX_US / 2 ? 2 * p->tick_us : GS_TICK_MAX_US;
    return 1;
}

/* Lock held; t is parked and somebody else runs. Returns 1 when t shall serve; else *timeout_us
 * says how long to sleep. */
static int watch(struct pool *p, struct thread *t, int64_t *timeout_us)
{
    int rung = p->listener == t && atomic_load(p->region->bell) == 0;

    *timeout_us = -1;
    if (p->watcher && p->watcher != t)
        return 0;
    if (eager(p)) {
        p->watcher = NULL;
        return gs_queued(p->region) > 0 || be_named(p, t);
    }
    if (p->watcher != t) {
        if (!rung && !be_named(p, t))
            return 0;
        begin_watch(p, t);
    } else {
        struct look l = look(p);
        int waits = gs_queued(p->region) > 0;
        if (waits && running_ones_are_blocked(p, &l))
            return 1;
        if (!pace(p, waits || is_brisk(p, &l))) {
            p->watcher = NULL;
            if (!be_named(p, t))
                return 0;
            begin_watch(p, t);
        }
    }
    *timeout_us = p->tick_us;
    return 0;
}

/* Lock held; t is parked and nobody runs. Returns 1 when t shall serve; else *timeout_us says how
 * long to sleep. */
static int listen_to_bell(struct pool *p, struct thread *t, int64_t *timeout_us)
{
    *timeout_us = -1;
    if (p->watcher == t) { /* stays for a while: the next request is likely close */
        struct look l = look(p);
        if (!pace(p, is_brisk(p, &l)))
            p->watcher = NULL;
        else {
            *timeout_us = p->tick_us;
            if (other_listens(p, t)) /* it was rung, or will be: it is the warmer one */
                return 0;
        }
    }
    return gs_queued(p->region) > 0 || be_named(p, t);
}

/* GIL not held. Parks t until there is something to do for it: PARK_SERVE (it counts as running
 * again), PARK_QUIT, or PARK_SIGNAL (main thread only: a signal came; it counts as running). But
 * for PARK_QUIT the caller says by gs_pool_got_gil when it has the GIL. */
enum park_result gs_pool_park(struct pool *p, struct thread *t)
{
    struct thread *helper = NULL;
    enum park_result result = PARK_SERVE;

    gs_lock(&p->lock);
    push(p, t);
    t->called = 0;
    if (p->running == 0)
        name_in_bell(p, t); /* the last one parked is the warmest */
    for (;;) {
        int64_t timeout_us = -1;
        int serve;
        uint32_t word = atomic_load(t->wake);

        if (t->called) { /* already off the stack */
            helper = leave_lookout(p);
            break;
        }
        if (atomic_load(&p->quitting)) {
            unpark(p, t);
            result = PARK_QUIT;
            break;
        }
        serve = p->running == 0 ? listen_to_bell(p, t, &timeout_us) : watch(p, t, &timeout_us);
        if (serve) {
            unpark(p, t);
            helper = leave_lookout(p);
            break;
        }
        gs_unlock(&p->lock);
        errno = 0;
        gs_futex_wait(t->wake, word, timeout_us, 1);
        int interrupted = errno == EINTR;
        gs_lock(&p->lock);
        if (interrupted && t->handles_signals && !t->called) {
            unpark(p, t);
            helper = leave_lookout(p);
            result = PARK_SIGNAL;
            break;
        }
    }
    if (result != PARK_QUIT)
        atomic_fetch_add_explicit(&p->at_door, 1, memory_order_relaxed);
    gs_unlock(&p->lock);
    if (helper)
        wake(helper);
    return result;
}

static void mean(_Atomic uint64_t *m, uint64_t sample)
{
    uint64_t old = atomic_load_explicit(m, memory_order_relaxed);

    atomic_store_explicit(m, old - old / 8 + sample / 8, memory_order_relaxed);
}

/* GIL just taken. waited_ns: how long that took. Wakes the next thread when the GIL was free,
 * requests are long and more of them wait. */
void gs_pool_got_gil(struct pool *p, struct thread *t, uint64_t waited_ns)
{
    struct thread *next = NULL;

    atomic_fetch_sub_explicit(&p->at_door, 1, memory_order_relaxed);
    mean(&p->gil_wait_ns, waited_ns);
    t->over_ns = waited_ns < GS_GIL_FREE_NS ? 0 : gs_now_ns() + GS_FAIR_NS;
    if (waited_ns >= GS_CHAIN_NS
        || atomic_load_explicit(&p->service_ns, memory_order_relaxed) < GS_LONG_NS
        || gs_queued(p->region) < 2)
        return;
    gs_lock(&p->lock);
    next = p->parked;
    if (next) {
        unpark(p, next);
        next->called = 1;
    }
    gs_unlock(&p->lock);
    if (next)
        wake(next);
}

/* GIL held. Whether t, which had to wait for the GIL, has had its share of it and another one can
 * go on with what is queued. */
int gs_pool_is_over(struct pool *p, struct thread *t, uint64_t now)
{
    if (t->over_ns == 0 || now < t->over_ns)
        return 0;
    t->over_ns = 0;
    gs_lock(&p->lock);
    int over = p->running > 1 && !eager(p);
    gs_unlock(&p->lock);
    return over;
}

/* GIL held or not. One request took took_ns of wall time. */
void gs_pool_served(struct pool *p, uint64_t took_ns)
{
    mean(&p->service_ns, took_ns);
}

/* GIL not held. Every parked thread returns PARK_QUIT, now and later. */
void gs_pool_quit(struct pool *p)
{
    atomic_store(&p->quitting, 1);
    for (uint32_t i = 0; i < p->region->head.threads; i++) {
        _Atomic uint32_t *word = gs_wake_word(p->region, i);
        atomic_fetch_add(word, 1);
        gs_futex_wake(word, 1, 1);
    }
}
