/* py.c: finding CPython's functions in the running process, and the few helpers that depend on the
 * object layout. */
#define _GNU_SOURCE
#include "py.h"

#include <dlfcn.h>
#include <stdio.h>

__attribute__((visibility("hidden"))) struct py_api py;

static char missing[96]; /* the first symbol that was not found, for the error message */

/* GIL held. Finds every function: 0, or -1 when the interpreter does not export one that we need
 * (an ImportError names it, if it can be raised at all). */
int gs_py_load(void)
{
#define LOAD(name) *(void **)&py.name = dlsym(RTLD_DEFAULT, #name)
#define REQUIRED(ret, name, args) \
    LOAD(name); \
    if (!py.name && !missing[0]) \
        snprintf(missing, sizeof missing, "%s", #name);
#define OPTIONAL(ret, name, args) LOAD(name);
    GS_PY_FUNCTIONS(REQUIRED, OPTIONAL)
    PyObj **error = (PyObj **)dlsym(RTLD_DEFAULT, "PyExc_ImportError");
    if (missing[0] && py.PyErr_Format && error)
        py.PyErr_Format(*error,
                        "this Python does not export %s, which gophersnake needs; is it CPython "
                        "3.9 or newer, not stripped?",
                        missing);
    return missing[0] ? -1 : 0;
}

/* GIL held. A builtin by name, a new reference kept for ever; NULL with an exception set. */
static PyObj *builtin(PyObj *builtins, const char *name)
{
    return py.PyObject_GetAttrString(builtins, name);
}

/* GIL held. Learns the version, the object layout and the singletons: 0, or -1 with an exception
 * set. */
int gs_py_learn(void)
{
    const char *version = py.Py_GetVersion();
    PyObj *b = py.PyImport_ImportModule("builtins");

    if (!b)
        return -1;
    for (const char *d = version + 2; *d >= '0' && *d <= '9';
         d++) /* "3.12.1 ..."; atoi would pull in a versioned symbol */
        py.minor = py.minor * 10 + (*d - '0');
    py.RuntimeError = builtin(b, "RuntimeError");
    py.ValueError = builtin(b, "ValueError");
    py.TypeError = builtin(b, "TypeError");
    py.AssertionError = builtin(b, "AssertionError");
    py.OSError = builtin(b, "OSError");
    py.StopIteration = builtin(b, "StopIteration");
    py.T_list = builtin(b, "list");
    py.T_tuple = builtin(b, "tuple");
    py.T_bytes = builtin(b, "bytes");
    py.T_str = builtin(b, "str");
    py.None = builtin(b, "None");
    py.True_ = builtin(b, "True");
    py.False_ = builtin(b, "False");
    PyObj *object = builtin(b, "object");
    py.Py_DecRef(b);
    if (!object || !py.False_ || !py.True_ || !py.None || !py.RuntimeError)
        return -1;
    PyObj *size = py.PyObject_GetAttrString(object, "__basicsize__");
    py.Py_DecRef(object);
    if (!size)
        return -1;
    py.head_bytes = (size_t)py.PyLong_AsSsize_t(size);
    py.Py_DecRef(size);
    py.type_offset =
        py.head_bytes - sizeof(void *); /* ob_type is the last field in every layout up to 3.14 */
    py.free_threaded = strstr(version, "free-threading") != NULL;
    PyObj *type = py.PyObject_Type(py.None);
    py.Py_DecRef(type);
    if (py.head_bytes < 16 || py.head_bytes > 64 || gs_type(py.None) != type) {
        py.PyErr_Format(py.RuntimeError,
                        "gophersnake does not know the object layout of this Python (%s)", version);
        return -1;
    }
    return 0;
}

/* GIL held. A heap type whose instances carry data_bytes after their header; NULL with an exception
 * set. */
PyObj *gs_new_type(const char *name, size_t data_bytes, struct py_slot *slots)
{
    struct py_spec spec = {name, (int)(py.head_bytes + data_bytes), 0, PY_TPFLAGS_DEFAULT, slots};

    return py.PyType_FromSpec(&spec);
}

/* GIL held. A new zeroed instance of such a type; NULL with MemoryError set. */
PyObj *gs_new_object(PyObj *type, size_t data_bytes)
{
    PyObj *o = py.PyObject_Malloc(py.head_bytes + data_bytes);

    if (!o)
        return py.PyErr_NoMemory();
    memset(o, 0, py.head_bytes + data_bytes);
    return py.PyObject_Init(o, type);
}

/* GIL held. The end of a tp_dealloc: instances of heap types own a reference to their type. */
void gs_free_object(PyObj *self)
{
    PyObj *type = gs_type(self);

    py.PyObject_Free(self);
    py.Py_DecRef(type);
}
