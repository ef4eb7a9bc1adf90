/* pool_test.c: which thread serves and who is woken, with real threads, a lock that plays the GIL
 * and a thread that plays the loop. `pool_test [REQUESTS]` sets the length of each stress run.
 *
 * A lost wake-up shows as a wait of the loop that nothing ends: every wait here has a limit of
 * STALL_MS, far above any scheduling delay, and says what the pool looked like.
 */
#define _GNU_SOURCE
#include "check.h"
#include "pool.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#define STALL_MS 10000
#define CREW_MAX 16u
#define SLOTS 64u
#define SWITCH_NS 5000000u /* how long a thread may keep a GIL that others want */

/* --- a lock that behaves like the GIL: whoever gives it up on request waits for the other --- */

struct gil {
    pthread_mutex_t mutex;
    pthread_cond_t freed, taken;
    int held, waiting;
    uint64_t turn; /* how often it was taken */
};

static void gil_take(struct gil *g)
{
    pthread_mutex_lock(&g->mutex);
    g->waiting++;
    while (g->held)
        pthread_cond_wait(&g->freed, &g->mutex);
    g->waiting--;
    g->held = 1;
    g->turn++;
    pthread_cond_signal(&g->taken);
    pthread_mutex_unlock(&g->mutex);
}

static void gil_give(struct gil *g)
{
    pthread_mutex_lock(&g->mutex);
    g->held = 0;
    pthread_cond_signal(&g->freed);
    pthread_mutex_unlock(&g->mutex);
}

/* What the eval loop does when another thread asked for the GIL. */
static void gil_switch(struct gil *g)
{
    pthread_mutex_lock(&g->mutex);
    uint64_t turn = g->turn;
    g->held = 0;
    pthread_cond_signal(&g->freed);
    while (g->waiting && g->turn == turn)
        pthread_cond_wait(&g->taken, &g->mutex);
    pthread_mutex_unlock(&g->mutex);
    gil_take(g);
}

/* --- the crew: threads that serve, as gil.c does it --- */

enum kind {
    KIND_SHORT,
    KIND_SLEEP,   /* off the GIL for `amount` microseconds */
    KIND_COMPUTE, /* on the GIL for `amount` microseconds */
    KIND_GATE,    /* off the GIL until the gate opens */
    KIND_BUSY,    /* on the GIL until it is told to end */
};

struct crew;

struct member {
    struct crew *crew;
    struct thread thread;
    struct outlet outlet[2];
    pthread_t id;
    uint32_t next_lane;
    _Atomic uint32_t signals; /* parkings that a signal ended */
};

struct crew {
    struct loop *loop;
    struct pool pool;
    struct gil gil;
    _Atomic uint32_t turn;  /* the taker's turn on free-threaded builds */
    _Atomic uint32_t gate;  /* 0 closed, 1 open; futex */
    _Atomic uint32_t gated; /* threads before the gate, ever */
    _Atomic uint32_t busy;  /* 1 while a request of KIND_BUSY runs; set to 0 to end it */
    _Atomic uint32_t finished;
    uint32_t count;
    struct member member[CREW_MAX];
};

static void turn_take(struct crew *c)
{
    if (c->pool.free_threaded)
        gs_lock(&c->turn);
}

static void turn_give(struct crew *c)
{
    if (c->pool.free_threaded)
        gs_unlock(&c->turn);
}

static void enter_python(struct crew *c)
{
    if (!c->pool.free_threaded)
        gil_take(&c->gil);
}

static void leave_python(struct crew *c)
{
    if (!c->pool.free_threaded)
        gil_give(&c->gil);
}

/* GIL held; let go. */
static void off_gil(struct crew *c, const struct slot *s)
{
    struct timespec time = {0, (long)s->body_len * 1000};

    leave_python(c);
    if (s->flags == KIND_SLEEP) {
        clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
    } else {
        atomic_fetch_add(&c->gated, 1);
        while (!atomic_load(&c->gate))
            gs_futex_wait(&c->gate, 0, -1, 0);
    }
    enter_python(c);
}

/* GIL held, let go every SWITCH_NS. */
static void compute(struct crew *c, const struct slot *s)
{
    uint64_t begun = gs_now_ns(), switched = begun, now = begun;

    if (s->flags == KIND_BUSY)
        atomic_store(&c->busy, 1);
    for (; s->flags == KIND_BUSY ? atomic_load(&c->busy) : now - begun < s->body_len * 1000;
         now = gs_now_ns())
        if (now - switched > SWITCH_NS && !c->pool.free_threaded) {
            gil_switch(&c->gil);
            switched = now;
        }
}

/* GIL held. The app, and its answer of one block. */
static void serve_one(struct member *m, uint32_t lane, uint32_t slot, uint32_t generation)
{
    struct crew *c = m->crew;
    struct region *r = &c->loop->region;
    const struct slot *s = loop_slot(c->loop, lane, slot);
    struct reply reply = {
        .slot = slot, .generation = generation, .thread = m->thread.id, .flags = REPLY_LAST};

    if (s->flags == KIND_COMPUTE || s->flags == KIND_BUSY)
        compute(c, s);
    else if (s->flags != KIND_SHORT)
        off_gil(c, s);
    while (!gs_reserve(r, lane, m->thread.id, &m->outlet[lane], 100, &reply.off)) {
        leave_python(c);
        gs_wait_ack(r, lane, m->thread.id, &m->outlet[lane], STALL_MS);
        enter_python(c);
    }
    turn_take(c);
    gs_publish(r, lane, &m->outlet[lane], &reply, 100);
    turn_give(c);
}

/* GIL held. As serve_queued in gil.c. */
static void serve_queued(struct member *m)
{
    struct crew *c = m->crew;
    uint64_t then = gs_now_ns(), now;
    uint32_t lane, slot, generation;

    while (!atomic_load(&c->pool.quitting)) {
        turn_take(c);
        int got = gs_take(&c->loop->region, &m->next_lane, &lane, &slot, &generation);
        turn_give(c);
        if (!got)
            return;
        atomic_fetch_add(&c->pool.started, 1);
        serve_one(m, lane, slot, generation);
        now = gs_now_ns();
        gs_pool_served(&c->pool, now - then);
        then = now;
        if (gs_pool_is_over(&c->pool, &m->thread, now))
            return;
    }
}

/* As gs_serve in gil.c. */
static void *member_main(void *argument)
{
    struct member *m = argument;
    struct crew *c = m->crew;

    enter_python(c);
    gs_pool_enter(&c->pool, &m->thread, (uint32_t)(m - c->member));
    for (;;) {
        serve_queued(m);
        leave_python(c);
        enum park_result why = gs_pool_park(&c->pool, &m->thread);
        uint64_t before = gs_now_ns();
        enter_python(c);
        if (why == PARK_QUIT)
            break;
        CHECK(why == PARK_SERVE || m->thread.handles_signals, "a signal for another thread");
        atomic_fetch_add(&m->signals, why == PARK_SIGNAL);
        gs_pool_got_gil(&c->pool, &m->thread, gs_now_ns() - before);
    }
    leave_python(c);
    atomic_fetch_add(&c->finished, 1);
    return NULL;
}

static struct crew *crew_new(uint32_t count, uint32_t lanes, int free_threaded)
{
    struct crew *c = calloc(1, sizeof *c);

    CHECK(c, "no memory");
    c->loop = loop_new(loop_layout(lanes, count, SLOTS));
    c->count = count;
    gs_pool_init(&c->pool, &c->loop->region, free_threaded);
    pthread_mutex_init(&c->gil.mutex, NULL);
    pthread_cond_init(&c->gil.freed, NULL);
    pthread_cond_init(&c->gil.taken, NULL);
    for (uint32_t i = 0; i < count; i++) {
        struct member *m = &c->member[i];
        m->crew = c;
        m->thread.handles_signals = count == 1;
        for (uint32_t lane = 0; lane < lanes; lane++)
            CHECK(gs_outlet_init(&m->outlet[lane], &c->loop->region) == 0, "no memory");
        CHECK(pthread_create(&m->id, NULL, member_main, m) == 0, "no thread");
    }
    return c;
}

static void show(struct crew *c, const char *what)
{
    struct pool *p = &c->pool;

    fprintf(stderr,
            "%s: %u threads, %u running, listener %d, watcher %d, bell %u, %u queued, "
            "mean service %lu ns, mean wait for the GIL %lu ns\n",
            what, c->count, p->running, p->listener ? (int)p->listener->id : -1,
            p->watcher ? (int)p->watcher->id : -1, atomic_load(p->region->bell),
            gs_queued(p->region), (unsigned long)atomic_load(&p->service_ns),
            (unsigned long)atomic_load(&p->gil_wait_ns));
}

/* 1 when nobody runs, everybody is parked, nobody watches and the bell names a parked thread. */
static int at_rest(struct crew *c)
{
    struct pool *p = &c->pool;
    uint32_t parked = 0, named;

    gs_lock(&p->lock);
    for (struct thread *t = p->parked; t; t = t->below)
        parked++;
    CHECK(parked + p->running <= c->count, "%u parked, %u running of %u", parked, p->running,
          c->count);
    named = atomic_load(p->region->bell);
    int rest = p->running == 0 && parked == c->count && !p->watcher && named != 0;
    if (rest)
        CHECK(p->listener && p->listener->id + 1 == named && p->listener->state == THREAD_PARKED,
              "the bell names %u, which does not listen", named);
    gs_unlock(&p->lock);
    return rest;
}

/* Waits until a condition holds; a state that never comes fails. */
static void until(struct crew *c, int (*holds)(struct crew *), const char *what)
{
    uint64_t begun = clock_now_ns();

    while (!holds(c)) {
        if (clock_now_ns() - begun > STALL_MS * 1000000ull) {
            show(c, what);
            abort();
        }
        sched_yield();
    }
}

/* Waits for the threads' end. */
static int all_finished(struct crew *c)
{
    return atomic_load(&c->finished) == c->count;
}

static void crew_end(struct crew *c)
{
    gs_pool_quit(&c->pool);
    until(c, all_finished, "a thread does not end");
    for (uint32_t i = 0; i < c->count; i++) {
        pthread_join(c->member[i].id, NULL);
        for (uint32_t lane = 0; lane < c->loop->region.head.lanes; lane++)
            free(c->member[i].outlet[lane].sizes);
    }
    loop_free(c->loop);
    free(c);
}

/* --- the loop --- */

struct mix {
    uint32_t sleep_in, compute_in; /* one of so many requests; 0 none */
    uint32_t amount_us;            /* at most */
    uint32_t cancel_in;
};

struct driver {
    struct crew *crew;
    struct mix mix;
    uint32_t lane, window, in_flight;
    uint32_t spins; /* looks for replies before it sleeps: then requests meet threads that park */
    uint32_t free[SLOTS], free_count;
    uint8_t busy[SLOTS];
    uint64_t random, seed;
    uint64_t published, answered, taken_back;
    uint32_t last_thread; /* that answered, and how often it was another one than before */
    uint64_t thread_changes;
};

static void driver_init(struct driver *d, struct crew *c, uint32_t lane, uint64_t seed)
{
    memset(d, 0, sizeof *d);
    d->crew = c;
    d->lane = lane;
    d->random = d->seed = seed;
    for (uint32_t i = 0; i < SLOTS; i++)
        d->free[d->free_count++] = i;
}

/* Publishes one request; the doorbell is the caller's. */
static uint32_t publish(struct driver *d, enum kind kind, uint32_t amount_us)
{
    uint32_t slot = d->free[--d->free_count];
    struct slot *s = loop_slot(d->crew->loop, d->lane, slot);

    s->flags = kind;
    s->body_len = amount_us;
    d->busy[slot] = 1;
    d->in_flight++;
    d->published++;
    loop_publish(d->crew->loop, d->lane, slot);
    return slot;
}

static void publish_random(struct driver *d)
{
    const struct mix *m = &d->mix;
    uint64_t r = next_random(&d->random);
    uint32_t amount = m->amount_us ? (uint32_t)(r >> 40) % m->amount_us : 0;
    enum kind kind = KIND_SHORT;

    if (m->sleep_in && r % m->sleep_in == 0)
        kind = KIND_SLEEP;
    else if (m->compute_in && (r >> 20) % m->compute_in == 0)
        kind = KIND_COMPUTE;
    uint32_t slot = publish(d, kind, amount);
    if (m->cancel_in && (r >> 10) % m->cancel_in == 0
        && loop_cancel(d->crew->loop, d->lane, slot)) {
        d->busy[slot] = 0;
        d->free[d->free_count++] = slot;
        d->in_flight--;
        d->taken_back++;
    }
}

/* Takes all replies that are there; how many. */
static uint32_t collect(struct driver *d)
{
    struct loop *p = d->crew->loop;
    struct reply reply;
    uint32_t n = 0;

    for (; loop_next(p, d->lane, &reply); n++) {
        CHECK(reply.slot < SLOTS && d->busy[reply.slot], "seed %lu: reply for idle slot %u",
              (unsigned long)d->seed, reply.slot);
        CHECK(reply.generation == p->lane[d->lane].generations[reply.slot],
              "seed %lu: slot %u answers generation %u", (unsigned long)d->seed, reply.slot,
              reply.generation);
        d->busy[reply.slot] = 0;
        d->free[d->free_count++] = reply.slot;
        d->in_flight--;
        d->answered++;
        d->thread_changes += reply.thread != d->last_thread;
        d->last_thread = reply.thread;
        loop_ack(p, d->lane, reply.thread);
    }
    return n;
}

/* Waits for one or more replies; aborts when none comes. */
static void await(struct driver *d, const char *what)
{
    struct loop *p = d->crew->loop;
    struct pollfd bell = {.fd = p->lane[d->lane].bell, .events = POLLIN};
    uint64_t begun = clock_now_ns();
    char bytes[64];

    for (uint64_t n = d->spins ? next_random(&d->random) % d->spins : 0; n; n--)
        if (collect(d))
            return;
    while (collect(d) == 0) {
        if (!loop_sleep(p, d->lane))
            continue;
        int n = poll(&bell, 1, STALL_MS);
        if (n > 0)
            CHECK(recv(bell.fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0, "%s", strerror(errno));
        else if (clock_now_ns() - begun > STALL_MS * 1000000ull) {
            fprintf(stderr,
                    "seed %lu, %lu published, %lu answered, %u in flight: ", (unsigned long)d->seed,
                    (unsigned long)d->published, (unsigned long)d->answered, d->in_flight);
            show(d->crew, what);
            abort();
        }
    }
}

/* A closed loop: keeps up to `window` requests in flight, in batches of random size with one ring
 * each, until `requests` are published and all but those `blocked` are answered. */
static void drive(struct driver *d, uint64_t requests, uint32_t blocked)
{
    uint64_t end = d->published + requests;

    while (d->published < end || d->in_flight > blocked) {
        uint32_t room = d->window + blocked > d->in_flight ? d->window + blocked - d->in_flight : 0;
        uint32_t burst = room ? 1 + (uint32_t)(next_random(&d->random) % room) : 0;
        for (; burst && d->published < end && loop_has_room(d->crew->loop, d->lane); burst--)
            publish_random(d);
        loop_ring(d->crew->loop);
        if (d->in_flight > blocked)
            await(d, "no answer: a wake-up was lost");
    }
    CHECK(d->answered + d->taken_back + blocked == d->published, "%lu answered",
          (unsigned long)d->answered);
}

/* --- the tests --- */

static uint64_t stress_requests = 100000;

/* Every window has its own danger: one request at a time always meets sleepers, many meet threads
 * on their way to sleep. */
static void stress(uint32_t count, struct mix mix, int free_threaded)
{
    const struct {
        uint32_t window, percent; /* of the requests: small windows take long for each */
    } part[] = {{1, 8}, {2, 8}, {count, 14}, {3 * count, 30}, {SLOTS, 40}};
    struct crew *c = crew_new(count, 1, free_threaded);
    struct driver d;

    driver_init(&d, c, 0, 7 * count + (uint64_t)free_threaded);
    d.mix = mix;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        d.window = part[i].window < SLOTS ? part[i].window : SLOTS;
        d.spins = i % 2 ? 400 : 0;
        drive(&d, stress_requests * part[i].percent / 100, 0);
        until(c, at_rest, "the pool does not come to rest");
    }
    crew_end(c);
}

static int gate_reached(struct crew *c)
{
    return atomic_load(&c->gated) > 0;
}

static void open_gate(struct crew *c)
{
    atomic_store(&c->gate, 1);
    gs_futex_wake(&c->gate, 1 << 30, 0);
}

/* One thread is blocked all the time: the others serve and park beside it, and no look of a thread
 * that parked last helps. */
static void stress_beside_blocked(uint32_t count, struct mix mix, uint32_t spins)
{
    struct crew *c = crew_new(count, 1, 0);
    struct driver d;

    until(c, at_rest, "the pool does not come to rest");
    driver_init(&d, c, 0, 50 * count + spins);
    publish(&d, KIND_GATE, 0);
    loop_ring(c->loop);
    until(c, gate_reached, "the first request does not begin");
    d.mix = mix;
    d.spins = spins;
    for (d.window = 1; d.window < SLOTS; d.window *= 4)
        drive(&d, stress_requests / (mix.sleep_in ? 100 : 40), 1);
    open_gate(c);
    drive(&d, 0, 0);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

static void *drive_main(void *argument)
{
    drive(argument, stress_requests / 4, 0);
    return NULL;
}

/* Two loops share one bell. */
static void stress_two_loops(void)
{
    for (uint32_t count = 1; count <= 4; count += 3) {
        struct crew *c = crew_new(count, 2, 0);
        struct driver d[2];
        pthread_t other;

        for (uint32_t lane = 0; lane < 2; lane++) {
            driver_init(&d[lane], c, lane, 100 + lane);
            d[lane].mix = (struct mix){.sleep_in = 100, .amount_us = 300, .cancel_in = 10};
            d[lane].window = 1 + lane * 7;
        }
        CHECK(pthread_create(&other, NULL, drive_main, &d[1]) == 0, "no thread");
        drive(&d[0], stress_requests / 4, 0);
        pthread_join(other, NULL);
        until(c, at_rest, "the pool does not come to rest");
        crew_end(c);
    }
}

static void ignore(int number)
{
    (void)number;
}

static void *signal_main(void *argument)
{
    struct crew *c = argument;
    uint64_t random = 99;

    while (!atomic_load(&c->gate)) {
        pthread_kill(c->member[next_random(&random) % c->count].id, SIGUSR1);
        sched_yield();
    }
    return NULL;
}

/* Signals end waits early. The main thread of a single-threaded worker goes back to Python for
 * each; no other thread does, and none forgets a request. */
static void stress_signals(void)
{
    struct sigaction action = {.sa_handler = ignore};

    sigaction(SIGUSR1, &action, NULL);
    for (uint32_t count = 1; count <= 4; count += 3) {
        struct crew *c = crew_new(count, 1, 0);
        struct driver d;
        pthread_t sender;

        driver_init(&d, c, 0, count);
        d.window = 3;
        d.mix = (struct mix){.sleep_in = 100, .amount_us = 300, .cancel_in = 10};
        CHECK(pthread_create(&sender, NULL, signal_main, c) == 0, "no thread");
        do
            drive(&d, stress_requests / 10, 0);
        while (count == 1 && !atomic_load(&c->member[0].signals));
        atomic_store(&c->gate, 1);
        pthread_join(sender, NULL);
        until(c, at_rest, "the pool does not come to rest");
        CHECK(count == 1 || atomic_load(&c->member[0].signals) == 0, "thread 0 saw a signal");
        crew_end(c);
    }
}

static int all_but_one_gated(struct crew *c)
{
    return atomic_load(&c->gated) == c->count - 1;
}

/* All threads but one are blocked off the GIL, one after the other or by one batch; the last one
 * has to serve. */
static void blocked_runners_are_noticed(uint32_t count, int in_one_batch, int eager)
{
    struct crew *c = crew_new(count, 1, 0);
    struct driver d;

    until(c, at_rest, "the pool does not come to rest");
    if (eager) /* as after long requests that left the GIL free */
        atomic_store(&c->pool.service_ns, 10 * GS_LONG_NS);
    driver_init(&d, c, 0, count);
    for (uint32_t i = 0; i + 1 < count; i++) {
        publish(&d, KIND_GATE, 0);
        if (!in_one_batch)
            loop_ring(c->loop);
    }
    if (!in_one_batch)
        until(c, all_but_one_gated, "a blocked runner was not noticed");
    publish(&d, KIND_SHORT, 0);
    loop_ring(c->loop);
    await(&d, "a blocked runner was not noticed");
    CHECK(d.answered == 1 && d.in_flight == count - 1, "%u in flight", d.in_flight);
    open_gate(c);
    drive(&d, 0, 0);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

static int busy(struct crew *c)
{
    return atomic_load(&c->busy);
}

static int nobody_watches(struct crew *c)
{
    gs_lock(&c->pool.lock);
    int none = c->pool.watcher == NULL;
    gs_unlock(&c->pool.lock);
    return none;
}

/* Somebody watches, and shall neither join the busy thread for fairness' sake nor believe that the
 * GIL is free. */
static int somebody_watches(struct crew *c)
{
    gs_lock(&c->pool.lock);
    int some = c->pool.watcher != NULL;
    c->pool.begun_ns = gs_now_ns();
    atomic_store(&c->pool.gil_wait_ns, 1000 * GS_GIL_FREE_NS);
    gs_unlock(&c->pool.lock);
    return some;
}

/* A busy thread runs and another one watches. Requests may be in flight. */
static void begin_watching(struct crew *c, struct driver *d)
{
    until(c, at_rest, "the pool does not come to rest");
    publish(d, KIND_BUSY, 0);
    loop_ring(c->loop);
    until(c, busy, "the first request does not begin");
    while (!somebody_watches(c)) { /* it serves at once where the busy thread gets no processor */
        publish(d, KIND_SHORT, 0);
        loop_ring(c->loop);
        while (!somebody_watches(c) && !collect(d))
            sched_yield();
    }
}

/* A watcher whose queue stays empty goes to sleep although the running thread is blocked; then it
 * has to hear of the next request. */
static void watcher_leaves_and_is_rung(void)
{
    struct crew *c = crew_new(2, 1, 0);
    struct driver d;

    driver_init(&d, c, 0, 1);
    begin_watching(c, &d);
    publish(&d, KIND_GATE, 0);
    loop_ring(c->loop);
    atomic_store(&c->busy, 0);
    until(c, gate_reached, "the gate is not reached");
    drive(&d, 0, 1);
    until(c, nobody_watches, "the watcher watches an empty queue for ever");
    publish(&d, KIND_SHORT, 0);
    loop_ring(c->loop);
    await(&d, "a blocked runner was not noticed");
    open_gate(c);
    drive(&d, 0, 0);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

static int looks_seldom(struct crew *c)
{
    gs_lock(&c->pool.lock);
    int seldom = c->pool.watcher && c->pool.tick_us > GS_TICK_MAX_US / 2;
    gs_unlock(&c->pool.lock);
    return seldom;
}

/* While short requests come one after the other nobody is needed, and the watcher neither leaves,
 * only to be rung again, nor looks often. */
static void short_requests_need_no_watcher(void)
{
    struct crew *c = crew_new(2, 1, 0);
    struct driver d;
    uint64_t begun = clock_now_ns();

    driver_init(&d, c, 0, 1);
    d.window = 1;
    begin_watching(c, &d);
    atomic_store(&c->busy, 0);
    while (!looks_seldom(c)) {
        atomic_store(&c->pool.service_ns, 0); /* of the busy one */
        drive(&d, 100, 0);
        CHECK(clock_now_ns() - begun < 20000000000u, "the watcher looks often, or has left");
    }
    drive(&d, 0, 0);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

/* How long a short request waits beside a lone runner that sleeps: two looks of the watcher. The
 * median of many, for the machine is not ours alone. */
static void lone_sleeper_costs_ticks(void)
{
    enum { ROUNDS = 41 };
    uint64_t waited[ROUNDS];
    struct crew *c = crew_new(2, 1, 0);
    struct driver d;

    driver_init(&d, c, 0, 1);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        until(c, at_rest, "the pool does not come to rest");
        atomic_store(&c->gate, 0);
        atomic_store(&c->gated, 0);
        atomic_store(&c->pool.service_ns, 0); /* or the pool would be eager: gates are long */
        publish(&d, KIND_GATE, 0);
        loop_ring(c->loop);
        until(c, gate_reached, "the first request does not begin");
        waited[i] = clock_now_ns();
        publish(&d, KIND_SHORT, 0);
        loop_ring(c->loop);
        await(&d, "a lone blocked runner was not noticed");
        waited[i] = clock_now_ns() - waited[i];
        for (uint32_t j = i; j > 0 && waited[j] < waited[j - 1]; j--) {
            uint64_t swap = waited[j];
            waited[j] = waited[j - 1];
            waited[j - 1] = swap;
        }
        open_gate(c);
        drive(&d, 0, 0);
    }
    printf("pool_test: a request beside a lone sleeper waits %lu us\n",
           (unsigned long)waited[ROUNDS / 2] / 1000);
    CHECK(waited[ROUNDS / 2] < 20000000, "median wait %lu ns", (unsigned long)waited[ROUNDS / 2]);
    crew_end(c);
}

/* A request that computes keeps the GIL; another one is let in before it ends. */
static void computing_runner_is_joined(void)
{
    struct crew *c = crew_new(2, 1, 0);
    struct driver d;

    until(c, at_rest, "the pool does not come to rest");
    driver_init(&d, c, 0, 1);
    publish(&d, KIND_BUSY, 0);
    loop_ring(c->loop);
    until(c, busy, "the first request does not begin");
    publish(&d, KIND_SHORT, 0);
    loop_ring(c->loop);
    await(&d, "a computing runner was never joined");
    CHECK(d.answered == 1 && atomic_load(&c->busy), "the long request was answered first");
    atomic_store(&c->busy, 0);
    drive(&d, 0, 0);
    crew_end(c);
}

/* Requests that compute keep the GIL busy: who waits for it keeps the others away from its door,
 * although it was free until now. */
static void a_busy_gil_draws_no_crowd(void)
{
    struct crew *c = crew_new(16, 1, 0);
    struct driver d;
    uint32_t most = 0;

    until(c, at_rest, "the pool does not come to rest");
    atomic_store(&c->pool.service_ns, 10 * GS_LONG_NS);
    driver_init(&d, c, 0, 16);
    for (int i = 0; i < 40; i++)
        publish(&d, KIND_COMPUTE, 1000);
    loop_ring(c->loop);
    while (d.in_flight) {
        await(&d, "no answer: a wake-up was lost");
        uint32_t now = atomic_load(&c->pool.at_door);
        most = now > most ? now : most;
    }
    CHECK(most <= 4, "%u threads waited for the GIL", most);
    until(c, at_rest, "the pool does not come to rest");
    CHECK(atomic_load(&c->pool.at_door) == 0, "somebody waits for the GIL at rest");
    crew_end(c);
}

/* 1 when only one thread runs although requests wait and some were begun since `started`. */
static int share_is_over(struct crew *c, uint32_t started)
{
    gs_lock(&c->pool.lock);
    int over = c->pool.running == 1 && gs_queued(&c->loop->region) > 0
               && atomic_load(&c->pool.started) > started;
    gs_unlock(&c->pool.lock);
    return over;
}

/* A thread that had to wait for a busy GIL leaves when it has had its share, though requests wait:
 * two threads that compute would go on fighting. */
static void a_share_of_the_gil_ends(void)
{
    struct crew *c = crew_new(2, 1, 0);
    struct driver d;

    until(c, at_rest, "the pool does not come to rest");
    driver_init(&d, c, 0, 2);
    publish(&d, KIND_BUSY, 0);
    loop_ring(c->loop);
    until(c, busy, "the first request does not begin");
    uint64_t begun = clock_now_ns();
    uint32_t started = atomic_load(&c->pool.started);
    while (!share_is_over(c, started)) {
        CHECK(clock_now_ns() - begun < STALL_MS * 1000000ull, "a share of the GIL does not end");
        collect(&d);
        if (d.in_flight == 1) { /* also again: who got the GIL at once serves them all */
            atomic_store(&c->pool.gil_wait_ns, 1000 * GS_GIL_FREE_NS);
            started = atomic_load(&c->pool.started);
            for (int i = 0; i < 20; i++)
                publish(&d, KIND_COMPUTE, 2000);
            loop_ring(c->loop);
        }
        sched_yield();
    }
    atomic_store(&c->busy, 0);
    drive(&d, 0, 0);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

/* Sleeping requests run beside each other: the whole takes far less than their sum. */
static void sleepers_overlap(void)
{
    struct crew *c = crew_new(16, 1, 0);
    struct driver d;

    driver_init(&d, c, 0, 16);
    d.window = SLOTS;
    d.mix = (struct mix){.sleep_in = 1, .amount_us = 20000};
    uint64_t begun = clock_now_ns();
    drive(&d, 256, 0); /* 10 ms each on average: 2560 ms in all, 160 ms on 16 threads */
    uint64_t took = clock_now_ns() - begun;
    CHECK(took < 1280000000u, "256 sleeps of 10 ms on 16 threads took %lu ms",
          (unsigned long)took / 1000000);
    until(c, at_rest, "the pool does not come to rest");
    crew_end(c);
}

/* One request after the other is served by one thread: the last one parked, whose caches are warm.
 */
static void the_warm_thread_serves(void)
{
    struct crew *c = crew_new(4, 1, 0);
    struct driver d;

    driver_init(&d, c, 0, 4);
    d.window = 1;
    for (int i = 0; i < 200; i++) {
        until(c, at_rest, "the pool does not come to rest");
        drive(&d, 1, 0);
    }
    CHECK(d.thread_changes < 40, "%lu changes of thread in 200 requests",
          (unsigned long)d.thread_changes);
    crew_end(c);
}

/* Threads at rest sleep: none of them runs in circles. */
static void rest_costs_nothing(void)
{
    struct crew *c = crew_new(4, 1, 0);
    struct timespec window = {0, 30000000}, before, after;
    struct driver d;

    driver_init(&d, c, 0, 4);
    d.window = SLOTS;
    d.mix = (struct mix){.sleep_in = 3, .amount_us = 300};
    drive(&d, 100, 0);
    until(c, at_rest, "the pool does not come to rest");
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &window, NULL); /* the time that is measured */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    long used = (after.tv_sec - before.tv_sec) * 1000000000l + after.tv_nsec - before.tv_nsec;
    CHECK(used < 5000000, "30 ms of rest took %ld ns of processor time", used);
    crew_end(c);
}

/* The end reaches threads that are parked, running, on their way, and not there yet. */
static void quit_wakes_all(void)
{
    for (uint32_t i = 0; i < 200; i++) {
        struct crew *c = crew_new(1 + i % 7, 1, i % 3 == 0);
        struct driver d;

        driver_init(&d, c, 0, i);
        if (i % 2)
            until(c, at_rest, "the pool does not come to rest");
        for (uint32_t n = 0; n < i % 5; n++)
            publish(&d, n % 2 ? KIND_SLEEP : KIND_SHORT, 100);
        loop_ring(c->loop);
        crew_end(c);
    }
}

static void stress_all(void)
{
    static const uint32_t counts[] = {1, 2, 4, 16};
    const struct mix shorts = {.cancel_in = 5}, sleeps = {.sleep_in = 1, .amount_us = 50},
                     mixed = {
                         .sleep_in = 200, .compute_in = 400, .amount_us = 400, .cancel_in = 10};

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        stress(counts[i], mixed, 0);
    stress(4, shorts, 0);
    stress(4, mixed, 1);
    for (uint32_t count = 2; count <= 4; count += 2) {
        stress_beside_blocked(count, shorts, 0);
        stress_beside_blocked(count, shorts, 400);
        stress_beside_blocked(count, sleeps, 0);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        stress_requests = strtoull(argv[1], NULL, 10);
    for (uint32_t count = 2; count <= 4; count++)
        for (int variant = 0; variant < 4; variant++)
            blocked_runners_are_noticed(count, variant & 1, variant & 2);
    watcher_leaves_and_is_rung();
    short_requests_need_no_watcher();
    lone_sleeper_costs_ticks();
    computing_runner_is_joined();
    a_busy_gil_draws_no_crowd();
    a_share_of_the_gil_ends();
    sleepers_overlap();
    the_warm_thread_serves();
    rest_costs_nothing();
    quit_wakes_all();
    stress_all();
    stress_two_loops();
    stress_signals();
    puts("pool_test: ok");
    return 0;
}
