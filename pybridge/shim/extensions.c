/* extensions.c: what environ offers beyond PEP 3333, as callables that belong to one request.
 *
 *   wsgi.early_hints(headers)           sends a 103 (RFC 8297); only for HTTP/1.1 (RFC 9110 §15.2:
 *                                       an HTTP/1.0 client gets no 1xx); nothing once the response
 *                                       has begun
 *   gophersnake.client_disconnected()   True when the client has closed its side
 *
 * They keep nothing that bypasses environ: middleware may replace, wrap or remove them.
 */
#define _GNU_SOURCE
#include "environ.h"

static PyObj *hints_type, *disconnected_type;
static PyObj *hints_key, *disconnected_key;

/* GIL held; let go while the ring is full. early_hints(headers) */
static PyObj *hints_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    struct context *c = gs_handle_context(self, "wsgi.early_hints");
    PyObj *headers;

    (void)kwargs;
    if (!c || !py.PyArg_ParseTuple(args, "O:early_hints", &headers))
        return NULL;
    if (c->req.state != RESPONSE_SENT && gs_send_hints(c, headers) < 0)
        return NULL;
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held. client_disconnected() -> bool */
static PyObj *disconnected_call(PyObj *self, PyObj *args, PyObj *kwargs)
{
    struct context *c = gs_handle_context(self, "gophersnake.client_disconnected");

    (void)kwargs;
    if (!c || !py.PyArg_ParseTuple(args, ":client_disconnected"))
        return NULL;
    PyObj *answer =
        atomic_load_explicit(&c->req.slot->gone, memory_order_relaxed) ? py.True_ : py.False_;
    py.Py_IncRef(answer);
    return answer;
}

/* GIL held. Puts a new callable of this type under key, and borrows it to *own. 0, or -1 with an
 * exception set. */
static int set_callable(struct context *c, PyObj *env, PyObj *key, PyObj *type, PyObj **own)
{
    PyObj *callable = gs_handle_new(type, c);
    int rc = callable ? py.PyDict_SetItem(env, key, callable) : -1;

    py.Py_DecRef(callable);
    *own = rc < 0 ? NULL : callable;
    return rc;
}

/* GIL held. Adds the extensions to the environ; 0, or -1 with an exception set. */
int gs_extensions_add(struct context *c, PyObj *env, struct belongings *own)
{
    own->hints = NULL;
    if (!(c->req.slot->flags & REQ_HTTP10)
        && set_callable(c, env, hints_key, hints_type, &own->hints) < 0)
        return -1;
    return set_callable(c, env, disconnected_key, disconnected_type, &own->disconnected);
}

/* GIL held. Makes the extensions in env, which only env holds or which are replaced, those of the
 * thread's request. 0, or -1 with an exception set. */
int gs_extensions_renew(struct context *c, PyObj *env, struct belongings *own)
{
    if ((!own->hints || gs_handle_renew(own->hints, c)) && own->disconnected
        && gs_handle_renew(own->disconnected, c))
        return 0;
    return gs_extensions_add(c, env, own);
}

/* GIL held. 0, or -1 with an exception set. */
int gs_extensions_setup(void)
{
    hints_type = gs_handle_type("gophersnake.early_hints", hints_call);
    disconnected_type = gs_handle_type("gophersnake.client_disconnected", disconnected_call);
    hints_key = py.PyUnicode_InternFromString("wsgi.early_hints");
    disconnected_key = py.PyUnicode_InternFromString("gophersnake.client_disconnected");
    return hints_type && disconnected_type && hints_key && disconnected_key ? 0 : -1;
}
