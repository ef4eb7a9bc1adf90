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

static int counts_known; /* an object begins with the count of its references */

/* Every layout with the shortest header, up to 3.14, begins with the count; its low half is all of
 * it, or (3.12 and later) all of it but marks of objects that live for ever. Free-threaded builds
 * count otherwise. */
static uint32_t count_of(const PyObj *o)
{
    return *(const uint32_t *)o;
}

/* GIL held. Looks whether the count is where we read it. 0, or -1 with an exception set. */
static int learn_counts(PyObj *type)
{
    PyObj *o = gs_new_object(type, sizeof(struct handle));

    if (!o)
        return -1;
    counts_known = py.head_bytes == 16 && !py.free_threaded && count_of(o) == 1;
    py.Py_IncRef(o);
    counts_known = counts_known && count_of(o) == 2;
    py.Py_DecRef(o);
    py.Py_DecRef(o);
    return 0;
}

/* GIL held. A type whose instances are called as call(self, args, kwargs); NULL with an exception
 * set. */
PyObj *gs_handle_type(const char *name, PyObj *(*call)(PyObj *, PyObj *, PyObj *))
{
    struct py_slot slots[] = {
        {PY_TP_DEALLOC, (void *)dealloc}, {PY_TP_CALL, (void *)call}, {0, NULL}};
    PyObj *type = gs_new_type(name, sizeof(struct handle), slots);

    return type && learn_counts(type) == 0 ? type : NULL;
}

/* GIL held. 1 when the caller's reference is the only one to an object of ours, so that nobody can
 * tell whether it is made anew. 0 when that is not known. */
int gs_only_mine(PyObj *o)
{
    return counts_known && count_of(o) == 1;
}

/* GIL held. Makes an instance that only the caller holds one of the thread's request. 1, or 0 when
 * somebody else holds it too. */
int gs_handle_renew(PyObj *handle, struct context *c)
{
    if (!gs_only_mine(handle))
        return 0;
    GS_DATA(struct handle, handle)->c = c;
    GS_DATA(struct handle, handle)->use = c->req.use;
    return 1;
}

/* GIL held. As gs_handle_new, but the instance is the one in *kept, of an earlier request, if
 * nobody else holds that. *kept is NULL at first. */
PyObj *gs_handle_again(PyObj **kept, PyObj *type, struct context *c)
{
    if (!*kept || !gs_handle_renew(*kept, c)) {
        PyObj *fresh = gs_handle_new(type, c);
        if (!fresh)
            return NULL;
        py.Py_DecRef(*kept);
        *kept = fresh;
    }
    py.Py_IncRef(*kept);
    return *kept;
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
