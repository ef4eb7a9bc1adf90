/* upgrade.c: WebSocket for WSGI frameworks (flask-sock, simple-websocket).
 *
 * With --websocket, an upgrade request brings the client's own socket. environ offers it under the
 * names that these libraries look for. It is a subclass of socket.socket that notes its first use
 * (boot.py): from then on the connection is the app's until it returns, and what it returns is
 * dropped. An app that does not use it answers as to any request.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <unistd.h>

static PyObj *gunicorn_key, *werkzeug_key;

/* GIL held. 0, or -1 with an exception set. */
int gs_upgrade_setup(void)
{
    gunicorn_key = py.PyUnicode_InternFromString("gunicorn.socket");
    werkzeug_key = py.PyUnicode_InternFromString("werkzeug.socket");
    return gunicorn_key && werkzeug_key ? 0 : -1;
}

/* GIL held. Puts the client's socket into the environ if the request brought one; 0, or -1 with an
 * exception set. */
int gs_upgrade_add(struct context *c, PyObj *env)
{
    struct request *r = &c->req;

    if (!(r->slot->flags & REQ_SOCKET))
        return 0;
    gs_turn_take();
    int fd = gs_receive_file(&shim.region.lane[r->lane], shim.region.head.slots, r->slot_no);
    gs_turn_give();
    if (fd < 0) {
        py.PyErr_Format(py.OSError, "the client's socket did not arrive");
        return -1;
    }
    PyObj *number = py.PyLong_FromLong(fd);
    r->socket = number ? py.PyObject_CallFunctionObjArgs(shim.client_socket, number, NULL) : NULL;
    py.Py_DecRef(number);
    if (!r->socket) {
        close(fd);
        return -1;
    }
    if (py.PyDict_SetItem(env, gunicorn_key, r->socket) < 0)
        return -1;
    return py.PyDict_SetItem(env, werkzeug_key, r->socket);
}

/* GIL held. Whether the app has used the socket. An exception that is set stays set. */
int gs_upgrade_taken(const struct context *c)
{
    PyObj *type, *value, *traceback, *taken;

    if (!c->req.socket)
        return 0;
    py.PyErr_Fetch(&type, &value, &traceback);
    taken = py.PyObject_GetAttrString(c->req.socket, "taken");
    int yes = taken == py.True_;
    py.Py_DecRef(taken);
    py.PyErr_Restore(type, value, traceback);
    return yes;
}

/* GIL held. Ends the app's use of the socket. No exception is left set. */
void gs_upgrade_close(struct context *c)
{
    PyObj *socket = c->req.socket;

    if (!socket)
        return;
    c->req.socket = NULL;
    PyObj *close_method = py.PyObject_GetAttrString(socket, "close");
    PyObj *done = close_method ? py.PyObject_CallFunctionObjArgs(close_method, NULL) : NULL;
    if (!done)
        py.PyErr_Clear();
    py.Py_DecRef(done);
    py.Py_DecRef(close_method);
    py.Py_DecRef(socket);
}
