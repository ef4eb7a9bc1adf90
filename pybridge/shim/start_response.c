/* start_response.c: the two callables of PEP 3333, start_response and write.
 *
 * start_response checks status and headers at once, so that the app sees the exception, and writes
 * them as bytes into req.head: what the app does to its list afterwards changes nothing. Both
 * belong to one request and refuse when it has ended.
 */
#define _GNU_SOURCE
#include "head.h"
#include "shim.h"

static PyObj *start_response_type, *write_type;

/* GIL held. The bytes of a str that holds latin-1 only; *owner keeps them alive (NULL: the str
 * itself does). 0, or -1 with an exception set. */
static int latin1(PyObj *o, const char *what, const char **s, ssize_t *len, PyObj **owner)
{
    *owner = NULL;
    if (gs_type(o) != py.T_str && !py.PyType_IsSubtype(gs_type(o), py.T_str)) {
        PyObj *name = py.PyObject_GetAttrString(gs_type(o), "__name__");
        py.PyErr_Format(py.TypeError, "%s must be str, not %S", what, name ? name : py.None);
        py.Py_DecRef(name);
        return -1;
    }
    *s = py.PyUnicode_AsUTF8AndSize(o, len);
    if (*s && gs_is_ascii(*s, (size_t)*len))
        return 0;
    /* A lone surrogate has no UTF-8, and no latin-1 either: the next call says so. */
    py.PyErr_Clear();
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
        py.PyErr_Format(py.ValueError,
                        "status must be 'NNN reason' with a final code from 200 to 999, not %R",
                        status);
    else if (gs_head_append(r, "HTTP/1.1 ", 9) == 0 && gs_head_append(r, s, (size_t)len) == 0)
        /* RFC 9112 §4: the SP stays where there is no reason. */
        rc = len == 3 ? gs_head_append(r, " \r\n", 3) : gs_head_append(r, "\r\n", 2);
    if (owner)
        py.Py_DecRef(owner);
    return rc;
}

/* GIL held. Notes what a field means for framing. 1: leave it out; 0: write it; -1 with an
 * exception set. */
static int note_field(struct request *r, const char *name, size_t name_len, const char *value,
                      size_t value_len)
{
    switch (gs_classify_field(name, name_len)) {
    case FIELD_LENGTH:
        if (r->length >= 0 || (r->length = gs_parse_length(value, value_len)) < 0) {
            py.PyErr_Format(py.ValueError,
                            "Content-Length must be one number of digits only, once");
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
    case FIELD_HOP_BY_HOP: /* PEP 3333 "Other HTTP Features": an app must not send them; apps that
                              do are served as if they had not */
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
        py.PyErr_Format(py.TypeError,
                        "headers must be a list of (name, value) tuples; one item is %R", pair);
        return -1;
    }
    PyObj *n = py.PyTuple_GetItem(pair, 0), *v = py.PyTuple_GetItem(pair, 1);
    if (latin1(n, "header names", &name, &name_len, &name_owner) < 0
        || latin1(v, "header values", &value, &value_len, &value_owner) < 0)
        goto out;
    if (!gs_token_ok(name, (size_t)name_len)) {
        py.PyErr_Format(py.ValueError,
                        "header name %R holds characters that are not allowed in one", n);
        goto out;
    }
    if (!gs_text_ok(value, (size_t)value_len)) {
        py.PyErr_Format(py.ValueError, "the value of header %R holds control characters", n);
        goto out;
    }
    rc = note_field(r, name, (size_t)name_len, value, (size_t)value_len);
    rc = rc == 0   ? gs_head_field(r, name, (size_t)name_len, value, (size_t)value_len)
         : rc == 1 ? 0
                   : -1;
out:
    if (name_owner)
        py.Py_DecRef(name_owner);
    if (value_owner)
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

/* GIL held. All pairs of a list; 0, or -1 with an exception set. */
static int put_headers(struct request *r, PyObj *headers)
{
    ssize_t n = py.PyList_Size(headers);
    for (ssize_t i = 0; i < n; i++) {
        PyObj *pair = list_item(headers, i);
        int rc = pair ? put_header(r, pair) : -1;
        py.Py_DecRef(pair);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* GIL held. Writes status and headers into req.head; 0, or -1 with an exception set. */
static int put_head(struct context *c, PyObj *status, PyObj *headers)
{
    struct request *r = &c->req;

    gs_response_reset(c);
    if (gs_type(headers) != py.T_list) {
        py.PyErr_Format(py.TypeError, "headers must be a list of (name, value) tuples, not %R",
                        gs_type(headers));
        return -1;
    }
    if (put_status(r, status) < 0)
        return -1;
    if (put_headers(r, headers) < 0)
        return -1;
    r->bodiless = (r->slot->flags & REQ_HEAD) || r->status == 204 || r->status == 304;
    return 0;
}

/* GIL held. PEP 3333: with exc_info after the head was sent, the exception is raised again. */
static void raise_again(PyObj *exc_info)
{
    PyObj *e[3];

    if (gs_type(exc_info) != py.T_tuple || py.PyTuple_Size(exc_info) != 3) {
        py.PyErr_Format(py.TypeError, "exc_info must be the tuple of sys.exc_info(), not %R",
                        exc_info);
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

/* GIL held; let go while the ring is full. Sends a 103 with these headers, and leaves the response
 * as it was. 0, or -1 with an exception set. */
int gs_send_hints(struct context *c, PyObj *headers)
{
    struct request *r = &c->req;
    struct request before = *r;
    int rc = gs_head_append(r, "HTTP/1.1 103 Early Hints\r\n", 26);

    if (rc == 0 && gs_type(headers) != py.T_list) {
        py.PyErr_Format(py.TypeError, "headers must be a list of (name, value) tuples, not %R",
                        gs_type(headers));
        rc = -1;
    }
    if (rc == 0)
        rc = put_headers(r, headers);
    if (rc == 0)
        rc = gs_head_append(r, "\r\n", 2);
    uint32_t end = r->head_len;
    r->head_len = before.head_len;
    r->length = before.length;
    r->close = before.close;
    r->app_date = before.app_date;
    r->app_server = before.app_server;
    return rc < 0 ? -1 : gs_response_interim(c, r->head + before.head_len, end - before.head_len);
}

/* GIL held. start_response(status, headers, exc_info=None) -> write */
static PyObj *start_response_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    static char *names[] = {"status", "response_headers", "exc_info", NULL};
    PyObj *status, *headers, *exc_info = NULL;
    struct context *c = gs_handle_context(self, "start_response");

    if (!c)
        return NULL;
    if (!kwargs && py.PyTuple_Size(args) == 2) { /* nearly always; parsing costs 20 ns more */
        status = py.PyTuple_GetItem(args, 0);
        headers = py.PyTuple_GetItem(args, 1);
    } else if (!py.PyArg_ParseTupleAndKeywords(args, kwargs, "OO|O:start_response", names, &status,
                                               &headers, &exc_info)) {
        return NULL;
    }
    if (exc_info && exc_info != py.None) {
        if (c->req.state == RESPONSE_SENT) {
            raise_again(exc_info);
            return NULL;
        }
    } else if (c->req.state != RESPONSE_NONE) {
        py.PyErr_Format(py.AssertionError,
                        "start_response() was called a second time without exc_info (PEP 3333)");
        return NULL;
    }
    c->req.state = RESPONSE_FAILED;
    if (put_head(c, status, headers) < 0)
        return NULL;
    c->req.state = RESPONSE_STARTED;
    return gs_handle_again(&c->write, write_type, c);
}

/* GIL held. write(data): PEP 3333 "The write() Callable". */
static PyObj *write_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    struct context *c = gs_handle_context(self, "write");
    PyObj *data;
    char *s;
    ssize_t len;

    (void)kwargs;
    if (!c || !py.PyArg_ParseTuple(args, "O:write", &data)
        || py.PyBytes_AsStringAndSize(data, &s, &len) < 0)
        return NULL;
    int rc = gs_response_block(c, s, (size_t)len, 1, -1);
    if (rc > 0)
        py.PyErr_Format(py.ValueError,
                        "write() was given more data than the response's Content-Length");
    if (rc != 0)
        return NULL;
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held. 0, or -1 with an exception set. */
int gs_start_response_setup(void)
{
    start_response_type = gs_handle_type("gophersnake.start_response", start_response_call);
    write_type = gs_handle_type("gophersnake.write", write_call);
    return start_response_type && write_type ? 0 : -1;
}

/* GIL held. The start_response of the thread's request. New reference; NULL with an exception
 * set. */
PyObj *gs_start_response_new(struct context *c)
{
    return gs_handle_again(&c->start_response, start_response_type, c);
}
