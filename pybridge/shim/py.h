/* py.h: the part of CPython's C API that the shim uses, without Python.h.
 *
 * One compiled shim serves CPython 3.9 to 3.14, GIL and free-threaded builds: it includes no Python
 * header, finds every function with dlsym in the running interpreter, and learns the size of an
 * object header at run time. Almost all of these functions are in CPython's stable ABI and cannot
 * disappear within Python 3; those marked O may be missing and have a substitute.
 *
 * The pointers live in one hidden struct: variables named like the functions could interpose the
 * interpreter's own symbols.
 */
#ifndef GS_PY_H
#define GS_PY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

typedef struct PyObj PyObj; /* opaque: never dereferenced but by gs_type and GS_DATA */

#define GS_PY_FUNCTIONS(R, O) \
    R(const char *, Py_GetVersion, (void)) \
    R(void, Py_IncRef, (PyObj *)) \
    R(void, Py_DecRef, (PyObj *)) \
    R(void *, PyEval_SaveThread, (void)) \
    R(void, PyEval_RestoreThread, (void *)) \
    R(int, PyGILState_Ensure, (void)) \
    R(void, PyGILState_Release, (int)) \
    R(int, PyThreadState_SetAsyncExc, (unsigned long, PyObj *)) \
    R(int, PyErr_CheckSignals, (void)) \
    R(void, PyOS_BeforeFork, (void)) \
    R(void, PyOS_AfterFork_Parent, (void)) \
    R(void, PyOS_AfterFork_Child, (void)) \
    R(void, PyErr_Clear, (void)) \
    R(PyObj *, PyErr_Occurred, (void)) \
    R(int, PyErr_ExceptionMatches, (PyObj *)) \
    R(PyObj *, PyErr_NoMemory, (void)) \
    R(PyObj *, PyErr_Format, (PyObj *, const char *, ...)) \
    R(PyObj *, PyErr_SetFromErrno, (PyObj *)) \
    R(void, PyErr_Fetch, (PyObj **, PyObj **, PyObj **)) \
    R(void, PyErr_Restore, (PyObj *, PyObj *, PyObj *)) \
    R(void, PyErr_NormalizeException, (PyObj **, PyObj **, PyObj **)) \
    R(void, PyErr_WriteUnraisable, (PyObj *)) \
    R(PyObj *, PyBytes_FromStringAndSize, (const char *, ssize_t)) \
    R(int, PyBytes_AsStringAndSize, (PyObj *, char **, ssize_t *)) \
    R(char *, PyBytes_AsString, (PyObj *)) \
    R(ssize_t, PyBytes_Size, (PyObj *)) \
    R(int, _PyBytes_Resize, (PyObj **, ssize_t)) \
    R(PyObj *, PyUnicode_DecodeLatin1, (const char *, ssize_t, const char *)) \
    R(PyObj *, PyUnicode_AsLatin1String, (PyObj *)) \
    R(const char *, PyUnicode_AsUTF8AndSize, (PyObj *, ssize_t *)) \
    R(PyObj *, PyUnicode_InternFromString, (const char *)) \
    R(PyObj *, PyUnicode_FromStringAndSize, (const char *, ssize_t)) \
    R(PyObj *, PyUnicode_FromFormat, (const char *, ...)) \
    R(PyObj *, PyLong_FromLong, (long)) \
    R(PyObj *, PyLong_FromSsize_t, (ssize_t)) \
    R(ssize_t, PyLong_AsSsize_t, (PyObj *)) \
    R(ssize_t, PyNumber_AsSsize_t, (PyObj *, PyObj *)) \
    R(PyObj *, PyDict_New, (void)) \
    R(PyObj *, PyDict_Copy, (PyObj *)) \
    R(ssize_t, PyDict_Size, (PyObj *)) \
    R(int, PyDict_Update, (PyObj *, PyObj *)) \
    R(int, PyDict_SetItem, (PyObj *, PyObj *, PyObj *)) \
    R(PyObj *, PyDict_GetItemWithError, (PyObj *, PyObj *)) \
    R(PyObj *, PyList_New, (ssize_t)) \
    R(int, PyList_Append, (PyObj *, PyObj *)) \
    R(ssize_t, PyList_Size, (PyObj *)) \
    R(PyObj *, PyList_GetItem, (PyObj *, ssize_t)) \
    O(PyObj *, PyList_GetItemRef, (PyObj *, ssize_t)) \
    R(ssize_t, PyTuple_Size, (PyObj *)) \
    R(PyObj *, PyTuple_GetItem, (PyObj *, ssize_t)) \
    R(int, PyArg_ParseTuple, (PyObj *, const char *, ...)) \
    R(int, PyArg_ParseTupleAndKeywords, (PyObj *, PyObj *, const char *, char **, ...)) \
    R(PyObj *, PyObject_Type, (PyObj *)) \
    R(PyObj *, PyObject_GetAttrString, (PyObj *, const char *)) \
    R(int, PyObject_SetAttrString, (PyObj *, const char *, PyObj *)) \
    R(PyObj *, PyObject_GetIter, (PyObj *)) \
    R(PyObj *, PyIter_Next, (PyObj *)) \
    R(PyObj *, PyObject_CallFunctionObjArgs, (PyObj *, ...)) \
    O(PyObj *, PyObject_Vectorcall, (PyObj *, PyObj *const *, size_t, PyObj *)) \
    R(PyObj *, PyObject_SelfIter, (PyObj *)) \
    R(void *, PyObject_Malloc, (size_t)) \
    R(void, PyObject_Free, (void *)) \
    R(PyObj *, PyObject_Init, (PyObj *, PyObj *)) \
    R(int, PyType_IsSubtype, (PyObj *, PyObj *)) \
    R(PyObj *, PyType_FromSpec, (void *)) \
    R(PyObj *, PyModuleDef_Init, (void *)) \
    R(PyObj *, PyImport_ImportModule, (const char *)) \
    O(PyObj *, _PyDict_NewPresized, (ssize_t))

#define GS_PY_FIELD(ret, name, args) ret(*name) args;

struct py_api {
    GS_PY_FUNCTIONS(GS_PY_FIELD, GS_PY_FIELD)
    PyObj *None, *True_, *False_;
    PyObj *T_list, *T_tuple, *T_bytes, *T_str;
    PyObj *RuntimeError, *ValueError, *TypeError, *AssertionError, *OSError, *StopIteration;
    size_t head_bytes;  /* of every object: 16, or 32 on free-threaded builds */
    size_t type_offset; /* of ob_type inside it */
    int minor;          /* 3.minor */
    int free_threaded;
};

extern struct py_api py;

/* What follows the header in an object of ours. */
#define GS_DATA(type, object) ((type *)((char *)(object) + py.head_bytes))

/* GIL held. The type of any object, borrowed. */
static inline PyObj *gs_type(PyObj *o)
{
    return *(PyObj **)((char *)o + py.type_offset);
}

/* The two structs that PyType_FromSpec takes, and a method table's row, as in CPython's object.h
 * and methodobject.h. */
struct py_slot {
    int id;
    void *value;
};
struct py_spec {
    const char *name;
    int basicsize, itemsize;
    unsigned flags;
    struct py_slot *slots;
};
struct py_method {
    const char *name;
    PyObj *(*call)(PyObj *, PyObj *);
    int flags;
    const char *doc;
};

#define PY_TP_CALL 50
#define PY_TP_DEALLOC 52
#define PY_TP_ITER 62
#define PY_TP_ITERNEXT 63
#define PY_TP_METHODS 64
#define PY_METH_VARARGS 1
#define PY_METH_NOARGS 4
#define PY_TPFLAGS_DEFAULT \
    (1u << 18) /* Py_TPFLAGS_HAVE_VERSION_TAG, all that Py_TPFLAGS_DEFAULT holds since 3.8 */

int gs_py_load(void);
int gs_py_learn(void);
PyObj *gs_new_type(const char *name, size_t data_bytes, struct py_slot *slots);
PyObj *gs_new_object(PyObj *type, size_t data_bytes);
void gs_free_object(PyObj *self);

#endif
