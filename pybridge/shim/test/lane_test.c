/* lane_test.c: attaching, taking, answering and acknowledging on lanes, against a model of the loop.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

static const uint64_t second_ns = 1000000000u;

/* --- attaching --- */

struct wrong {
    const char *what;
    size_t field; /* of struct region_head */
    uint32_t value;
};

#define WRONG(name, wrong_value) \
    { \
#name " = " #wrong_value, offsetof(struct region_head, name), wrong_value \
    }

/* Tries a header; -1 and errno as gs_region_attach. */
static int attach_head(const struct region_head *h, long more, int lanes)
{
    static const int bells[GS_LANES_MAX];
    struct region *r = malloc(sizeof *r);
    int fd = loop_region_fd(h, more);
    int rc = gs_region_attach(r, fd, bells, lanes), err = errno;

    if (rc == 0)
        gs_region_detach(r);
    close(fd);
    free(r);
    errno = err;
    return rc;
}

/* Whatever the header says, no pointer made from it leaves the mapping. */
static void attach_refuses(void)
{
    const struct region_head good = loop_layout(2, 4, 64);
    const struct wrong table[] = {
        WRONG(magic, 0),
        WRONG(magic, GS_MAGIC + 1),
        WRONG(version, 0),
        WRONG(version, GS_VERSION + 1),
        WRONG(lanes, 0),
        WRONG(lanes, 1),
        WRONG(lanes, 3),
        WRONG(lanes, GS_LANES_MAX + 1),
        WRONG(threads, 0),
        WRONG(threads, 5),
        WRONG(threads, GS_THREADS_MAX + 1),
        WRONG(slots, 0),
        WRONG(slots, 63),
        WRONG(slots, GS_SLOTS_MAX * 2),
        WRONG(slots, 128),
        WRONG(slot_bytes, 0),
        WRONG(slot_bytes, sizeof(struct slot) - 8),
        WRONG(slot_bytes, LOOP_SLOT_BYTES + 4),
        WRONG(slot_bytes, UINT32_MAX & ~7u),
        WRONG(replies, 0),
        WRONG(replies, 128),
        WRONG(replies, 255),
        WRONG(replies, 1u << 31),
        WRONG(replies_per_thread, 0),
        WRONG(replies_per_thread, 1),
        WRONG(replies_per_thread, GS_BLOCKLESS_MAX),
        WRONG(replies_per_thread, 63),
        WRONG(replies_per_thread, 128),
        WRONG(replies_per_thread, 1u << 31),
        WRONG(arena_bytes, UINT32_MAX),
        WRONG(response_bytes, 0),
        WRONG(response_bytes, 2 * GS_BLOCK_MAX - GS_BLOCK_ALIGN),
        WRONG(response_bytes, LOOP_RESPONSE_BYTES - 1),
        WRONG(response_bytes, LOOP_RESPONSE_BYTES + GS_LINE),
        WRONG(lane_bytes, 0),
        WRONG(lane_bytes, LOOP_PAGE),
        WRONG(lane_bytes, UINT32_MAX),
        WRONG(lanes_off, 0),
        WRONG(lanes_off, GS_WAKE_OFF),
        WRONG(lanes_off, UINT32_MAX),
        WRONG(requests_off, 0),
        WRONG(requests_off, UINT32_MAX),
        WRONG(replies_off, 0),
        WRONG(replies_off, UINT32_MAX),
        WRONG(slots_off, 0),
        WRONG(slots_off, UINT32_MAX),
        WRONG(arena_off, 0),
        WRONG(arena_off, UINT32_MAX),
        WRONG(responses_off, 0),
        WRONG(responses_off, UINT32_MAX),
    };

    CHECK(attach_head(&good, 0, 2) == 0, "%s", strerror(errno));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct region_head h = good;
        memcpy((char *)&h + table[i].field, &table[i].value, sizeof(uint32_t));
        /* The file keeps the good length: it is the header that lies. */
        long more = (long)good.lanes_off + (long)good.lanes * good.lane_bytes - (long)h.lanes_off
                    - (long)h.lanes * h.lane_bytes;
        CHECK(attach_head(&h, more, 2) < 0, "%s was accepted", table[i].what);
        CHECK(errno == EINVAL, "%s: %s", table[i].what, strerror(errno));
    }
    /* Words that are shared with futexes and atomics stand on their natural places. */
    for (size_t at = offsetof(struct region_head, lane_bytes); at < sizeof good; at += 4) {
        struct region_head h = good;
        uint32_t *field = (uint32_t *)((char *)&h + at);
        *field += 2;
        long more = (long)good.lane_bytes * good.lanes - (long)h.lane_bytes * h.lanes
                    + (long)good.lanes_off - (long)h.lanes_off;
        CHECK(attach_head(&h, more, 2) < 0, "field at %zu: odd place was accepted", at);
    }
}

static void attach_refuses_files(void)
{
    struct region_head good = loop_layout(2, 4, 64);
    struct region r;
    int bells[2] = {-1, -1}, fd = memfd_create("short", MFD_CLOEXEC);

    CHECK(attach_head(&good, -1, 2) < 0 && errno == EINVAL, "one byte short: %s", strerror(errno));
    CHECK(attach_head(&good, 0, 1) < 0 && errno == EINVAL, "too few doorbells");
    CHECK(attach_head(&good, 0, 3) < 0 && errno == EINVAL, "too many doorbells");
    CHECK(gs_region_attach(&r, -1, bells, 2) < 0 && errno == EBADF, "%s", strerror(errno));
    CHECK(gs_region_attach(&r, fd, bells, 2) < 0 && errno == EINVAL, "empty: %s", strerror(errno));
    CHECK(ftruncate(fd, sizeof(struct region_head) - 1) == 0, "%s", strerror(errno));
    CHECK(gs_region_attach(&r, fd, bells, 2) < 0 && errno == EINVAL, "%s", strerror(errno));
    close(fd);
}

/* A child that the app forks has no lanes: what it does there cannot reach its parent's. */
static void fork_leaves_the_region_out(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        _exit(msync(p->region.base, LOOP_PAGE, MS_ASYNC) < 0 && errno == ENOMEM ? 0 : 1);
    CHECK(child > 0 && waitpid(child, &status, 0) == child, "%s", strerror(errno));
    CHECK(status == 0, "the child has the region mapped (status %d)", status);
    loop_free(p);
}

/* --- taking --- */

/* Takes the next request, which has to be this one with its latest generation. */
static void want_take(struct loop *p, uint32_t *turn, uint32_t lane, uint32_t slot)
{
    uint32_t got_lane = 99, got_slot = 99, generation = 0;

    CHECK(gs_take(&p->region, turn, &got_lane, &got_slot, &generation), "nothing, want %u/%u", lane,
          slot);
    CHECK(got_lane == lane && got_slot == slot, "got %u/%u, want %u/%u", got_lane, got_slot, lane,
          slot);
    CHECK(generation == p->lane[lane].generations[slot], "got generation %u, want %u", generation,
          p->lane[lane].generations[slot]);
    CHECK(atomic_load(&loop_slot(p, lane, slot)->state)
              == (generation << SLOT_GENERATION_SHIFT | SLOT_TAKEN),
          "slot %u is not marked taken", slot);
    CHECK(!loop_cancel(p, lane, slot), "slot %u was taken back after it was taken", slot);
}

static void want_nothing(struct loop *p, uint32_t *turn)
{
    uint32_t lane, slot, generation;

    CHECK(!gs_take(&p->region, turn, &lane, &slot, &generation), "got %u/%u", lane, slot);
    CHECK(gs_queued(&p->region) == 0, "%u queued", gs_queued(&p->region));
}

/* Lanes in turn, and each lane in its order: no loop waits for another loop's rush. */
static void take_order(void)
{
    struct loop *p = loop_new(loop_layout(3, 1, 64));
    uint32_t turn = 0;

    want_nothing(p, &turn);
    for (uint32_t i = 0; i < 4; i++)
        loop_publish(p, 0, i);
    loop_publish(p, 2, 7);
    loop_publish(p, 2, 8);
    CHECK(gs_queued(&p->region) == 6, "%u queued", gs_queued(&p->region));
    want_take(p, &turn, 0, 0);
    want_take(p, &turn, 2, 7);
    want_take(p, &turn, 0, 1);
    want_take(p, &turn, 2, 8);
    want_take(p, &turn, 0, 2);
    loop_publish(p, 1, 5);
    want_take(p, &turn, 1, 5);
    want_take(p, &turn, 0, 3);
    want_nothing(p, &turn);
    loop_free(p);
}

static void taken_back_is_skipped(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct lane *l = &p->region.lane[0];
    uint32_t turn = 0;

    for (uint32_t i = 0; i < 4; i++)
        loop_publish(p, 0, i);
    CHECK(loop_cancel(p, 0, 0) && loop_cancel(p, 0, 2), "cannot be taken back");
    CHECK(!loop_cancel(p, 0, 0), "was taken back twice");
    want_take(p, &turn, 0, 1);
    want_take(p, &turn, 0, 3);
    want_nothing(p, &turn);
    /* A slot that was taken back and used again has two entries in the ring, and is taken once. */
    loop_publish(p, 0, 9);
    CHECK(loop_cancel(p, 0, 9), "cannot be taken back");
    loop_publish(p, 0, 9);
    want_take(p, &turn, 0, 9);
    want_nothing(p, &turn);
    /* A number that is no slot is passed over. */
    atomic_store(&l->requests[p->lane[0].req_tail & 63], 64);
    atomic_store(l->req_tail, ++p->lane[0].req_tail);
    loop_publish(p, 0, 1);
    want_take(p, &turn, 0, 1);
    want_nothing(p, &turn);
    loop_free(p);
}

/* A ring that was overrun: the loop publishes and takes back while no thread looks. It overwrites
 * only entries of requests that were taken back; those that are left keep their order. */
static void overrun_by_taken_back(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    uint32_t turn = 0;

    for (uint32_t i = 0; i < 60; i++) {
        loop_publish(p, 0, 1);
        CHECK(loop_cancel(p, 0, 1), "cannot be taken back");
    }
    loop_publish(p, 0, 10);
    for (uint32_t i = 0; i < 60; i++) {
        loop_publish(p, 0, 2);
        CHECK(loop_cancel(p, 0, 2), "cannot be taken back");
    }
    loop_publish(p, 0, 11);
    loop_publish(p, 0, 12);
    want_take(p, &turn, 0, 10);
    want_take(p, &turn, 0, 11);
    want_take(p, &turn, 0, 12);
    want_nothing(p, &turn);
    loop_free(p);
}

static void generation_wraps(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    const uint32_t last = UINT32_MAX >> SLOT_GENERATION_SHIFT;
    uint32_t turn = 0;

    for (int use = 0; use < 4; use++) {
        if (use == 0)
            p->lane[0].generations[5] = last - 2;
        loop_publish(p, 0, 5);
        want_take(p, &turn, 0, 5);
    }
    CHECK(p->lane[0].generations[5] == 1, "generation %u", p->lane[0].generations[5]);
    loop_free(p);
}

/* Counters run through 2^32 without a seam. */
static void counters_wrap(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct lane *l = &p->region.lane[0];
    const uint32_t near = UINT32_MAX - 100;
    struct outlet o;
    uint32_t turn = 0;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    p->lane[0].req_tail = p->lane[0].rep_head = p->lane[0].acks[0] = near;
    atomic_store(l->req_tail, near);
    atomic_store(&l->req_head, near);
    atomic_store(l->rep_tail, near);
    atomic_store(&gs_ack(l, 0)->count, near);
    l->rep_next = o.sent = o.acked = near;
    for (uint32_t i = 0; i < 300; i++) {
        struct reply out = {.slot = i & 63, .flags = REPLY_LAST}, in;
        loop_publish(p, 0, i & 63);
        want_take(p, &turn, 0, i & 63);
        CHECK(gs_reserve(&p->region, 0, 0, &o, 100 + i, &out.off), "no room at %u", i);
        gs_publish(&p->region, 0, &o, &out, 100 + i);
        CHECK(loop_next(p, 0, &in) && in.slot == (i & 63) && in.len == 100 + i, "reply %u", i);
        loop_ack(p, 0, 0);
    }
    CHECK(p->lane[0].req_tail == near + 300, "tail %u", p->lane[0].req_tail);
    free(o.sizes);
    loop_free(p);
}

/* --- answering --- */

#define MODEL_STEPS 100000
#define MODEL_REPLIES 64u

/* What the loop has not acknowledged yet: the ring must keep it as it was. */
struct unacked {
    uint32_t off, len;
    uint64_t seed;
};

struct model {
    struct loop *loop;
    struct outlet outlet;
    const char *ring;
    struct unacked queue[MODEL_REPLIES];
    uint32_t first, count, skips, resets, refusals;
    uint64_t random;
};

static void fill(char *at, uint32_t len, uint64_t seed)
{
    for (uint32_t i = 0; i < len; i += 509) /* a prime apart, and the last byte */
        at[i] = (char)(seed >> (i & 31));
    if (len)
        at[len - 1] = (char)(seed >> 7);
}

static int filled(const char *at, uint32_t len, uint64_t seed)
{
    for (uint32_t i = 0; i + 1 < len; i += 509)
        if (at[i] != (char)(seed >> (i & 31)))
            return 0;
    return len == 0 || at[len - 1] == (char)(seed >> 7);
}

/* Mostly small, sometimes the largest, sometimes right at the alignment. */
static uint32_t random_size(uint64_t *random)
{
    uint32_t r = (uint32_t)next_random(random);

    switch (r & 7) {
    case 0:
        return GS_BLOCK_MAX - (r >> 8 & 127);
    case 1:
        return (r >> 8) % GS_BLOCK_MAX + 1;
    case 2:
        return GS_BLOCK_ALIGN * (1 + (r >> 8 & 15)) + (r >> 16 & 1);
    default:
        return (r >> 8 & 1023) + 1;
    }
}

/* Writes one block: reserves len, uses `used` of it. 0 when the ring has no room. */
static int model_write(struct model *m, uint32_t len, uint32_t used)
{
    struct region *r = &m->loop->region;
    struct reply reply = {.slot = 1}, got = {0};
    uint64_t seed = next_random(&m->random);
    uint32_t before = m->outlet.pos;
    char *at = gs_reserve(r, 0, 0, &m->outlet, len, &reply.off);

    if (!at) {
        CHECK(m->count > 0, "no room for %u bytes in an empty ring", len);
        m->refusals++;
        return 0;
    }
    CHECK(at == m->ring + reply.off, "pointer and offset %u differ", reply.off);
    CHECK(reply.off % GS_BLOCK_ALIGN == 0 && reply.off + len <= r->head.response_bytes,
          "block %u+%u", reply.off, len);
    m->skips += reply.off == 0 && before != 0 && m->count != 0;
    m->resets += reply.off == 0 && before != 0 && m->count == 0;
    for (uint32_t i = 0; i < m->count; i++) {
        const struct unacked *u = &m->queue[(m->first + i) % MODEL_REPLIES];
        CHECK(reply.off >= u->off + u->len || u->off >= reply.off + len,
              "block %u+%u overlaps %u+%u, which is not acknowledged", reply.off, len, u->off,
              u->len);
    }
    fill(at, used, seed);
    gs_publish(r, 0, &m->outlet, &reply, used);
    CHECK(loop_next(m->loop, 0, &got) && got.off == reply.off && got.len == used && got.slot == 1,
          "reply %u+%u, want %u+%u", got.off, got.len, reply.off, used);
    CHECK(m->count < MODEL_REPLIES, "more unacknowledged replies than %u", MODEL_REPLIES);
    m->queue[(m->first + m->count++) % MODEL_REPLIES] = (struct unacked){reply.off, used, seed};
    return 1;
}

static void model_ack(struct model *m)
{
    const struct unacked *u = &m->queue[m->first];

    CHECK(filled(m->ring + u->off, u->len, u->seed),
          "block %u+%u changed before it was "
          "acknowledged",
          u->off, u->len);
    m->first = (m->first + 1) % MODEL_REPLIES;
    m->count--;
    loop_ack(m->loop, 0, 0);
}

static void response_ring_model(void)
{
    struct model m = {.loop = loop_new(loop_layout(1, 1, MODEL_REPLIES)), .random = 20260101};

    CHECK(gs_outlet_init(&m.outlet, &m.loop->region) == 0, "no memory");
    m.ring = m.loop->region.lane[0].responses;
    for (int step = 0; step < MODEL_STEPS; step++) {
        uint32_t len = random_size(&m.random);
        uint32_t used = next_random(&m.random) % 4 ? len : len / 3 + 1;
        if (!model_write(&m, len, used) || next_random(&m.random) % 3 == 0)
            for (uint64_t n = next_random(&m.random) % 5; n && m.count; n--)
                model_ack(&m);
        if (next_random(&m.random) % 256 == 0)
            while (m.count)
                model_ack(&m);
    }
    CHECK(m.skips > 100 && m.resets > 100 && m.refusals > 100,
          "not exercised: %u skipped tails, %u resets, %u refusals", m.skips, m.resets, m.refusals);
    free(m.outlet.sizes);
    loop_free(m.loop);
}

/* What ends a request may have no block, and is published without asking for room. Even so no
 * thread has more than replies_per_thread unacknowledged ones, so the ring never overflows. */
static void replies_are_bounded(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct reply out = {.slot = 1}, in;
    struct outlet o;
    uint32_t blocks = 0, replies = 0;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    while (gs_reserve(&p->region, 0, 0, &o, 1, &out.off)) {
        gs_publish(&p->region, 0, &o, &out, 1);
        blocks++;
    }
    out.flags = REPLY_END;
    gs_publish(&p->region, 0, &o, &out, 0);
    out.flags = REPLY_LAST;
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(o.sent - o.acked <= 64, "%u unacknowledged replies, want at most 64", o.sent - o.acked);
    while (loop_next(p, 0, &in)) {
        CHECK(in.len == (replies < blocks ? 1 : 0), "reply %u has %u bytes", replies, in.len);
        replies++;
    }
    CHECK(replies == blocks + 2, "%u replies, want %u", replies, blocks + 2);
    for (uint32_t i = 0; i <= GS_BLOCKLESS_MAX; i++) {
        CHECK(!gs_reserve(&p->region, 0, 0, &o, 1, &out.off), "room after %u acknowledgements", i);
        loop_ack(p, 0, 0);
    }
    CHECK(gs_reserve(&p->region, 0, 0, &o, 1, &out.off), "no room after %u acknowledgements",
          GS_BLOCKLESS_MAX + 1);
    free(o.sizes);
    loop_free(p);
}

/* A worker's thread must not believe more acknowledgements than it sent replies. */
static void acks_are_bounded(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct reply out = {.slot = 1};
    struct outlet o;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    atomic_store(&gs_ack(&p->region.lane[0], 0)->count, 1000);
    for (uint32_t i = 0; i < 500; i++) {
        CHECK(gs_reserve(&p->region, 0, 0, &o, GS_BLOCK_MAX, &out.off), "no room at %u", i);
        CHECK(out.off + GS_BLOCK_MAX <= p->region.head.response_bytes, "offset %u", out.off);
        gs_publish(&p->region, 0, &o, &out, GS_BLOCK_MAX);
        CHECK(o.free <= p->region.head.response_bytes, "%u bytes free", o.free);
    }
    free(o.sizes);
    loop_free(p);
}

static int rings(struct loop *p)
{
    char bytes[16];
    ssize_t n = recv(p->lane[0].bell, bytes, sizeof bytes, MSG_DONTWAIT);

    return n < 0 ? 0 : (int)n;
}

/* The doorbell costs a system call on both sides: one ring for one sleep. */
static void doorbell_only_when_asleep(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct reply out = {.slot = 1}, in;
    struct outlet o;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 0, "rung while the loop was awake");
    CHECK(!loop_sleep(p, 0), "slept although a reply waits");
    CHECK(loop_next(p, 0, &in) && loop_sleep(p, 0), "cannot sleep");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 1, "not rung");
    CHECK(atomic_load(p->region.lane[0].asleep) == 0, "still marked asleep");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 0, "rung twice for one sleep");
    free(o.sizes);
    loop_free(p);
}

/* A loop that naps looks by itself soon: it is woken only when the worker runs dry, or when a
 * thread cannot go on without it. */
static void nap_ends_when_nothing_waits(void)
{
    struct loop *p = loop_new(loop_layout(2, 1, 64));
    struct reply out = {.slot = 1}, in;
    uint32_t next_lane = 0, lane, slot, generation;
    struct outlet o;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    loop_publish(p, 1, 0); /* of another loop: the worker is not dry */
    CHECK(loop_rest(p, 0, GS_NAPS), "cannot nap");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 0, "rung although a request waits");
    CHECK(gs_take(&p->region, &next_lane, &lane, &slot, &generation), "nothing to take");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 1, "not rung although nothing waits");
    gs_publish(&p->region, 0, &o, &out, 0);
    CHECK(rings(p) == 0, "rung twice for one nap");
    while (loop_next(p, 0, &in))
        continue;
    loop_publish(p, 1, 1);
    CHECK(loop_rest(p, 0, GS_NAPS), "cannot nap again");
    CHECK(!gs_wait_ack(&p->region, 0, 0, &o, 1), "acknowledged");
    CHECK(rings(p) == 1, "not rung although a thread waits");
    free(o.sizes);
    loop_free(p);
}

struct acker {
    struct loop *loop;
    uint32_t count;
};

static void *ack_main(void *argument)
{
    struct acker *a = argument;
    struct ack *word = gs_ack(&a->loop->region.lane[0], 0);

    for (uint32_t i = 0; i < a->count; i++) {
        while (!atomic_load(&word->waiting) && i % 2)
            sched_yield(); /* every second time the other side sleeps already, or is about to */
        loop_ack(a->loop, 0, 0);
    }
    return NULL;
}

static void wait_ack_wakes(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct acker a = {.loop = p, .count = 2000};
    struct outlet o;
    pthread_t thread;
    uint64_t begun = clock_now_ns();

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    CHECK(gs_wait_ack(&p->region, 0, 0, &o, 1) == 0, "an acknowledgement from nowhere");
    CHECK(clock_now_ns() - begun >= 1000000, "waited less than its time");
    CHECK(pthread_create(&thread, NULL, ack_main, &a) == 0, "no thread");
    for (uint32_t i = 0; i < a.count; i++) {
        begun = clock_now_ns();
        /* It may return early: the wake of an acknowledgement that was seen before it slept. */
        while (!gs_wait_ack(&p->region, 0, 0, &o, 10000))
            continue;
        CHECK(clock_now_ns() - begun < 5 * second_ns, "acknowledgement %u was slept through", i);
        o.acked = o.acked + 1;
        o.sent = o.acked;
    }
    pthread_join(thread, NULL);
    free(o.sizes);
    loop_free(p);
}

/* --- a ring that is acknowledged while it is looked at --- */

#define RACES 60000u

struct racer {
    struct loop *loop;
    _Atomic uint32_t filled; /* replies published when the ring was full */
};

static void *race_main(void *argument)
{
    struct racer *a = argument;
    struct ack *word = gs_ack(&a->loop->region.lane[0], 0);
    uint64_t random = 20260102;

    for (uint32_t done = 0; done != UINT32_MAX;) {
        uint32_t filled = atomic_load(&a->filled);
        if (filled == done)
            continue;
        for (volatile uint64_t n = next_random(&random) % 200; n; n--)
            continue;
        atomic_store(&word->count, filled);
        done = filled;
    }
    return NULL;
}

/* The loop may acknowledge everything at any instruction of gs_reserve. After that nothing comes
 * that gs_wait_ack could wait for, so gs_reserve must not refuse and have seen it all. */
static void no_refusal_after_the_last_ack(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct racer a = {.loop = p};
    struct reply out = {.slot = 1};
    struct outlet o;
    pthread_t thread;

    CHECK(gs_outlet_init(&o, &p->region) == 0, "no memory");
    CHECK(pthread_create(&thread, NULL, race_main, &a) == 0, "no thread");
    for (uint32_t i = 0; i < RACES; i++) {
        for (uint32_t n = p->region.head.response_bytes / GS_BLOCK_MAX; n; n--) {
            while (!gs_reserve(&p->region, 0, 0, &o, GS_BLOCK_MAX, &out.off))
                CHECK(o.acked != o.sent, "race %u: refused although all is acknowledged", i);
            gs_publish(&p->region, 0, &o, &out, GS_BLOCK_MAX);
        }
        atomic_store(&a.filled, o.sent);
    }
    atomic_store(&a.filled, UINT32_MAX);
    pthread_join(thread, NULL);
    free(o.sizes);
    loop_free(p);
}

/* --- body files --- */

/* A file whose first byte is c. */
static int file_with(char c)
{
    int fd = memfd_create("body", MFD_CLOEXEC);

    CHECK(fd >= 0 && write(fd, &c, 1) == 1, "%s", strerror(errno));
    return fd;
}

static void send_file(struct loop *p, uint32_t slot, char c)
{
    int fd = file_with(c);

    loop_pass_file(p, 0, slot, fd);
    close(fd);
}

static void want_file(struct loop *p, uint32_t slot, char want)
{
    char got = 0;
    int fd = gs_receive_file(&p->region.lane[0], p->region.head.slots, slot);

    CHECK(fd >= 0, "no file for slot %u", slot);
    CHECK(pread(fd, &got, 1, 0) == 1 && got == want, "slot %u got file %c, want %c", slot, got,
          want);
    close(fd);
}

static int open_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void body_files(void)
{
    struct loop *p = loop_new(loop_layout(1, 1, 64));
    struct lane *l = &p->region.lane[0];
    int before = open_descriptors();

    CHECK(gs_receive_file(l, 64, 3) < 0, "a file from nowhere");
    for (uint32_t slot = 0; slot < 8; slot++)
        send_file(p, slot, (char)('a' + slot));
    static const uint32_t order[] = {3, 0, 7, 1, 2, 6, 5, 4};
    for (size_t i = 0; i < 8; i++)
        want_file(p, order[i], (char)('a' + order[i]));
    CHECK(gs_receive_file(l, 64, 3) < 0, "a file was given twice");
    CHECK(open_descriptors() == before, "%d descriptors, want %d", open_descriptors(), before);

    /* The file of a request that was taken back must not become the body of the next one in
     * that slot, which is another client's: whether it was received already or not. */
    send_file(p, 5, 'x');
    send_file(p, 5, 'y');
    want_file(p, 5, 'y');
    send_file(p, 6, 'x');
    send_file(p, 7, '7');
    want_file(p, 7, '7');
    send_file(p, 6, 'z');
    want_file(p, 6, 'z');
    CHECK(open_descriptors() == before, "%d descriptors, want %d", open_descriptors(), before);

    loop_pass_file(p, 0, 2, -1);
    CHECK(gs_receive_file(l, 64, 2) < 0, "a file without a descriptor");
    send_file(p, 64, 'o');
    CHECK(gs_receive_file(l, 64, 2) < 0, "a file for a slot that does not exist");
    CHECK(open_descriptors() == before, "%d descriptors, want %d", open_descriptors(), before);
    loop_free(p);
}

int main(void)
{
    attach_refuses();
    attach_refuses_files();
    fork_leaves_the_region_out();
    take_order();
    taken_back_is_skipped();
    overrun_by_taken_back();
    generation_wraps();
    counters_wrap();
    response_ring_model();
    replies_are_bounded();
    acks_are_bounded();
    doorbell_only_when_asleep();
    nap_ends_when_nothing_waits();
    wait_ack_wakes();
    no_refusal_after_the_last_ack();
    body_files();
    puts("lane_test: ok");
    return 0;
}
