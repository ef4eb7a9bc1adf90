/* pool.h: which thread serves, which sleeps, and who is woken.
 *
 * A running thread keeps the GIL from request to request and takes whatever is queued, so one
 * thread is enough for an app that computes. Another one is useful only while the running one is
 * blocked off the GIL. The rule:
 *
 *   - Parked threads form a stack: the last one parked, whose caches are warm, is woken first.
 *     Each sleeps on its own word in the region.
 *   - The bell word names the thread that the loop wakes when it publishes a request: while nobody
 *     runs, the last one parked; while somebody runs, the top of the stack, unless a watcher is at
 *     work; 0 when no ring is wanted.
 *   - A thread that is rung while another one runs is the watcher. It looks at the queue every
 *     tick. If requests wait, none was begun since its last look, the process used little CPU and
 *     no running thread could run, then they are blocked, and the watcher serves. A thread that
 *     could run but has no CPU still holds the GIL: joining it would only make two wait. If they
 *     compute, the watcher joins them only when none was begun for GS_FAIR_NS and each of them, for
 *     fairness; never while another one waits for the GIL. As long as they are not blocked, or
 *     requests are so short that nobody is needed, its ticks become longer, for each is a wake-up
 *     on a CPU that they could use.
 *   - A thread that had to wait for the GIL leaves when it has served for GS_FAIR_NS, if another
 *     one still runs: two that compute would fight for the GIL as long as requests wait.
 *   - Requests that are long while the GIL is mostly free (I/O) make the pool eager: a thread that
 *     is rung serves at once if nobody waits for the GIL, and one that got the GIL quickly wakes
 *     the next while requests wait.
 *   - On free-threaded builds whoever is rung serves.
 */
#ifndef GS_POOL_H
#define GS_POOL_H

#include "lane.h"

#include <stdatomic.h>
#include <stdint.h>

#define GS_TICK_US 250u       /* between two looks of the watcher */
#define GS_TICK_MAX_US 2000u  /* the same while the running threads are not blocked */
#define GS_IDLE_TICKS_MAX 20u /* looks at an empty queue before the watcher sleeps */
#define GS_FAIR_NS 5000000u /* each computing thread has this, then one joins; so has who joined */
#define GS_SHORT_NS 25000u  /* a request below this is short */
#define GS_LONG_NS 100000u  /* a request above this is long */
#define GS_GIL_FREE_NS 500000u /* mean wait for the GIL below which it counts as free */
#define GS_CHAIN_NS 200000u    /* own wait for the GIL below which the next thread is woken too */

enum thread_state { THREAD_NEW, THREAD_RUNNING, THREAD_PARKED };
enum park_result { PARK_SERVE, PARK_QUIT, PARK_SIGNAL };

struct thread {
    uint32_t id;
    enum thread_state state; /* under the pool's lock */
    struct thread *below;    /* next on the stack of parked threads; under the lock */
    int called; /* taken off the stack and counted as running by another thread; under the lock */
    _Atomic uint32_t *wake; /* its futex word in the region */
    int stat;               /* descriptor of its /proc/self/task/TID/stat, or -1 */
    uint64_t over_ns;       /* when it has had its share of a busy GIL; 0 never */
    int handles_signals;    /* the main thread */
};

struct pool {
    struct region *region;
    _Atomic uint32_t lock; /* futex: 0 free, 1 held, 2 held with sleepers */
    _Atomic uint32_t quitting;
    struct thread *parked;   /* stack; under the lock, as is all below unless said otherwise */
    struct thread *watcher;  /* looks every tick, or NULL */
    struct thread *listener; /* whom the bell last named */
    struct thread *entered[GS_THREADS_MAX]; /* by id; NULL before it has entered */
    uint32_t running;
    uint32_t idle_ticks, tick_us;
    uint32_t seen_started; /* `started` at the watcher's last look */
    uint64_t look_ns, look_cpu_ns;
    uint64_t begun_ns; /* the watcher's last look that saw a request begun, or somebody join */
    _Atomic uint32_t at_door;     /* threads between gs_pool_park and gs_pool_got_gil; any thread */
    _Atomic uint32_t started;     /* requests begun, ever; any thread */
    _Atomic uint64_t service_ns;  /* moving mean of a request's wall time; any thread */
    _Atomic uint64_t gil_wait_ns; /* moving mean of a woken thread's wait for the GIL; any thread */
    int free_threaded;
};

void gs_pool_init(struct pool *p, struct region *r, int free_threaded);
void gs_pool_enter(struct pool *p, struct thread *t, uint32_t id);
enum park_result gs_pool_park(struct pool *p, struct thread *t);
void gs_pool_got_gil(struct pool *p, struct thread *t, uint64_t waited_ns);
int gs_pool_is_over(struct pool *p, struct thread *t, uint64_t now);
void gs_pool_served(struct pool *p, uint64_t took_ns);
void gs_pool_quit(struct pool *p);
uint64_t gs_now_ns(void);

void gs_lock(_Atomic uint32_t *lock);
void gs_unlock(_Atomic uint32_t *lock);

#endif
