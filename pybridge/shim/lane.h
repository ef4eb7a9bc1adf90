/* lane.h: the memory that one worker shares with the Go process.
 *
 * Format (version 1). Everything is little-endian and native; both sides run on one machine.
 * The Go twin of this page is pybridge/format.go; a test checks that both are equal.
 *
 *   region  = header | lane 0 | lane 1 | ... | lane L-1      (one memfd, sealed against resizing)
 *   header  = struct region_head, then at GS_WAKE_OFF a 64-byte line for each thread, whose first
 *             word is that thread's futex
 *   lane    = lane head | request ring | reply ring | slots | arena | response rings; their
 *             places and sizes are in struct region_head
 *
 *   request ring    u32 slot numbers, from the loop that owns the lane to the threads, which take
 *                   turns
 *   reply ring      struct reply, from the threads, which take turns, to the loop
 *   slot            one request in flight: struct slot, its header table, its bytes. Written by
 *                   the loop while FREE, read by one thread while TAKEN
 *   arena           request bodies that do not fit their slot, allocated by the loop
 *   response ring   one for each thread and lane: bytes of responses, written by that thread,
 *                   read by the loop
 *
 * Rules of validity
 *   - A slot number in the request ring is below `slots`, and its state word says QUEUED with the
 *     generation of this use.
 *   - The state word is (generation << 2) | state. QUEUED -> TAKEN is a compare-and-swap by a
 *     thread; QUEUED -> FREE is one by the loop, when the client has gone or the request moves to
 *     another worker. Exactly one of the two wins.
 *   - A reply names slot, generation and thread; offset + length lie inside that thread's response
 *     ring. The last reply of a request carries REPLY_LAST: after it the thread does not touch
 *     the slot.
 *   - The loop acknowledges replies by count, thread by thread, in order (struct ack). A thread
 *     has at most `replies_per_thread` unacknowledged ones, so the reply ring, `threads` times as
 *     long, never overflows.
 *   - Go trusts nothing here: it reads each field once and checks it (invariant 4). The shim
 *     trusts Go.
 */
#ifndef GS_LANE_H
#define GS_LANE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define GS_MAGIC 0x4e4c5347u /* "GSLN" */
#define GS_VERSION 1u
#define GS_LINE 64u
#define GS_BELL_OFF 128u
#define GS_WAKE_OFF 4096u
#define GS_THREADS_MAX 256u
#define GS_LANES_MAX 64u
#define GS_SLOTS_MAX 4096u

struct region_head {
    uint32_t magic, version;
    uint32_t lanes, threads;
    uint32_t slots, slot_bytes;           /* slot_bytes: stride of one slot */
    uint32_t replies, replies_per_thread; /* replies: capacity of the reply ring */
    uint32_t arena_bytes, response_bytes; /* response_bytes: one thread's response ring */
    uint32_t lane_bytes, lanes_off;
    uint32_t requests_off, replies_off; /* inside a lane, as are the next three */
    uint32_t slots_off, arena_off, responses_off;
};

/* Offsets inside a lane's head. Each word has a cache line of its own. */
#define GS_REQ_TAIL_OFF 0u  /* written by the loop: requests published so far */
#define GS_REP_TAIL_OFF 64u /* written by threads: replies published so far */
#define GS_ASLEEP_OFF 128u  /* 0, or GS_SLEEPS or GS_NAPS; who rings sets it to 0 first */
#define GS_ACKS_OFF 256u    /* struct ack, one line a thread */

#define GS_SLEEPS 1u /* the loop sleeps and wants its doorbell rung */
/* It looks by itself in a moment, and wants a ring when no request waits for a thread any more or a
 * thread waits for an acknowledgement. */
#define GS_NAPS 2u

struct ack {
    _Atomic uint32_t count;   /* replies of this thread that the loop has taken; futex */
    _Atomic uint32_t waiting; /* 1: the thread sleeps on count */
};

#define SLOT_FREE 0u
#define SLOT_QUEUED 1u
#define SLOT_TAKEN 2u
#define SLOT_STATE_MASK 3u
#define SLOT_GENERATION_SHIFT 2u

#define GONE_CLOSED 1u      /* the client has vanished: nobody reads the answer */
#define GONE_HALF_CLOSED 2u /* it closed its sending side; it may still read */

#define REQ_HTTP10 1u     /* the client speaks HTTP/1.0 */
#define REQ_KEEP_ALIVE 2u /* the connection may stay open after the answer */
#define REQ_HEAD 4u       /* method HEAD: no body on the wire */
#define REQ_BODY_ARENA 8u /* body at body_off of the arena, else inside the slot */
#define REQ_BODY_FILE 16u /* body in a file whose descriptor came by the doorbell */
#define REQ_SOCKET 64u    /* the client's own socket came by the doorbell: an upgrade */
#define REQ_BODY 32u      /* there is a body (perhaps of length 0 or chunked) */

struct span {
    uint32_t off, len;
}; /* relative to the slot's start */

struct header {
    struct span name, value;
};

struct slot {
    _Atomic uint32_t state;
    _Atomic uint32_t gone; /* set by the loop: GONE_... */
    /* Set by the thread when it has taken the request, and read while that runs. Times are of
     * CLOCK_MONOTONIC, which both processes share. */
    _Atomic uint64_t taken_ns;
    _Atomic uint32_t gil_us; /* how long the thread waited for the GIL on this request's account */
    _Atomic uint32_t thread;
    uint32_t flags;
    uint16_t listener; /* which environ template */
    uint16_t remote_port;
    uint32_t header_count;
    uint32_t headers_off; /* struct header [header_count], relative to the slot */
    struct span method, target, path, query, remote_addr;
    uint64_t body_off; /* arena: from the arena's start; slot: from the slot's start */
    uint64_t body_len;
};

#define REPLY_LAST 1u  /* the response ends with this block */
#define REPLY_ABORT 2u /* it ended in error after data: close without pretending completeness */
#define REPLY_CLOSE 4u /* close the connection after it */
#define REPLY_END 8u   /* the response is whole; the app still closes it, so the slot is not free */

struct reply {
    uint32_t slot, generation;
    uint32_t thread, flags;
    uint32_t off, len; /* inside the thread's response ring */
    uint32_t status;   /* of the response; 0 in blocks after the first */
    uint32_t reserved;
};

#define REPLY_INTERIM 32u /* an interim response: the answer has not begun (RFC 9110 §15.2) */
#define REPLY_FILE 16u    /* the block is a struct file_part of a file, not bytes for the client */

/* A piece of a file that is sent as it is. Its descriptor came before by the lane's file socket,
 * with the slot's number. */
struct file_part {
    uint64_t offset, length;
};

/* A response block takes a multiple of this in its ring, so that neighbours share no cache line. */
#define GS_BLOCK_ALIGN 64u
#define GS_BLOCK_MAX 65536u
/* Replies of one request that may come without a block, and so without asking for room: END, LAST.
 */
#define GS_BLOCKLESS_MAX 2u

_Static_assert(sizeof(struct reply) == 32, "reply size");
_Static_assert(sizeof(struct slot) == 96, "slot size");
_Static_assert(sizeof(struct header) == 16, "header size");
_Static_assert(sizeof(struct region_head) <= GS_BELL_OFF, "region head");

/* One lane as this process sees it: pointers into the mapping. */
struct lane {
    _Atomic uint32_t *req_tail, *rep_tail, *asleep;
    _Atomic uint32_t *requests; /* ring */
    struct reply *replies;      /* ring */
    char *acks, *slots, *arena, *responses;
    int doorbell;              /* our end of the lane's socket */
    int file_socket;           /* by which descriptors of files leave, or -1 */
    _Atomic uint32_t req_head; /* next request to take; moved only under the taker's turn */
    uint32_t rep_next;         /* next reply to write; likewise */
    int *files;                /* by slot: descriptor of a body file, or -1 */
};

struct region {
    char *base;
    size_t bytes;
    struct region_head head; /* a copy: checked once */
    struct lane lane[GS_LANES_MAX];
    _Atomic uint32_t *bell; /* 0, or 1 + the thread that wants to be woken */
};

/* What one thread keeps about its response ring on one lane. */
struct outlet {
    uint32_t sent;   /* replies published */
    uint32_t acked;  /* of those, seen acknowledged */
    uint32_t pos;    /* where the next block starts */
    uint32_t free;   /* bytes not in use */
    uint32_t *sizes; /* ring: bytes each unacknowledged reply holds */
};

int gs_region_attach(struct region *r, int fd, const int *doorbells, int n);
void gs_region_detach(struct region *r);

int gs_take(struct region *r, uint32_t *next_lane, uint32_t *lane, uint32_t *slot,
            uint32_t *generation);
uint32_t gs_queued(const struct region *r);
int gs_send_file(struct lane *l, uint32_t slot, int fd);
int gs_receive_file(struct lane *l, uint32_t slots, uint32_t slot);

int gs_outlet_init(struct outlet *o, const struct region *r);
char *gs_reserve(struct region *r, uint32_t lane, uint32_t thread, struct outlet *o, uint32_t len,
                 uint32_t *off);
void gs_publish(struct region *r, uint32_t lane, struct outlet *o, const struct reply *reply,
                uint32_t used);
int gs_wait_ack(struct region *r, uint32_t lane, uint32_t thread, struct outlet *o,
                uint32_t timeout_ms);

void gs_futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us, int shared);
void gs_futex_wake(_Atomic uint32_t *word, int count, int shared);

static inline struct slot *gs_slot(const struct region *r, const struct lane *l, uint32_t i)
{
    return (struct slot *)(l->slots + (size_t)i * r->head.slot_bytes);
}

static inline struct ack *gs_ack(const struct lane *l, uint32_t thread)
{
    return (struct ack *)(l->acks + (size_t)thread * GS_LINE);
}

static inline _Atomic uint32_t *gs_wake_word(const struct region *r, uint32_t thread)
{
    return (_Atomic uint32_t *)(r->base + GS_WAKE_OFF + (size_t)thread * GS_LINE);
}

#endif
