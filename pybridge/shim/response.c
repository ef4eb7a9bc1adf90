/* response.c: the way of the app's blocks into the lane (RFC 9112 §6 and §7).
 *
 * The framing is decided, and appended to the head, when the first byte of the body goes out.
 * Blocks are copied into the thread's response ring, head and body side by side where they fit, so
 * that the loop can send them with one write.
 */
#define _GNU_SOURCE
#include "head.h"
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* GIL held. Forgets the response so far; the buffer stays. */
void gs_response_reset(struct context *c)
{
    struct request *r = &c->req;

    r->status = 0;
    r->bodiless = r->chunked = r->close = r->aborted = r->ended = 0;
    r->app_date = r->app_server = 0;
    r->length = -1;
    r->sent = 0;
    r->head_len = 0;
}

/* GIL held. Makes room for len more bytes in the head, and counts them. Where they go, or NULL with
 * an exception set. */
static char *head_room(struct request *r, size_t len)
{
    if (len > GS_HEAD_BYTES_MAX || r->head_len + len > GS_HEAD_BYTES_MAX) {
        py.PyErr_Format(py.ValueError, "the response head is longer than %d bytes",
                        (int)GS_HEAD_BYTES_MAX);
        return NULL;
    }
    if (r->head_len + len > r->head_cap) {
        uint32_t cap = r->head_cap ? r->head_cap : 1024;
        while (cap < r->head_len + len)
            cap *= 2;
        char *grown = realloc(r->head, cap);
        if (!grown) {
            py.PyErr_NoMemory();
            return NULL;
        }
        r->head = grown;
        r->head_cap = cap;
    }
    char *at = r->head + r->head_len;
    r->head_len += (uint32_t)len;
    return at;
}

/* GIL held. Appends to the head; 0, or -1 with an exception set. */
int gs_head_append(struct request *r, const char *s, size_t len)
{
    char *at = head_room(r, len);

    if (!at)
        return -1;
    memcpy(at, s, len);
    return 0;
}

/* GIL held. Appends "name: value\r\n" to the head; 0, or -1 with an exception set. */
int gs_head_field(struct request *r, const char *name, size_t name_len, const char *value,
                  size_t value_len)
{
    char *at = head_room(r, name_len + value_len + 4);

    if (!at)
        return -1;
    memcpy(at, name, name_len);
    memcpy(at + name_len, ": ", 2);
    memcpy(at + name_len + 2, value, value_len);
    memcpy(at + name_len + 2 + value_len, "\r\n", 2);
    return 0;
}

/* GIL held. Appends "Content-Length: n\r\n"; 0, or -1 with an exception set. */
static int put_length(struct request *r, int64_t n)
{
    char digits[GS_DECIMAL_MAX];

    return gs_head_field(r, "Content-Length", 14, digits, gs_decimal((uint64_t)n, digits));
}

static uint32_t end_flags(const struct request *r)
{
    return (r->aborted ? REPLY_ABORT | REPLY_CLOSE : 0) | (r->close ? REPLY_CLOSE : 0);
}

/* GIL held. Publishes the open block, if any; with REPLY_LAST also without one. */
static void publish(struct context *c, uint32_t flags)
{
    struct request *r = &c->req;
    struct reply reply = {
        .slot = r->slot_no,
        .generation = r->generation,
        .thread = c->thread.id,
        .flags = flags,
        .off = r->block_off,
        .status = (uint32_t)r->status,
    };

    if (r->block_len == 0 && !(flags & (REPLY_LAST | REPLY_END)))
        return;
    gs_turn_take();
    gs_publish(&shim.region, r->lane, &c->outlet[r->lane], &reply, r->block_len);
    gs_turn_give();
    r->block = NULL;
    r->block_len = r->block_cap = 0;
}

/* GIL held; let go while the ring is full. Opens a block with room for at least one byte, len if
 * the ring's rules allow. 0, or -1 when the process ends. */
static int open_block(struct context *c, size_t len)
{
    struct request *r = &c->req;
    uint32_t want = len > GS_BLOCK_MAX ? GS_BLOCK_MAX : (uint32_t)len;

    while (!(r->block = gs_reserve(&shim.region, r->lane, c->thread.id, &c->outlet[r->lane], want,
                                   &r->block_off)))
        if (gs_wait_for_room(c) < 0)
            return -1;
    r->block_len = 0;
    r->block_cap = want;
    return 0;
}

/* GIL held; let go while the ring is full. Copies bytes into blocks, publishing those that are
 * full. 0, or -1 when the process ends. */
static int put(struct context *c, const char *s, size_t len)
{
    struct request *r = &c->req;

    while (len) {
        if (r->block && r->block_len == r->block_cap)
            publish(c, 0);
        if (!r->block && open_block(c, len) < 0)
            return -1;
        size_t n = r->block_cap - r->block_len;
        n = n < len ? n : len;
        memcpy(r->block + r->block_len, s, n);
        r->block_len += (uint32_t)n;
        s += n;
        len -= n;
    }
    return 0;
}

/* GIL held. "Date: ...\r\n" of this second and "Server: ...\r\n", but for what the app has set
 * itself. 0, or -1 with an exception set. */
static int put_date_and_server(struct context *c)
{
    static const char server[] = "Server: gophersnake\r\n";
    struct request *r = &c->req;
    struct cache *k = c->cache;
    struct timespec now;

    if (r->app_date)
        return r->app_server ? 0 : gs_head_append(r, server, sizeof server - 1);
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (k->date_second != (int64_t)now.tv_sec) {
        memcpy(k->date, "Date: ", 6);
        gs_http_date((int64_t)now.tv_sec, k->date + 6);
        memcpy(k->date + 35, "\r\n", 2);
        memcpy(k->date + 37, server, sizeof server - 1);
        k->date_second = (int64_t)now.tv_sec;
    }
    return gs_head_append(r, k->date, r->app_server ? 37 : 37 + sizeof server - 1);
}

/* GIL held. RFC 9112 §6.3: the length by Content-Length, by chunks (HTTP/1.1), or by closing.
 * whole: the body's length, or -1 if not known. 0, or -1 with an exception set. */
static int put_framing(struct context *c, int64_t whole)
{
    struct request *r = &c->req;

    if (r->length >= 0)
        return 0; /* the app said it */
    if (r->bodiless)
        return whole > 0 && r->status != 204 && r->status != 304 ? put_length(r, whole) : 0;
    if (whole >= 0) {
        r->length = whole;
        return put_length(r, whole);
    }
    if (r->slot->flags & REQ_HTTP10) {
        r->close = 1;
        return 0;
    }
    r->chunked = 1;
    return gs_head_append(r, "Transfer-Encoding: chunked\r\n", 28);
}

/* GIL held; let go while the ring is full. Completes the head and puts it into the block. expect:
 * bytes that follow soon. 0, or -1 (with an exception set unless the process ends). */
static int send_head(struct context *c, int64_t whole, size_t expect)
{
    struct request *r = &c->req;

    if (!(r->slot->flags & REQ_KEEP_ALIVE))
        r->close = 1;
    if (put_date_and_server(c) < 0 || put_framing(c, whole) < 0)
        return -1;
    if (r->close ? gs_head_append(r, "Connection: close\r\n", 19) < 0
                 : (r->slot->flags & REQ_HTTP10)
                       && gs_head_append(r, "Connection: keep-alive\r\n", 24) < 0)
        return -1;
    if (gs_head_append(r, "\r\n", 2) < 0)
        return -1;
    r->state = RESPONSE_SENT;
    if (!r->block && open_block(c, r->head_len + expect) < 0)
        return -1;
    return put(c, r->head, r->head_len);
}

/* GIL held; let go while the ring is full. A piece of the body in the framing that was decided. 0,
 * or -1 when the process ends. */
static int put_framed(struct context *c, const char *data, size_t len)
{
    char line[24];

    if (!c->req.block && open_block(c, len + 32) < 0)
        return -1;
    if (!c->req.chunked)
        return put(c, data, len);
    /* RFC 9112 §7.1. A chunk is never empty: that would end the body. */
    size_t n = (size_t)snprintf(line, sizeof line, "%zx\r\n", len);
    return put(c, line, n) < 0 || put(c, data, len) < 0 || put(c, "\r\n", 2) < 0 ? -1 : 0;
}

/* GIL held; let go while the ring is full. One block of the body: it is on its way when this
 * returns if more may come. whole: the length of the whole body if known, else -1. 0; 1 when the
 * body is longer than its Content-Length (what is too much was dropped); -1 with an exception set.
 * An empty block sends nothing (PEP 3333: the head waits for the first byte). */
int gs_response_block(struct context *c, const char *data, size_t len, int more, int64_t whole)
{
    struct request *r = &c->req;
    int excess = 0;

    if (len == 0)
        return 0;
    if (r->state == RESPONSE_NONE || r->state == RESPONSE_FAILED) {
        py.PyErr_Format(py.AssertionError,
                        "the app gave data before start_response() was called (PEP 3333)");
        return -1;
    }
    if (r->state == RESPONSE_STARTED
        && send_head(c, whole, (r->slot->flags & REQ_HEAD) ? 0 : len + 32) < 0)
        goto failed;
    if (r->length >= 0 && !r->bodiless && (uint64_t)len > (uint64_t)(r->length - r->sent)) {
        len = (size_t)(r->length - r->sent);
        excess = 1;
    }
    r->sent += (int64_t)len;
    if (len && !r->bodiless && put_framed(c, data, len) < 0)
        goto failed;
    if (more) {
        /* A client that counts knows the end of its answer before the app says so. */
        int complete = r->bodiless || (r->length >= 0 && r->sent == r->length);
        publish(c, complete && !r->ended ? REPLY_END | end_flags(r) : 0);
        r->ended |= complete;
    }
    return excess;
failed:
    if (!py.PyErr_Occurred())
        py.PyErr_Format(py.OSError, "the server process has gone");
    return -1;
}

/* GIL held; let go while the ring is full. The rest of the body is `length` bytes of the file behind
 * fd, from offset on, or fewer if Content-Length says so. 0; 1 when it has to be read instead (what
 * was sent so far stands); -1 with an exception set. */
int gs_response_file(struct context *c, int fd, int64_t offset, int64_t length)
{
    struct request *r = &c->req;
    struct lane *l = &shim.region.lane[r->lane];

    if (r->state == RESPONSE_NONE || r->state == RESPONSE_FAILED)
        return 1; /* reading it says what is wrong */
    if (r->state == RESPONSE_STARTED && send_head(c, length, sizeof(struct file_part)) < 0)
        goto failed;
    if (r->bodiless || r->chunked || r->length < 0)
        return r->bodiless ? 0 : 1;
    if (length > r->length - r->sent)
        length = r->length - r->sent;
    if (length == 0)
        return 0;
    publish(c, 0);
    gs_turn_take();
    int rc = gs_send_file(l, r->slot_no, fd);
    gs_turn_give();
    if (rc < 0)
        return 1;
    struct file_part part = {(uint64_t)offset, (uint64_t)length};
    if (open_block(c, sizeof part) < 0 || put(c, (const char *)&part, sizeof part) < 0)
        goto failed;
    r->sent += length;
    r->ended = r->sent == r->length;
    publish(c, REPLY_FILE | (r->ended ? REPLY_END | end_flags(r) : 0));
    return 0;
failed:
    if (!py.PyErr_Occurred())
        py.PyErr_Format(py.OSError, "the server process has gone");
    return -1;
}

/* GIL held; let go while the ring is full. The app is done without an error: the body's end. 0; 1
 * when it gave fewer bytes than its Content-Length (the client is told by closing); -1 with an
 * exception set. */
int gs_response_end(struct context *c)
{
    struct request *r = &c->req;

    if (r->state == RESPONSE_NONE || r->state == RESPONSE_FAILED) {
        py.PyErr_Format(py.AssertionError,
                        "the app ended without calling start_response() (PEP 3333)");
        return -1;
    }
    if ((r->state == RESPONSE_STARTED && send_head(c, 0, 0) < 0)
        || (r->chunked && put(c, "0\r\n\r\n", 5) < 0)) {
        if (!py.PyErr_Occurred())
            py.PyErr_Format(py.OSError, "the server process has gone");
        return -1;
    }
    if (r->bodiless || r->length < 0 || r->sent >= r->length)
        return 0;
    gs_response_abort(c);
    return 1;
}

/* GIL held; let go while the ring is full. Sends the bytes of an interim response (RFC 9110 §15.2).
 * 0, or -1 with an exception set. */
int gs_response_interim(struct context *c, const char *data, size_t len)
{
    if (put(c, data, len) < 0) {
        py.PyErr_Format(py.OSError, "the server process has gone");
        return -1;
    }
    publish(c, REPLY_INTERIM);
    return 0;
}

/* GIL held. Nothing follows: the client has its answer and may go on, while the app closes what it
 * returned. */
void gs_response_ended(struct context *c)
{
    if (!c->req.ended)
        publish(c, REPLY_END | end_flags(&c->req));
}

/* GIL held. The last reply: the slot is the loop's again afterwards. */
void gs_response_last(struct context *c)
{
    publish(c, REPLY_LAST | end_flags(&c->req));
}

/* GIL held. Marks the response as broken off, so that the client can tell: no last chunk, and the
 * connection closes (RFC 9112 §8). */
void gs_response_abort(struct context *c)
{
    c->req.aborted = 1;
}

/* GIL held; let go while the ring is full. The answer to an app's exception: a bare 500 if nothing
 * was sent, else the response breaks off. No exception is left set. */
void gs_response_error(struct context *c)
{
    static const char head[] = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; "
                               "charset=utf-8\r\nCache-Control: no-store\r\n";
    static const char body[] = "Internal Server Error\n";
    struct request *r = &c->req;

    if (r->state == RESPONSE_SENT) {
        gs_response_abort(c);
        return;
    }
    /* An app that broke the protocol itself (a 1xx status, CR LF in a header) gets no second
     * request. */
    int broke_protocol = r->state == RESPONSE_FAILED;
    gs_response_reset(c);
    r->close = broke_protocol;
    r->status = 500;
    r->bodiless = (r->slot->flags & REQ_HEAD) != 0;
    r->state = RESPONSE_STARTED;
    if (gs_head_append(r, head, sizeof head - 1) < 0
        || gs_response_block(c, body, sizeof body - 1, 0, sizeof body - 1) < 0
        || gs_response_end(c) < 0) {
        py.PyErr_Clear();
        gs_response_abort(c);
    }
}
