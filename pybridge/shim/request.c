/* request.c: one request from its slot through the app to its last reply (PEP 3333). */
#define _GNU_SOURCE
#include "shim.h"

#include <unistd.h>

/* GIL held. "METHOD target" of the request, for the log. New reference or NULL without an
 * exception. */
static PyObj *describe(const struct context *c)
{
    const struct slot *s = c->req.slot;
    const char *base = (const char *)s;
    PyObj *method = py.PyUnicode_DecodeLatin1(base + s->method.off, s->method.len, NULL);
    PyObj *target = py.PyUnicode_DecodeLatin1(base + s->target.off, s->target.len, NULL);
    PyObj *both = method && target ? py.PyUnicode_FromFormat("%U %U", method, target) : NULL;

    py.Py_DecRef(method);
    py.Py_DecRef(target);
    if (!both)
        py.PyErr_Clear();
    return both;
}

/* GIL held or not. Writes "METHOD /path" of a request to line, which has GS_LINE_MAX bytes, for eyes
 * that shall not see the query. Returns its length. The slot is not trusted to stay as it is. */
size_t gs_request_line(const struct context *c, char *line)
{
    const struct slot *s = c->req.slot;
    const char *base = (const char *)s, *query;
    struct span method = s->method, target = s->target;
    size_t at = method.len < 32 ? method.len : 32, len = target.len;

    if (method.off > shim.region.head.slot_bytes - 32 || target.off > shim.region.head.slot_bytes
        || len > shim.region.head.slot_bytes - target.off)
        return 0;
    query = memchr(base + target.off, '?', len);
    if (query)
        len = (size_t)(query - base) - target.off;
    if (len > GS_LINE_MAX - at - 1)
        len = GS_LINE_MAX - at - 1;
    memcpy(line, base + method.off, at);
    line[at] = ' ';
    memcpy(line + at + 1, base + target.off, len);
    return at + 1 + len;
}

/* GIL held. Logs the exception that is set, with its traceback, and clears it. SystemExit and its
 * like are only logged: PyErr_Print would end the process. */
static void log_exception(const struct context *c, const char *where)
{
    PyObj *type, *value, *traceback, *request, *what, *done;

    py.PyErr_Fetch(&type, &value, &traceback);
    py.PyErr_NormalizeException(&type, &value, &traceback);
    request = describe(c);
    what = py.PyUnicode_FromFormat("%s %S", where, request ? request : py.None);
    done = what ? py.PyObject_CallFunctionObjArgs(shim.log_exception, what, type,
                                                  value ? value : py.None,
                                                  traceback ? traceback : py.None, NULL)
                : NULL;
    if (!done)
        py.PyErr_WriteUnraisable(shim.log_exception);
    py.Py_DecRef(done);
    py.Py_DecRef(what);
    py.Py_DecRef(request);
    py.Py_DecRef(type);
    py.Py_DecRef(value);
    py.Py_DecRef(traceback);
}

/* GIL held. The total length of a list's or tuple's blocks, or -1 with TypeError set when one is
 * not bytes. */
static int64_t total_length(PyObj *blocks, ssize_t n, PyObj *(*item)(PyObj *, ssize_t))
{
    int64_t total = 0;
    char *s;
    ssize_t len;

    for (ssize_t i = 0; i < n; i++) {
        PyObj *b = item(blocks, i);
        if (!b || py.PyBytes_AsStringAndSize(b, &s, &len) < 0)
            return -1;
        total += len;
    }
    return total;
}

/* GIL held; let go while the ring is full. One block. more, whole and result as of
 * gs_response_block. */
static int send_bytes(struct context *c, PyObj *block, int more, int64_t whole)
{
    char *s;
    ssize_t len;

    if (py.PyBytes_AsStringAndSize(block, &s, &len) < 0)
        return -1;
    return gs_response_block(c, s, (size_t)len, more, whole);
}

/* GIL held; let go while the ring is full. A list or tuple: its length is known before the first
 * byte goes out. Result as of gs_response_block. */
static int send_sequence(struct context *c, PyObj *blocks, int is_list)
{
    PyObj *(*item)(PyObj *, ssize_t) = is_list ? py.PyList_GetItem : py.PyTuple_GetItem;
    ssize_t n = is_list ? py.PyList_Size(blocks) : py.PyTuple_Size(blocks);
    int64_t whole = total_length(blocks, n, item);
    int rc = whole < 0 ? -1 : 0;

    for (ssize_t i = 0; i < n && rc == 0; i++) {
        PyObj *b = item(blocks, i);
        if (!b)
            return -1;
        py.Py_IncRef(b); /* the app may change its list while the GIL is let go */
        rc = send_bytes(c, b, 0, whole);
        py.Py_DecRef(b);
        if (is_list && py.PyList_Size(blocks) < n)
            n = py.PyList_Size(blocks);
    }
    return rc;
}

/* GIL held. Nobody reads the rest. A client that only closed its sending side still does. */
static int client_gone(const struct context *c)
{
    return atomic_load_explicit(&c->req.slot->gone, memory_order_relaxed) == GONE_CLOSED;
}

/* GIL held. Ends a child that the app forked and that came back here: the lanes are its parent's.
 * What it was given of the request refuses (gs_handle_context, input.c), so it cannot get further
 * than this. */
static void leave_if_child(void)
{
    if (gs_in_child())
        _exit(0);
}

/* GIL held; let go while the ring is full. Any other iterable: a block is on its way before the
 * next one is asked for. Result as of gs_response_block. */
static int send_iterable(struct context *c, PyObj *result)
{
    PyObj *it = py.PyObject_GetIter(result), *b;
    int rc = 0;

    if (!it)
        return -1;
    while (rc == 0 && (b = py.PyIter_Next(it))) {
        leave_if_child();
        rc = send_bytes(c, b, 1, -1);
        py.Py_DecRef(b);
        if (rc == 0 && client_gone(c)) {
            gs_response_abort(c);
            rc = 1;
        }
    }
    leave_if_child();
    if (rc == 0 && py.PyErr_Occurred())
        rc = -1;
    py.Py_DecRef(it);
    return rc;
}

/* GIL held; let go while the ring is full. What wsgi.file_wrapper made: a regular file of some size
 * goes to the loop as it is, anything else is read. Result as of gs_response_block. */
static int send_file(struct context *c, PyObj *wrapper)
{
    int fd, rc = 1;
    ssize_t offset, length;
    PyObj *file = py.PyObject_CallFunctionObjArgs(shim.plain_file, wrapper, NULL);

    if (!file)
        return -1;
    if (file != py.None) {
        if (!py.PyArg_ParseTuple(file, "inn", &fd, &offset, &length))
            rc = -1;
        else if (length >= GS_FILE_BYTES_MIN)
            rc = gs_response_file(c, fd, offset, length);
    }
    py.Py_DecRef(file);
    return rc == 1 ? send_iterable(c, wrapper) : rc;
}

/* GIL held; let go while the ring is full. The whole response of a result. 0, or -1 with an
 * exception set. */
static int send_result(struct context *c, PyObj *result)
{
    PyObj *type = gs_type(result);
    int rc;

    if (type == py.T_list || type == py.T_tuple)
        rc = send_sequence(c, result, type == py.T_list);
    else if (type == py.T_bytes) /* iterating it would give numbers; what is meant is clear */
        rc = send_bytes(c, result, 0, py.PyBytes_Size(result));
    else if (type == shim.file_wrapper)
        rc = send_file(c, result);
    else
        rc = send_iterable(c, result);
    if (rc < 0)
        return -1;
    if (c->req.aborted)
        return 0;
    rc = gs_response_end(c);
    if (rc > 0) {
        py.PyErr_Format(py.ValueError,
                        "the response ended after %zd of its %zd bytes (Content-Length)",
                        (ssize_t)c->req.sent, (ssize_t)c->req.length);
        log_exception(c, "Truncated response to");
    }
    return rc < 0 ? -1 : 0;
}

/* GIL held. Calls result.close() if there is one (PEP 3333: always, whatever happened before). */
static void close_result(struct context *c, PyObj *result)
{
    PyObj *type = gs_type(result);

    if (type == py.T_list || type == py.T_tuple)
        return;
    PyObj *close = py.PyObject_GetAttrString(result, "close");
    if (!close) {
        py.PyErr_Clear();
        return;
    }
    gs_response_ended(c); /* the client need not wait for close() */
    PyObj *done = py.PyObject_CallFunctionObjArgs(close, NULL);
    if (!done)
        log_exception(c, "Exception in close() of the response to");
    py.Py_DecRef(done);
    py.Py_DecRef(close);
}

/* GIL held. Calls the app. New reference to its result, or NULL with an exception set. */
static PyObj *call_app(struct context *c)
{
    PyObj *start, *env, *result = NULL;

    if (gs_input_open(c) < 0)
        return NULL;
    start = gs_start_response_new(c);
    env = start ? gs_environ_new(c) : NULL;
    if (env && gs_upgrade_add(c, env) < 0) {
        py.Py_DecRef(env);
        env = NULL;
    }
    if (env) {
        PyObj *args[3] = {
            NULL, env, start}; /* args[0] is the callee's to use: PY_VECTORCALL_ARGUMENTS_OFFSET */
        if (py.PyObject_Vectorcall)
            result = py.PyObject_Vectorcall(shim.app, args + 1,
                                            2 | (size_t)1 << (8 * sizeof(size_t) - 1), NULL);
        else
            result = py.PyObject_CallFunctionObjArgs(shim.app, env, start, NULL);
    }
    py.Py_DecRef(env);
    py.Py_DecRef(start);
    return result;
}

/* GIL held. The app has talked to the client by itself: whatever it returned or raised is no
 * response. StopIteration is how gunicorn's users say so. */
static void end_upgrade(struct context *c, int returned)
{
    if (!returned && py.PyErr_ExceptionMatches(py.StopIteration))
        py.PyErr_Clear();
    else if (!returned)
        log_exception(c, "Exception in upgraded request");
    gs_response_reset(c);
    gs_response_abort(c);
}

/* GIL held; the app and a full ring let it go. Runs the request that c->req names and sends its
 * last reply. No exception is left set. */
void gs_request_run(struct context *c)
{
    struct request *r = &c->req;

    r->use++;
    r->state = RESPONSE_NONE;
    r->block = NULL;
    r->block_len = r->block_cap = 0;
    gs_response_reset(c);
    r->socket = NULL;
    PyObj *result = call_app(c);
    leave_if_child();
    if (gs_upgrade_taken(c))
        end_upgrade(c, result != NULL);
    else if (!result || send_result(c, result) < 0) {
        log_exception(c, "Exception in request");
        gs_response_error(c);
    }
    if (result) {
        close_result(c, result);
        py.Py_DecRef(result);
    }
    leave_if_child();
    gs_upgrade_close(c);
    r->use++; /* what the app kept of this request refuses from now on */
    gs_input_close(c);
    gs_response_last(c);
}
