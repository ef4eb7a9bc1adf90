/* response.c: start_response, write, and the way of the app's blocks into the lane (PEP 3333, RFC 9112 §6 and §7).
 *
 * start_response checks status and headers at once, so that the app sees the exception, and writes them as bytes into req.head: what the app does to its list afterwards
 * changes nothing. The framing is decided and appended when the first byte of the body goes out. Blocks are copied into the thread's response ring, head and body side by
 * side where they fit, so that the loop can send them with one write.
 */
#define _GNU_SOURCE
#include "head.h"
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct handle { /* a start_response or a write callable */
    struct context *c;
    uint32_t use;
};

static PyObj *start_response_type, *write_type;

/* GIL held. Forgets the response so far; the buffer stays. */
void gs_response_reset(struct context *c)
{
    struct request *r = &c->req;

    r->status = 0;
    r->bodiless = r->chunked = r->close = r->aborted = 0;
    r->app_date = r->app_server = 0;
    r->length = -1;
    r->sent = 0;
    r->head_len = 0;
}

/* GIL held. Appends to the head; 0, or -1 with an exception set. */
static int head_append(struct request *r, const char *s, size_t len)
{
    if (len > GS_HEAD_BYTES_MAX || r->head_len + len > GS_HEAD_BYTES_MAX) {
        py.PyErr_Format(py.ValueError, "the response head is longer than %d bytes", (int)GS_HEAD_BYTES_MAX);
        return -1;
    }
    if (r->head_len + len > r->head_cap) {
        uint32_t cap = r->head_cap ? r->head_cap : 1024;
        while (cap < r->head_len + len)
            cap *= 2;
        char *grown = realloc(r->head, cap);
        if (!grown) {
            py.PyErr_NoMemory();
            return -1;
        }
        r->head = grown;
        r->head_cap = cap;
    }
    memcpy(r->head + r->head_len, s, len);
    r->head_len += (uint32_t)len;
    return 0;
}

/* GIL held. The bytes of a str that holds latin-1 only; *owner keeps them alive (NULL: the str itself does). 0, or -1 with an exception set. */
static int latin1(PyObj *o, const char *what, const char **s, ssize_t *len, PyObj **owner)
{
    *owner = NULL;
    if (gs_type(o) != py.T_str) {
        PyObj *name = py.PyObject_GetAttrString(gs_type(o), "__name__");
        py.PyErr_Format(py.TypeError, "%s must be str, not %S", what, name ? name : py.None);
        py.Py_DecRef(name);
        return -1;
    }
    *s = py.PyUnicode_AsUTF8AndSize(o, len);
    if (*s && gs_is_ascii(*s, (size_t)*len))
        return 0;
    py.PyErr_Clear(); /* a lone surrogate has no UTF-8, and no latin-1 either: the next call says so */
    *owner = py.PyUnicode_AsLatin1String(o);
    if (!*owner)
        return -1;
    return py.PyBytes_AsStringAndSize(*owner, (char **)s, len);
}

/* GIL held. The status line. 0, or -1 with an exception set. */
static int put_status(struct request *r, PyObj *status)
{
    const char *s;
    ssize_t len;
    PyObj *owner;
    int rc = -1;

    if (latin1(status, "status", &s, &len, &owner) < 0)
        return -1;
    r->status = gs_status_code(s, (size_t)len);
    if (r->status < 200 || !gs_text_ok(s, (size_t)len))
        py.PyErr_Format(py.ValueError, "status must be 'NNN reason' with a final code from 200 to 999, not %R", status);
    else if (head_append(r, "HTTP/1.1 ", 9) == 0 && head_append(r, s, (size_t)len) == 0)
        rc = head_append(r, len == 3 ? " \r\n" : "\r\n", len == 3 ? 3 : 2); /* RFC 9112 §4: the SP stays without a reason */
    py.Py_DecRef(owner);
    return rc;
}

/* GIL held. Notes what a field means for framing. 1: leave it out; 0: write it; -1 with an exception set. */
static int note_field(struct request *r, const char *name, size_t name_len, const char *value, size_t value_len)
{
    switch (gs_classify_field(name, name_len)) {
    case FIELD_LENGTH:
        if (r->length >= 0 || (r->length = gs_parse_length(value, value_len)) < 0) {
            py.PyErr_Format(py.ValueError, "Content-Length must be one number of digits only, once");
            return -1;
        }
        return r->status == 204; /* RFC 9110 §8.6: none in a 204 */
    case FIELD_DATE:
        r->app_date = 1;
        return 0;
    case FIELD_SERVER:
        r->app_server = 1;
        return 0;
    case FIELD_CONNECTION: /* the server's to say, but the app's wish to close is heard */
        if (gs_has_token(value, value_len, "close"))
            r->close = 1;
        return 1;
    case FIELD_HOP_BY_HOP: /* PEP 3333 "Other HTTP Features": an app must not send them; apps that do are served as if they had not */
        return 1;
    default:
        return 0;
    }
}

/* GIL held. One (name, value) pair; 0, or -1 with an exception set. */
static int put_header(struct request *r, PyObj *pair)
{
    const char *name, *value;
    ssize_t name_len, value_len;
    PyObj *name_owner = NULL, *value_owner = NULL;
    int rc = -1;

    if (gs_type(pair) != py.T_tuple || py.PyTuple_Size(pair) != 2) {
        py.PyErr_Format(py.TypeError, "headers must be a list of (name, value) tuples; one item is %R", pair);
        return -1;
    }
    PyObj *n = py.PyTuple_GetItem(pair, 0), *v = py.PyTuple_GetItem(pair, 1);
    if (latin1(n, "header names", &name, &name_len, &name_owner) < 0 || latin1(v, "header values", &value, &value_len, &value_owner) < 0)
        goto out;
    if (!gs_token_ok(name, (size_t)name_len)) {
        py.PyErr_Format(py.ValueError, "header name %R holds characters that are not allowed in one", n);
        goto out;
    }
    if (!gs_text_ok(value, (size_t)value_len)) {
        py.PyErr_Format(py.ValueError, "the value of header %R holds control characters", n);
        goto out;
    }
    rc = note_field(r, name, (size_t)name_len, value, (size_t)value_len);
    if (rc == 0 && (head_append(r, name, (size_t)name_len) < 0 || head_append(r, ": ", 2) < 0 || head_append(r, value, (size_t)value_len) < 0
                    || head_append(r, "\r\n", 2) < 0))
        rc = -1;
    if (rc == 1)
        rc = 0;
out:
    py.Py_DecRef(name_owner);
    py.Py_DecRef(value_owner);
    return rc;
}

/* GIL held. The list item i, as a new reference. */
static PyObj *list_item(PyObj *list, ssize_t i)
{
    if (py.PyList_GetItemRef)
        return py.PyList_GetItemRef(list, i);
    PyObj *o = py.PyList_GetItem(list, i);
    py.Py_IncRef(o);
    return o;
}

/* GIL held. Writes status and headers into req.head; 0, or -1 with an exception set. */
static int put_head(struct context *c, PyObj *status, PyObj *headers)
{
    struct request *r = &c->req;

    gs_response_reset(c);
    if (gs_type(headers) != py.T_list) {
        py.PyErr_Format(py.TypeError, "headers must be a list of (name, value) tuples, not %R", gs_type(headers));
        return -1;
    }
    if (put_status(r, status) < 0)
        return -1;
    ssize_t n = py.PyList_Size(headers);
    for (ssize_t i = 0; i < n; i++) {
        PyObj *pair = list_item(headers, i);
        int rc = pair ? put_header(r, pair) : -1;
        py.Py_DecRef(pair);
        if (rc < 0)
            return -1;
    }
    r->bodiless = (r->slot->flags & REQ_HEAD) || r->status == 204 || r->status == 304;
    return 0;
}

/* GIL held. The context of a callable whose request is still running, or NULL with RuntimeError set. */
static struct context *of_running(PyObj *self, const char *what)
{
    struct handle *h = GS_DATA(struct handle, self);

    if (h->use == h->c->req.use)
        return h->c;
    py.PyErr_Format(py.RuntimeError, "%s was called after its request had ended", what);
    return NULL;
}

/* GIL held. PEP 3333: with exc_info after the head was sent, the exception is raised again. */
static void raise_again(PyObj *exc_info)
{
    PyObj *e[3];

    if (gs_type(exc_info) != py.T_tuple || py.PyTuple_Size(exc_info) != 3) {
        py.PyErr_Format(py.TypeError, "exc_info must be the tuple of sys.exc_info(), not %R", exc_info);
        return;
    }
    for (int i = 0; i < 3; i++) {
        e[i] = py.PyTuple_GetItem(exc_info, i);
        if (e[i] == py.None)
            e[i] = NULL;
        py.Py_IncRef(e[i]);
    }
    py.PyErr_Restore(e[0], e[1], e[2]);
}

static PyObj *new_handle(PyObj *type, struct context *c)
{
    PyObj *o = gs_new_object(type, sizeof(struct handle));

    if (o) {
        GS_DATA(struct handle, o)->c = c;
        GS_DATA(struct handle, o)->use = c->req.use;
    }
    return o;
}

/* GIL held. start_response(status, headers, exc_info=None) -> write */
static PyObj *start_response_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    static char *names[] = {"status", "response_headers", "exc_info", NULL};
    PyObj *status, *headers, *exc_info = NULL;
    struct context *c = of_running(self, "start_response");

    if (!c)
        return NULL;
    if (kwargs) {
        if (!py.PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:start_response", names, &status, &headers, &exc_info))
            return NULL;
    } else if (!py.PyArg_ParseTuple(args, "OO|O:start_response", &status, &headers, &exc_info)) {
        return NULL;
    }
    if (exc_info && exc_info != py.None) {
        if (c->req.state == RESPONSE_SENT) {
            raise_again(exc_info);
            return NULL;
        }
    } else if (c->req.state != RESPONSE_NONE) {
        py.PyErr_Format(py.AssertionError, "start_response() was called a second time without exc_info (PEP 3333)");
        return NULL;
    }
    c->req.state = RESPONSE_FAILED;
    if (put_head(c, status, headers) < 0)
        return NULL;
    c->req.state = RESPONSE_STARTED;
    return new_handle(write_type, c);
}

/* GIL held. Publishes the open block, if any; with REPLY_LAST also without one. */
static void publish(struct context *c, uint32_t flags)
{
    struct request *r = &c->req;
    struct reply reply = {
        .slot = r->slot_no, .generation = r->generation, .thread = c->thread.id, .flags = flags, .off = r->block_off, .status = (uint32_t)r->status,
    };

    if (r->block_len == 0 && !(flags & REPLY_LAST))
        return;
    gs_turn_take();
    gs_publish(&shim.region, r->lane, &c->outlet[r->lane], &reply, r->block_len);
    gs_turn_give();
    r->block = NULL;
    r->block_len = r->block_cap = 0;
}

/* GIL held; let go while the ring is full. Opens a block with room for at least one byte, len if the ring's rules allow. 0, or -1 when the process ends. */
static int open_block(struct context *c, size_t len)
{
    struct request *r = &c->req;
    uint32_t want = len > GS_BLOCK_MAX ? GS_BLOCK_MAX : (uint32_t)len;

    while (!(r->block = gs_reserve(&shim.region, r->lane, c->thread.id, &c->outlet[r->lane], want, &r->block_off)))
        if (gs_wait_for_room(c) < 0)
            return -1;
    r->block_len = 0;
    r->block_cap = want;
    return 0;
}

/* GIL held; let go while the ring is full. Copies bytes into blocks, publishing those that are full. 0, or -1 when the process ends. */
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

/* GIL held. "Date: ...\r\n" of this second. */
static int put_date(struct context *c)
{
    struct timespec now;
    struct cache *k = c->cache;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (k->date_second != (int64_t)now.tv_sec) {
        gs_http_date((int64_t)now.tv_sec, k->date);
        k->date_second = (int64_t)now.tv_sec;
    }
    if (head_append(&c->req, "Date: ", 6) < 0 || head_append(&c->req, k->date, 29) < 0)
        return -1;
    return head_append(&c->req, "\r\n", 2);
}

/* GIL held. RFC 9112 §6.3: the length by Content-Length, by chunks (HTTP/1.1), or by closing. whole: the body's length, or -1 if not known. 0, or -1 with an exception set. */
static int put_framing(struct context *c, int64_t whole)
{
    struct request *r = &c->req;
    char line[64];

    if (r->length < 0 && !r->bodiless && whole >= 0)
        r->length = whole;
    else if (r->length < 0 && r->bodiless && whole > 0 && r->status != 204 && r->status != 304)
        whole = snprintf(line, sizeof line, "Content-Length: %lld\r\n", (long long)whole), head_append(r, line, (size_t)whole);
    else if (r->length >= 0)
        return 0; /* the app said it */
    if (r->bodiless)
        return 0;
    if (r->length >= 0)
        return head_append(r, line, (size_t)snprintf(line, sizeof line, "Content-Length: %lld\r\n", (long long)r->length));
    if (r->slot->flags & REQ_HTTP10) {
        r->close = 1;
        return 0;
    }
    r->chunked = 1;
    return head_append(r, "Transfer-Encoding: chunked\r\n", 28);
}

/* GIL held; let go while the ring is full. Completes the head and puts it into the block. expect: bytes that follow soon. 0, or -1 (with an exception set unless the process ends). */
static int send_head(struct context *c, int64_t whole, size_t expect)
{
    struct request *r = &c->req;

    if (!(r->slot->flags & REQ_KEEP_ALIVE))
        r->close = 1;
    if ((!r->app_date && put_date(c) < 0) || (!r->app_server && head_append(r, "Server: gophersnake\r\n", 21) < 0) || put_framing(c, whole) < 0)
        return -1;
    if (r->close ? head_append(r, "Connection: close\r\n", 19) < 0 : (r->slot->flags & REQ_HTTP10) && head_append(r, "Connection: keep-alive\r\n", 24) < 0)
        return -1;
    if (head_append(r, "\r\n", 2) < 0)
        return -1;
    r->state = RESPONSE_SENT;
    if (!r->block && open_block(c, r->head_len + expect) < 0)
        return -1;
    return put(c, r->head, r->head_len);
}

/* GIL held; let go while the ring is full. A piece of the body in the framing that was decided. 0, or -1 when the process ends. */
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

/* GIL held; let go while the ring is full. One block of the body: it is on its way when this returns if more may come. whole: the length of the whole body if known, else -1. 0; 1 when the body
 * is longer than its Content-Length (what is too much was dropped); -1 with an exception set. An empty block sends nothing (PEP 3333: the head waits for the first byte). */
int gs_response_block(struct context *c, const char *data, size_t len, int more, int64_t whole)
{
    struct request *r = &c->req;
    int excess = 0;

    if (len == 0)
        return 0;
    if (r->state == RESPONSE_NONE || r->state == RESPONSE_FAILED) {
        py.PyErr_Format(py.AssertionError, "the app gave data before start_response() was called (PEP 3333)");
        return -1;
    }
    if (r->state == RESPONSE_STARTED && send_head(c, whole, (r->slot->flags & REQ_HEAD) ? 0 : len + 32) < 0)
        goto failed;
    if (r->length >= 0 && !r->bodiless && (uint64_t)len > (uint64_t)(r->length - r->sent)) {
        len = (size_t)(r->length - r->sent);
        excess = 1;
    }
    r->sent += (int64_t)len;
    if (len && !r->bodiless && put_framed(c, data, len) < 0)
        goto failed;
    if (more)
        publish(c, 0);
    return excess;
failed:
    if (!py.PyErr_Occurred())
        py.PyErr_Format(py.OSError, "the server process has gone");
    return -1;
}

/* GIL held; let go while the ring is full. The app is done without an error: the body's end. 0; 1 when it gave fewer bytes than its Content-Length (the client is told by
 * closing); -1 with an exception set. */
int gs_response_end(struct context *c)
{
    struct request *r = &c->req;

    if (r->state == RESPONSE_NONE || r->state == RESPONSE_FAILED) {
        py.PyErr_Format(py.AssertionError, "the app ended without calling start_response() (PEP 3333)");
        return -1;
    }
    if ((r->state == RESPONSE_STARTED && send_head(c, 0, 0) < 0) || (r->chunked && put(c, "0\r\n\r\n", 5) < 0)) {
        if (!py.PyErr_Occurred())
            py.PyErr_Format(py.OSError, "the server process has gone");
        return -1;
    }
    if (r->bodiless || r->length < 0 || r->sent >= r->length)
        return 0;
    gs_response_abort(c);
    return 1;
}

/* GIL held. What was written so far goes out now. */
void gs_response_flush(struct context *c)
{
    publish(c, 0);
}

/* GIL held. The last reply: the slot is the loop's again afterwards. */
void gs_response_last(struct context *c)
{
    struct request *r = &c->req;

    publish(c, REPLY_LAST | (r->aborted ? REPLY_ABORT | REPLY_CLOSE : 0) | (r->close ? REPLY_CLOSE : 0));
}

/* GIL held. Marks the response as broken off, so that the client can tell: no last chunk, and the connection closes (RFC 9112 §8). */
void gs_response_abort(struct context *c)
{
    c->req.aborted = 1;
}

/* GIL held; let go while the ring is full. The answer to an app's exception: a bare 500 if nothing was sent, else the response breaks off. No exception is left set. */
void gs_response_error(struct context *c)
{
    static const char head[] = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n";
    static const char body[] = "Internal Server Error\n";
    struct request *r = &c->req;

    if (r->state == RESPONSE_SENT) {
        gs_response_abort(c);
        return;
    }
    gs_response_reset(c);
    r->status = 500;
    r->bodiless = (r->slot->flags & REQ_HEAD) != 0;
    r->state = RESPONSE_STARTED;
    if (head_append(r, head, sizeof head - 1) < 0 || gs_response_block(c, body, sizeof body - 1, 0, sizeof body - 1) < 0 || gs_response_end(c) < 0) {
        py.PyErr_Clear();
        gs_response_abort(c);
    }
}

/* GIL held. write(data): PEP 3333 "The write() Callable". */
static PyObj *write_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    struct context *c = of_running(self, "write");
    PyObj *data;
    char *s;
    ssize_t len;

    (void)kwargs;
    if (!c || !py.PyArg_ParseTuple(args, "O:write", &data) || py.PyBytes_AsStringAndSize(data, &s, &len) < 0)
        return NULL;
    int rc = gs_response_block(c, s, (size_t)len, 1, -1);
    if (rc > 0)
        py.PyErr_Format(py.ValueError, "write() was given more data than the response's Content-Length");
    if (rc != 0)
        return NULL;
    py.Py_IncRef(py.None);
    return py.None;
}

static void handle_dealloc(PyObj *self)
{
    gs_free_object(self);
}

/* GIL held. 0, or -1 with an exception set. */
int gs_response_setup(void)
{
    struct py_slot start[] = {{PY_TP_DEALLOC, (void *)handle_dealloc}, {PY_TP_CALL, (void *)start_response_call}, {0, NULL}};
    struct py_slot write[] = {{PY_TP_DEALLOC, (void *)handle_dealloc}, {PY_TP_CALL, (void *)write_call}, {0, NULL}};

    start_response_type = gs_new_type("gophersnake.start_response", sizeof(struct handle), start);
    write_type = gs_new_type("gophersnake.write", sizeof(struct handle), write);
    return start_response_type && write_type ? 0 : -1;
}

/* GIL held. The start_response of the thread's request. New reference; NULL with an exception set. */
PyObj *gs_start_response_new(struct context *c)
{
    return new_handle(start_response_type, c);
}
