/* input.c: wsgi.input over a body that is complete before the app runs (PEP 3333 "Input and Error
 * Streams").
 *
 * The body is contiguous memory: inside the slot, in the lane's arena, or a mapped file. The
 * methods do what io.BytesIO's do. An object that outlives its request raises ValueError, as a
 * closed file does.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <sys/mman.h>
#include <unistd.h>

/* A mapped body gives the memory of what was read back in steps of this, so that reading a large
 * upload block by block never makes the worker large. */
#define GS_DROP_BYTES (4u << 20)

struct input {
    struct context *c;
    uint32_t use; /* of the request it belongs to */
    size_t pos;
    size_t dropped; /* of a mapped body: bytes before it were given back */
};

static PyObj *input_type;

/* GIL held. Makes req.body point to the whole body: 0, or -1 with an exception set. */
int gs_input_open(struct context *c)
{
    struct request *r = &c->req;
    const struct slot *s = r->slot;
    struct lane *l = &shim.region.lane[r->lane];

    r->body = "";
    r->body_len = 0;
    r->body_mapped = 0;
    r->body_fd = -1;
    if (!(s->flags & REQ_BODY) || s->body_len == 0)
        return 0;
    r->body_len = (size_t)s->body_len;
    if (!(s->flags & REQ_BODY_FILE)) {
        r->body = (s->flags & REQ_BODY_ARENA ? l->arena : (const char *)s) + s->body_off;
        return 0;
    }
    gs_turn_take();
    int fd = gs_receive_file(l, shim.region.head.slots, r->slot_no);
    gs_turn_give();
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, r->body_len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) {
        r->body_len = 0;
        py.PyErr_SetFromErrno(py.OSError);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    madvise(at, r->body_len, MADV_SEQUENTIAL);
    r->body = at;
    r->body_mapped = 1;
    r->body_fd = fd;
    lseek(fd, 0, SEEK_SET); /* as an app expects that reads by fileno() */
    return 0;
}

/* GIL held. Ends the body's life; input objects of this request refuse from now on. */
void gs_input_close(struct context *c)
{
    struct request *r = &c->req;

    if (r->body_mapped)
        munmap((void *)r->body, r->body_len);
    if (r->body_fd >= 0)
        close(r->body_fd);
    r->body_fd = -1;
    r->body_mapped = 0;
    r->body = "";
    r->body_len = 0;
}

/* GIL held. The input's state, or NULL with ValueError set when its request has ended. */
static struct input *live(PyObj *self)
{
    struct input *in = GS_DATA(struct input, self);

    if (in->use != in->c->req.use) {
        py.PyErr_Format(py.ValueError, "wsgi.input was used after its request had ended");
        return NULL;
    }
    if (gs_in_child()) { /* the slot, the arena and so the body are not mapped there */
        py.PyErr_Format(py.ValueError, "wsgi.input was used in a child process");
        return NULL;
    }
    return in;
}

/* GIL held. The optional size argument: -1 for absent, None or negative. 0, or -1 with an exception
 * set. */
static int size_argument(PyObj *args, const char *format, ssize_t *size)
{
    PyObj *o = NULL;

    *size = -1;
    if (!py.PyArg_ParseTuple(args, format, &o))
        return -1;
    if (!o || o == py.None)
        return 0;
    *size = py.PyNumber_AsSsize_t(o, py.ValueError);
    if (*size == -1 && py.PyErr_Occurred())
        return -1;
    if (*size < 0)
        *size = -1;
    return 0;
}

/* GIL held. The next n bytes as bytes; n is at most what is left. */
static PyObj *take_bytes(struct input *in, size_t n)
{
    const struct request *r = &in->c->req;
    PyObj *b = py.PyBytes_FromStringAndSize(r->body + in->pos, (ssize_t)n);

    if (!b)
        return NULL;
    in->pos += n;
    if (r->body_mapped && in->pos - in->dropped >= GS_DROP_BYTES) {
        size_t upto = in->pos & ~(size_t)(GS_DROP_BYTES - 1);
        madvise((char *)r->body + in->dropped, upto - in->dropped, MADV_DONTNEED);
        in->dropped = upto;
    }
    return b;
}

/* The length of the next line, its newline included, at most `most` (-1: no bound). 0 at the end.
 */
static size_t line_length(const struct input *in, ssize_t most)
{
    size_t left = in->c->req.body_len - in->pos;
    const char *at = in->c->req.body + in->pos;

    if (most >= 0 && (size_t)most < left)
        left = (size_t)most;
    const char *newline = left ? memchr(at, '\n', left) : NULL;
    return newline ? (size_t)(newline - at) + 1 : left;
}

/* GIL held. read([size]) */
static PyObj *input_read(PyObj *self, PyObj *args)
{
    struct input *in = live(self);
    ssize_t size;

    if (!in || size_argument(args, "|O:read", &size) < 0)
        return NULL;
    size_t left = in->c->req.body_len - in->pos;
    return take_bytes(in, size < 0 || (size_t)size > left ? left : (size_t)size);
}

/* GIL held. readline([size]) */
static PyObj *input_readline(PyObj *self, PyObj *args)
{
    struct input *in = live(self);
    ssize_t size;

    if (!in || size_argument(args, "|O:readline", &size) < 0)
        return NULL;
    return take_bytes(in, line_length(in, size));
}

/* GIL held. readlines([hint]): whole lines until hint bytes are reached. */
static PyObj *input_readlines(PyObj *self, PyObj *args)
{
    struct input *in = live(self);
    ssize_t hint, total = 0;

    if (!in || size_argument(args, "|O:readlines", &hint) < 0)
        return NULL;
    PyObj *list = py.PyList_New(0);
    while (list) {
        size_t n = line_length(in, -1);
        if (n == 0)
            return list;
        PyObj *line = take_bytes(in, n);
        int rc = line ? py.PyList_Append(list, line) : -1;
        py.Py_DecRef(line);
        if (rc < 0)
            break;
        total += (ssize_t)n;
        if (hint > 0 && total >= hint)
            return list;
    }
    py.Py_DecRef(list);
    return NULL;
}

/* GIL held. fileno(): the descriptor of a body in a file, which lives as long as the request. */
static PyObj *input_fileno(PyObj *self, PyObj *args)
{
    struct input *in = live(self);

    (void)args;
    if (!in)
        return NULL;
    if (in->c->req.body_fd < 0)
        return py.PyErr_Format(py.OSError, "wsgi.input is in memory: it has no descriptor");
    return py.PyLong_FromLong(in->c->req.body_fd);
}

/* GIL held. The next line; NULL without an exception at the end. */
static PyObj *input_next(PyObj *self)
{
    struct input *in = live(self);
    size_t n = in ? line_length(in, -1) : 0;

    return n ? take_bytes(in, n) : NULL;
}

static void input_dealloc(PyObj *self)
{
    gs_free_object(self);
}

static struct py_method input_methods[] = {
    {"read", input_read, PY_METH_VARARGS,
     "read([size]) -> bytes, the rest of the body without a size"},
    {"readline", input_readline, PY_METH_VARARGS,
     "readline([size]) -> bytes up to and including the next newline"},
    {"fileno", input_fileno, PY_METH_NOARGS, "fileno() -> int, only of a body in a file"},
    {"readlines", input_readlines, PY_METH_VARARGS, "readlines([hint]) -> list of lines"},
    {NULL, NULL, 0, NULL},
};

/* GIL held. 0, or -1 with an exception set. */
int gs_input_setup(void)
{
    struct py_slot slots[] = {
        {PY_TP_DEALLOC, (void *)input_dealloc},
        {PY_TP_ITER, (void *)py.PyObject_SelfIter},
        {PY_TP_ITERNEXT, (void *)input_next},
        {PY_TP_METHODS, input_methods},
        {0, NULL},
    };

    input_type = gs_new_type("gophersnake.Input", sizeof(struct input), slots);
    return input_type ? 0 : -1;
}

/* GIL held. The wsgi.input of the thread's request. New reference; NULL with an exception set. */
PyObj *gs_input_new(struct context *c)
{
    PyObj *o = gs_new_object(input_type, sizeof(struct input));

    if (o) {
        GS_DATA(struct input, o)->c = c;
        GS_DATA(struct input, o)->use = c->req.use;
    }
    return o;
}

/* GIL held. Makes an input object that only the caller holds the one of the thread's request. 1, or
 * 0 when somebody else holds it too. */
int gs_input_renew(PyObj *input, struct context *c)
{
    struct input *in = GS_DATA(struct input, input);

    if (!gs_only_mine(input))
        return 0;
    *in = (struct input){.c = c, .use = c->req.use};
    return 1;
}
