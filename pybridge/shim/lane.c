/* lane.c: attaching a region, taking requests, publishing replies. No Python in here; see lane.h
 * for the format. */
#define _GNU_SOURCE
#include "lane.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* GIL not held, or held for a wake only. Sleeps while *word == value; timeout_us < 0 waits without
 * end. May return early. */
void gs_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us, int shared)
{
    struct timespec ts, *tp = NULL;
    int op = shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE;

    if (timeout_us >= 0) {
        ts.tv_sec = timeout_us / 1000000;
        ts.tv_nsec = (timeout_us % 1000000) * 1000;
        tp = &ts;
    }
    syscall(SYS_futex, word, op, value, tp, NULL, 0);
}

/* GIL held or not. Wakes up to count sleepers on word. */
void gs_futex_wake(_Atomic uint32_t *word, int count, int shared)
{
    syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static int is_power_of_2(uint32_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* GIL held or not. 0 when the parts of a lane follow each other inside it, each at a cache line of
 * its own, else -1. */
static int check_lane(const struct region_head *h)
{
    const struct {
        uint32_t off;
        uint64_t bytes;
    } part[] = {
        {GS_ACKS_OFF, (uint64_t)h->threads * GS_LINE},
        {h->requests_off, (uint64_t)h->slots * sizeof(uint32_t)},
        {h->replies_off, (uint64_t)h->replies * sizeof(struct reply)},
        {h->slots_off, (uint64_t)h->slots * h->slot_bytes},
        {h->arena_off, h->arena_bytes},
        {h->responses_off, (uint64_t)h->threads * h->response_bytes},
        {h->lane_bytes, 0},
    };

    for (size_t i = 1; i < sizeof part / sizeof *part; i++)
        if (part[i].off % GS_LINE != 0 || part[i - 1].off + part[i - 1].bytes > part[i].off)
            return -1;
    return 0;
}

/* GIL held or not. 0 when the header describes a region that fits into bytes, else -1. */
static int check_head(const struct region_head *h, size_t bytes)
{
    if (h->magic != GS_MAGIC || h->version != GS_VERSION)
        return -1;
    if (h->lanes == 0 || h->lanes > GS_LANES_MAX || h->threads == 0 || h->threads > GS_THREADS_MAX)
        return -1;
    if (!is_power_of_2(h->slots) || h->slots > GS_SLOTS_MAX || !is_power_of_2(h->replies))
        return -1;
    if (h->slot_bytes < sizeof(struct slot) || h->slot_bytes % _Alignof(struct slot) != 0)
        return -1;
    /* Indexes into `sizes` go on through 2^32. */
    if (!is_power_of_2(h->replies_per_thread) || h->replies_per_thread <= GS_BLOCKLESS_MAX)
        return -1;
    if ((uint64_t)h->replies_per_thread * h->threads > h->replies)
        return -1;
    if (h->response_bytes < 2 * GS_BLOCK_MAX || h->response_bytes % GS_BLOCK_ALIGN != 0)
        return -1;
    if (h->lanes_off < GS_WAKE_OFF + h->threads * GS_LINE || h->lanes_off % GS_LINE != 0)
        return -1;
    return (uint64_t)h->lanes_off + (uint64_t)h->lanes * h->lane_bytes <= bytes ? check_lane(h)
                                                                                : -1;
}

/* GIL held or not. Fills in one lane's pointers; 0, or -1 without memory. */
static int map_lane(struct lane *l, char *base, const struct region_head *h, int doorbell)
{
    l->req_tail = (_Atomic uint32_t *)(base + GS_REQ_TAIL_OFF);
    l->rep_tail = (_Atomic uint32_t *)(base + GS_REP_TAIL_OFF);
    l->asleep = (_Atomic uint32_t *)(base + GS_ASLEEP_OFF);
    l->acks = base + GS_ACKS_OFF;
    l->requests = (_Atomic uint32_t *)(base + h->requests_off);
    l->replies = (struct reply *)(base + h->replies_off);
    l->slots = base + h->slots_off;
    l->arena = base + h->arena_off;
    l->responses = base + h->responses_off;
    l->doorbell = doorbell;
    l->file_socket = -1;
    l->files = malloc(h->slots * sizeof *l->files);
    if (!l->files)
        return -1;
    for (uint32_t i = 0; i < h->slots; i++)
        l->files[i] = -1;
    return 0;
}

/* GIL held or not. Maps the region behind fd, whose n lanes ring at doorbells[]. 0, or -1 with
 * errno set (EINVAL: not a region of this version). The mapping is not inherited by fork: a child
 * of the app cannot touch it. */
int gs_region_attach(struct region *r, int fd, const int *doorbells, int n)
{
    off_t bytes = lseek(fd, 0, SEEK_END); /* fstat has no plain symbol in older C libraries */

    memset(r, 0, sizeof *r);
    if (bytes < (off_t)sizeof r->head) {
        errno = bytes < 0 ? errno : EINVAL;
        return -1;
    }
    r->bytes = (size_t)bytes;
    r->base = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (r->base == MAP_FAILED)
        return -1;
    madvise(r->base, r->bytes, MADV_DONTFORK);
    memcpy(&r->head, r->base, sizeof r->head);
    if (check_head(&r->head, r->bytes) < 0 || (uint32_t)n != r->head.lanes) {
        gs_region_detach(r);
        errno = EINVAL;
        return -1;
    }
    r->bell = (_Atomic uint32_t *)(r->base + GS_BELL_OFF);
    for (int i = 0; i < n; i++) {
        char *base = r->base + r->head.lanes_off + (size_t)i * r->head.lane_bytes;
        if (map_lane(&r->lane[i], base, &r->head, doorbells[i]) < 0) {
            gs_region_detach(r);
            errno = ENOMEM;
            return -1;
        }
    }
    return 0;
}

/* GIL held or not. Unmaps; the lanes' pointers are dead afterwards. */
void gs_region_detach(struct region *r)
{
    for (uint32_t i = 0; i < GS_LANES_MAX; i++) {
        free(r->lane[i].files);
        r->lane[i].files = NULL;
    }
    if (r->base && r->base != MAP_FAILED)
        munmap(r->base, r->bytes);
    r->base = NULL;
}

/* GIL held or not. How many published requests nobody took yet, those that the loop has taken back
 * included. A snapshot. */
uint32_t gs_queued(const struct region *r)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < r->head.lanes; i++) {
        const struct lane *l = &r->lane[i];
        n += atomic_load(l->req_tail) - atomic_load_explicit(&l->req_head, memory_order_relaxed);
    }
    return n;
}

/* The taker's turn. Takes the next request of lane l that is still queued: 1 with slot and
 * generation set, else 0. */
static int take_from(struct lane *l, const struct region *r, uint32_t *slot, uint32_t *generation)
{
    uint32_t head = atomic_load_explicit(&l->req_head, memory_order_relaxed), tail;

    while ((tail = atomic_load_explicit(l->req_tail, memory_order_acquire)) != head) {
        /* Only what was taken back is ever overwritten: the oldest that is left comes first. */
        if (tail - head > r->head.slots)
            head = tail - r->head.slots;
        uint32_t i =
            atomic_load_explicit(&l->requests[head & (r->head.slots - 1)], memory_order_relaxed);
        atomic_store_explicit(&l->req_head, ++head, memory_order_relaxed);
        if (i >= r->head.slots)
            continue;
        _Atomic uint32_t *word = &gs_slot(r, l, i)->state;
        uint32_t state = atomic_load_explicit(word, memory_order_acquire);
        if ((state & SLOT_STATE_MASK) != SLOT_QUEUED)
            continue; /* taken back by the loop */
        uint32_t taken = (state & ~SLOT_STATE_MASK) | SLOT_TAKEN;
        if (!atomic_compare_exchange_strong(word, &state, taken))
            continue;
        *slot = i;
        *generation = state >> SLOT_GENERATION_SHIFT;
        return 1;
    }
    return 0;
}

/* The taker's turn (the GIL, or the pool's lock on free-threaded builds). Takes one request, lanes
 * in turn: 1 with lane, slot and generation set, else 0. */
int gs_take(struct region *r, uint32_t *next_lane, uint32_t *lane, uint32_t *slot,
            uint32_t *generation)
{
    for (uint32_t n = 0; n < r->head.lanes; n++) {
        uint32_t i = *next_lane;
        *next_lane = i + 1 == r->head.lanes ? 0 : i + 1;
        if (take_from(&r->lane[i], r, slot, generation)) {
            *lane = i;
            return 1;
        }
    }
    return 0;
}

/* The taker's turn. Sends a descriptor ahead of the reply that needs it; the caller keeps its own.
 * 0, or -1 when it cannot be sent now. */
int gs_send_file(struct lane *l, uint32_t slot, int fd)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {&slot, sizeof slot};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.buf,
                       .msg_controllen = sizeof control.buf};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(l->file_socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof slot ? 0 : -1;
}

/* The taker's turn. Receives one descriptor and keeps it for its slot: 1, or 0 when there is none
 * or what came is not one. */
static int receive_one(struct lane *l, uint32_t slots)
{
    for (;;) {
        uint32_t for_slot = 0;
        union {
            struct cmsghdr align;
            char buf[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {&for_slot, sizeof for_slot};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.buf,
                           .msg_controllen = sizeof control.buf};
        ssize_t n = recvmsg(l->doorbell, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
        if (!c || c->cmsg_type != SCM_RIGHTS)
            return 0;
        int fd;
        memcpy(&fd, CMSG_DATA(c), sizeof fd);
        if (n != sizeof for_slot || for_slot >= slots) {
            close(fd);
            return 0;
        }
        if (l->files[for_slot] >= 0)
            close(l->files[for_slot]); /* of a request that was taken back */
        l->files[for_slot] = fd;
        return 1;
    }
}

/* The taker's turn. Returns the descriptor that the loop sent for this slot (the caller owns it),
 * or -1. Descriptors are sent before their request is published, but threads may take requests in
 * another order: what belongs to other slots is kept for them. The last one counts: those before it
 * are bodies of requests that were taken back from this slot, of other clients. So the socket is
 * read to its end; a look at files[slot] alone would serve a stranger's body. */
int gs_receive_file(struct lane *l, uint32_t slots, uint32_t slot)
{
    while (receive_one(l, slots))
        continue;
    int fd = l->files[slot];
    l->files[slot] = -1;
    return fd;
}

/* GIL held or not. Prepares a thread's outlet on one lane: 0, or -1 without memory. */
int gs_outlet_init(struct outlet *o, const struct region *r)
{
    memset(o, 0, sizeof *o);
    o->free = r->head.response_bytes;
    o->sizes = malloc(r->head.replies_per_thread * sizeof *o->sizes);
    return o->sizes ? 0 : -1;
}

/* GIL held or not. Gives back what the loop has acknowledged since the last look. */
static void collect_acks(const struct region *r, const struct lane *l, uint32_t thread,
                         struct outlet *o)
{
    uint32_t count = atomic_load_explicit(&gs_ack(l, thread)->count, memory_order_acquire);

    for (; o->acked != count && o->acked != o->sent; o->acked++)
        o->free += o->sizes[o->acked % r->head.replies_per_thread];
    if (o->acked == o->sent) { /* nothing in use: start again where memory is warm */
        o->pos = 0;
        o->free = r->head.response_bytes;
    }
}

/* GIL held or not. Room for len (at most GS_BLOCK_MAX) contiguous bytes in the thread's response
 * ring: the pointer, and its offset in *off; or NULL when the loop has to acknowledge first
 * (gs_wait_ack). Nothing is taken until gs_publish. */
char *gs_reserve(struct region *r, uint32_t lane, uint32_t thread, struct outlet *o, uint32_t len,
                 uint32_t *off)
{
    struct lane *l = &r->lane[lane];
    char *ring = l->responses + (size_t)thread * r->head.response_bytes;

    for (int look = 0;; look++) {
        uint32_t to_end = r->head.response_bytes - o->pos;
        uint32_t need =
            len <= to_end
                ? len
                : to_end + len; /* the tail is skipped when the block does not fit into it */
        if (o->sent - o->acked + GS_BLOCKLESS_MAX < r->head.replies_per_thread && need <= o->free) {
            *off = len <= to_end ? o->pos : 0;
            return ring + *off;
        }
        /* Every collection is followed by a look: gs_wait_ack waits for what comes after it, and so
         * for ever if this one took the last. */
        if (look > 0)
            return NULL;
        collect_acks(r, l, thread, o);
    }
}

/* GIL held or not. Wakes the loop, if nobody else does. */
static void ring_doorbell(struct lane *l)
{
    char ring = 1;

    if (atomic_exchange(l->asleep, 0))
        send(l->doorbell, &ring, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The taker's turn. Publishes a reply whose block of `used` bytes stands at reply->off as
 * gs_reserve gave it (used 0: a reply without a block), and rings the loop if it wants that. */
void gs_publish(struct region *r, uint32_t lane, struct outlet *o, const struct reply *reply,
                uint32_t used)
{
    struct lane *l = &r->lane[lane];
    uint32_t size = (used + GS_BLOCK_ALIGN - 1) & ~(GS_BLOCK_ALIGN - 1);

    if (used) {
        if (reply->off != o->pos) { /* the tail of the ring was skipped */
            size += r->head.response_bytes - o->pos;
            o->pos = 0;
        }
        o->pos += (used + GS_BLOCK_ALIGN - 1) & ~(GS_BLOCK_ALIGN - 1);
        if (o->pos == r->head.response_bytes)
            o->pos = 0;
        o->free -= size;
    }
    o->sizes[o->sent % r->head.replies_per_thread] = size;
    o->sent++;
    struct reply *entry = &l->replies[l->rep_next & (r->head.replies - 1)];
    *entry = *reply;
    entry->len = used;
    l->rep_next++;
    atomic_store(l->rep_tail,
                 l->rep_next); /* sequentially consistent: ordered before the look at `asleep` */
    uint32_t asleep = atomic_load(l->asleep);
    if (asleep == GS_SLEEPS || (asleep == GS_NAPS && gs_queued(r) == 0))
        ring_doorbell(l);
}

/* GIL not held. Sleeps until the loop acknowledges a reply of this thread or the time is up: 1 if
 * it has, else 0. */
int gs_wait_ack(struct region *r, uint32_t lane, uint32_t thread, struct outlet *o,
                uint32_t timeout_ms)
{
    struct ack *a = gs_ack(&r->lane[lane], thread);

    atomic_store(&a->waiting, 1);
    if (atomic_load(r->lane[lane].asleep)) /* it naps, and what it wants to see is there already */
        ring_doorbell(&r->lane[lane]);
    if (atomic_load(&a->count) == o->acked)
        gs_futex_wait(&a->count, o->acked, (int64_t)timeout_ms * 1000, 1);
    atomic_store(&a->waiting, 0);
    return atomic_load(&a->count) != o->acked;
}
