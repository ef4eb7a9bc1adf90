/* check.h: what the plain C tests share: a check that names the place and the values, and the Go
 * side of a region ("the loop") in C, written against lane.h only.
 *
 * Both sides use one mapping, so that a thread sanitizer sees every access of both.
 */
#ifndef GS_CHECK_H
#define GS_CHECK_H

#include "lane.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Ends the test unless the condition holds; the rest is printf's: got, want and the input. */
#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            abort(); \
        } \
    } while (0)

#define LOOP_SLOT_BYTES 1024u
#define LOOP_RESPONSE_BYTES (4u * GS_BLOCK_MAX)
#define LOOP_PAGE 4096u

/* A repeatable stream of numbers (splitmix64); a failure prints its seed. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t clock_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint32_t page_up(uint64_t n)
{
    return (uint32_t)((n + LOOP_PAGE - 1) / LOOP_PAGE * LOOP_PAGE);
}

/* A header as the Go side lays it out: each part of a lane begins at a page. */
static inline struct region_head loop_layout(uint32_t lanes, uint32_t threads, uint32_t slots)
{
    struct region_head h = {
        .magic = GS_MAGIC,
        .version = GS_VERSION,
        .lanes = lanes,
        .threads = threads,
        .slots = slots,
        .slot_bytes = LOOP_SLOT_BYTES,
        .replies = slots,
        .replies_per_thread = slots,
        .arena_bytes = GS_BLOCK_MAX,
        .response_bytes = LOOP_RESPONSE_BYTES,
        .lanes_off = page_up(GS_WAKE_OFF + threads * GS_LINE),
    };

    while (h.replies < slots * threads)
        h.replies *= 2;
    h.requests_off = page_up(GS_ACKS_OFF + threads * GS_LINE);
    h.replies_off = page_up(h.requests_off + slots * sizeof(uint32_t));
    h.slots_off = page_up(h.replies_off + h.replies * sizeof(struct reply));
    h.arena_off = page_up(h.slots_off + (uint64_t)slots * h.slot_bytes);
    h.responses_off = page_up(h.arena_off + h.arena_bytes);
    h.lane_bytes = page_up(h.responses_off + (uint64_t)threads * h.response_bytes);
    return h;
}

/* A memory file with the header, as long as it says, plus `more` bytes (which may be negative). */
static inline int loop_region_fd(const struct region_head *h, long more)
{
    int fd = memfd_create("lanes", MFD_CLOEXEC);
    long bytes = (long)h->lanes_off + (long)h->lanes * (long)h->lane_bytes + more;

    CHECK(fd >= 0 && ftruncate(fd, bytes) == 0, "memfd of %ld bytes: %s", bytes, strerror(errno));
    CHECK(pwrite(fd, h, sizeof *h, 0) == sizeof *h, "%s", strerror(errno));
    return fd;
}

/* The loop's side of one lane. */
struct loop_lane {
    int bell; /* our end of the doorbell */
    uint32_t req_tail, rep_head;
    uint32_t acks[GS_THREADS_MAX];
    uint32_t *generations; /* by slot */
    uint32_t *published;   /* by slot: req_tail when it was published last */
};

struct loop {
    struct region region;
    struct loop_lane lane[GS_LANES_MAX];
};

/* Makes a region with its doorbells and attaches the worker's side to it. */
static inline struct loop *loop_new(struct region_head h)
{
    struct loop *p = calloc(1, sizeof *p);
    int bells[GS_LANES_MAX], fd = loop_region_fd(&h, 0);

    CHECK(p, "no memory");
    for (uint32_t i = 0; i < h.lanes; i++) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "%s", strerror(errno));
        p->lane[i].bell = pair[0];
        bells[i] = pair[1];
        p->lane[i].generations = calloc(h.slots, sizeof(uint32_t));
        p->lane[i].published = calloc(h.slots, sizeof(uint32_t));
    }
    CHECK(gs_region_attach(&p->region, fd, bells, (int)h.lanes) == 0, "%s", strerror(errno));
    close(fd);
    return p;
}

static inline void loop_free(struct loop *p)
{
    for (uint32_t i = 0; i < p->region.head.lanes; i++) {
        close(p->lane[i].bell);
        close(p->region.lane[i].doorbell);
        free(p->lane[i].generations);
        free(p->lane[i].published);
    }
    gs_region_detach(&p->region);
    free(p);
}

static inline struct slot *loop_slot(struct loop *p, uint32_t lane, uint32_t slot)
{
    return gs_slot(&p->region, &p->region.lane[lane], slot);
}

/* 1 unless the next entry of the request ring would overwrite one that still waits: the loop takes
 * requests back, and frees their slots, faster than the threads pass over their entries. */
static inline int loop_has_room(struct loop *p, uint32_t lane)
{
    struct loop_lane *l = &p->lane[lane];
    uint32_t slots = p->region.head.slots;
    uint32_t slot = atomic_load(&p->region.lane[lane].requests[l->req_tail & (slots - 1)]);
    uint32_t state = atomic_load(&loop_slot(p, lane, slot)->state);

    return l->req_tail - l->published[slot] != slots || (state & SLOT_STATE_MASK) != SLOT_QUEUED;
}

/* Publishes a request in a free slot, as Lane.publish in Go. */
static inline void loop_publish(struct loop *p, uint32_t lane, uint32_t slot)
{
    struct loop_lane *l = &p->lane[lane];
    struct lane *mem = &p->region.lane[lane];
    uint32_t generation = ++l->generations[slot] & (UINT32_MAX >> SLOT_GENERATION_SHIFT);

    l->generations[slot] = generation;
    l->published[slot] = l->req_tail;
    atomic_store(&loop_slot(p, lane, slot)->state,
                 generation << SLOT_GENERATION_SHIFT | SLOT_QUEUED);
    atomic_store(&mem->requests[l->req_tail & (p->region.head.slots - 1)], slot);
    atomic_store(mem->req_tail, ++l->req_tail);
}

/* Takes a request back: 1, or 0 when a thread has taken it. */
static inline int loop_cancel(struct loop *p, uint32_t lane, uint32_t slot)
{
    uint32_t name = p->lane[lane].generations[slot] << SLOT_GENERATION_SHIFT;
    uint32_t queued = name | SLOT_QUEUED;

    return atomic_compare_exchange_strong(&loop_slot(p, lane, slot)->state, &queued,
                                          name | SLOT_FREE);
}

/* Wakes the thread that the bell names, as region.ring in Go. */
static inline void loop_ring(struct loop *p)
{
    if (atomic_load(p->region.bell) == 0)
        return;
    uint32_t id = atomic_exchange(p->region.bell, 0);
    if (id == 0)
        return;
    CHECK(id <= p->region.head.threads, "the bell names thread %u", id - 1);
    _Atomic uint32_t *word = gs_wake_word(&p->region, id - 1);
    atomic_fetch_add(word, 1);
    gs_futex_wake(word, 1, 1);
}

/* The next reply: 1, or 0 when there is none. The ring must never hold more than it can. */
static inline int loop_next(struct loop *p, uint32_t lane, struct reply *reply)
{
    struct loop_lane *l = &p->lane[lane];
    struct lane *mem = &p->region.lane[lane];
    uint32_t tail = atomic_load(mem->rep_tail);

    if (tail == l->rep_head)
        return 0;
    CHECK(tail - l->rep_head <= p->region.head.replies, "%u replies in a ring of %u",
          tail - l->rep_head, p->region.head.replies);
    *reply = mem->replies[l->rep_head++ & (p->region.head.replies - 1)];
    return 1;
}

static inline void loop_ack(struct loop *p, uint32_t lane, uint32_t thread)
{
    struct ack *a = gs_ack(&p->region.lane[lane], thread);

    atomic_store(&a->count, ++p->lane[lane].acks[thread]);
    if (atomic_load(&a->waiting))
        gs_futex_wake(&a->count, 1, 1);
}

/* Asks for the doorbell, GS_SLEEPS or GS_NAPS: 1 when the loop may sleep, 0 when replies have come.
 */
static inline int loop_rest(struct loop *p, uint32_t lane, uint32_t how)
{
    struct lane *mem = &p->region.lane[lane];

    atomic_store(mem->asleep, how);
    if (atomic_load(mem->rep_tail) == p->lane[lane].rep_head)
        return 1;
    atomic_store(mem->asleep, 0);
    return 0;
}

static inline int loop_sleep(struct loop *p, uint32_t lane)
{
    return loop_rest(p, lane, GS_SLEEPS);
}

/* Sends a body file ahead of its request; file < 0 sends the number alone. */
static inline void loop_pass_file(struct loop *p, uint32_t lane, uint32_t slot, int file)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = {.buf = {0}};
    struct iovec iov = {&slot, sizeof slot};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    if (file >= 0) {
        m.msg_control = control.buf;
        m.msg_controllen = sizeof control.buf;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &file, sizeof file);
    }
    CHECK(sendmsg(p->lane[lane].bell, &m, MSG_NOSIGNAL) == sizeof slot, "%s", strerror(errno));
}

#endif
