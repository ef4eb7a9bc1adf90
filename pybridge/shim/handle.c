/* handle.c: callables that belong to one request and refuse when it has ended. They hold no
 * reference to anything, so an app may keep them as long as it likes.
 */
#define _GNU_SOURCE
#include "shim.h"

struct handle {
    struct context *c;
    uint32_t use; /* of the request it belongs to */
};

static void dealloc(PyObj *self)
{
    gs_free_object(self);
}

/* GIL held. A type whose instances are called as call(self, args, kwargs); NULL with an exception
 * set. */
PyObj *gs_handle_type(const char *name, PyObj *(*call)(PyObj *, PyObj *, PyObj *))
{
    struct py_slot slots[] = {
        {PY_TP_DEALLOC, (void *)dealloc}, {PY_TP_CALL, (void *)call}, {0, NULL}};

    return gs_new_type(name, sizeof(struct handle), slots);
}

/* GIL held. An instance for the thread's request. New reference; NULL with an exception set. */
PyObj *gs_handle_new(PyObj *type, struct context *c)
{
    PyObj *o = gs_new_object(type, sizeof(struct handle));

    if (o) {
        GS_DATA(struct handle, o)->c = c;
        GS_DATA(struct handle, o)->use = c->req.use;
    }
    return o;
}

/* GIL held. The context of an instance whose request is still running in this process, or NULL with
 * RuntimeError set. */
struct context *gs_handle_context(PyObj *self, const char *what)
{
    struct handle *h = GS_DATA(struct handle, self);

    if (h->use != h->c->req.use)
        py.PyErr_Format(py.RuntimeError, "%s was called after its request had ended", what);
    else if (gs_in_child())
        py.PyErr_Format(py.RuntimeError, "%s was called in a child process", what);
    else
        return h->c;
    return NULL;
}
