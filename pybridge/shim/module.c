/* module.c: the extension module `_gophersnake` that boot.py loads.
 *
 *   attach(region_fd, control_fd, sockets, app, templates, log_exception, file_wrapper, plain_file,
 *          client_socket)
 *                               maps the region, starts the control thread
 *   watch(control_fd, signal, format_stacks, request_timeout)
 *                               before attach(): how the parent gets stacks and ends requests
 *   serve(thread, is_main=0)    one thread's life; returns when the worker ends
 *   leave_signals()             in a template: takes our signals back after the app's import
 *   fork(first, control, fds)   makes a worker of a template (template.c)
 *   wait()                      the main thread beside serving threads
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

__attribute__((visibility("hidden"))) struct shim shim;

/* Does nothing in the worker. A child that the app forked inherits this handler, but not our
 * reason for it: there the signal does what it does by default. */
static void ignore_signal(int signal)
{
    if (*shim.parent_process)
        return;
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigaction(signal, &by_default, NULL);
    kill(getpid(), signal); /* delivered when this handler returns */
}

/* GIL held. Signals that a terminal or a platform sends to every process of a group are the
 * parent's business. A handler that does nothing, not SIG_IGN: the app's own child processes get
 * the default back when they exec. Those that only we give a meaning stay the app's if it has set
 * a handler for them. */
static void leave_signals_to_the_parent(void)
{
    static const struct {
        int number, apps_too;
    } signals[] = {
        {SIGINT, 0},  {SIGTERM, 0}, {SIGHUP, 0},  {SIGQUIT, 0},
        {SIGUSR1, 1}, {SIGUSR2, 1}, {SIGTTIN, 1}, {SIGTTOU, 1},
    };
    struct sigaction action = {.sa_handler = ignore_signal, .sa_flags = SA_RESTART}, now;

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        int is_free = sigaction(signals[i].number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO)
                      && now.sa_handler == SIG_DFL;
        if (!signals[i].apps_too || is_free)
            sigaction(signals[i].number, &action, NULL);
    }
}

/* GIL held. leave_signals() */
static PyObj *leave_signals(PyObj *self, PyObj *args)
{
    (void)self;
    (void)args;
    leave_signals_to_the_parent();
    gs_stacks_guard_signal();
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held. A word that reads 1 here and 0 in any child made by fork. 0, or -1 with an exception
 * set. */
static int mark_parent(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) < 0) {
        py.PyErr_SetFromErrno(py.OSError);
        return -1;
    }
    shim.parent_process = page;
    *shim.parent_process = 1;
    return 0;
}

/* GIL held. Contexts of all threads, with outlets and caches; 0, or -1 with an exception set. */
static int make_contexts(void)
{
    uint32_t n = shim.region.head.threads;

    shim.contexts = calloc(n, sizeof *shim.contexts);
    shim.shared_cache = shim.contexts ? gs_cache_new() : NULL;
    if (!shim.shared_cache) {
        if (!py.PyErr_Occurred())
            py.PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < n; i++) {
        struct context *c = &shim.contexts[i];
        c->cache = py.free_threaded && i ? gs_cache_new() : shim.shared_cache;
        if (!c->cache)
            return -1;
        for (uint32_t lane = 0; lane < shim.region.head.lanes; lane++)
            if (gs_outlet_init(&c->outlet[lane], &shim.region) < 0) {
                py.PyErr_NoMemory();
                return -1;
            }
    }
    return 0;
}

/* GIL held. attach(...): sockets are a doorbell and a file socket for each lane, in turn. */
static PyObj *attach(PyObj *self, PyObj *args)
{
    int region_fd, control_fd, doorbells[GS_LANES_MAX], files[GS_LANES_MAX], n;
    PyObj *fds, *templates;

    (void)self;
    if (!py.PyArg_ParseTuple(args, "iiOOOOOOO:attach", &region_fd, &control_fd, &fds, &shim.app,
                             &templates, &shim.log_exception, &shim.file_wrapper, &shim.plain_file,
                             &shim.client_socket))
        return NULL;
    py.Py_IncRef(shim.file_wrapper);
    py.Py_IncRef(shim.plain_file);
    py.Py_IncRef(shim.client_socket);
    py.Py_IncRef(shim.app);
    py.Py_IncRef(shim.log_exception);
    n = (int)py.PyList_Size(fds) / 2;
    if (n < 1 || n > (int)GS_LANES_MAX)
        return py.PyErr_Format(py.ValueError, "between 1 and %d lanes are possible",
                               (int)GS_LANES_MAX);
    for (int i = 0; i < n; i++) {
        doorbells[i] = (int)py.PyLong_AsSsize_t(py.PyList_GetItem(fds, 2 * i));
        files[i] = (int)py.PyLong_AsSsize_t(py.PyList_GetItem(fds, 2 * i + 1));
    }
    if (gs_region_attach(&shim.region, region_fd, doorbells, n) < 0)
        return py.PyErr_SetFromErrno(py.OSError);
    for (int i = 0; i < n; i++)
        shim.region.lane[i].file_socket = files[i];
    gs_pool_init(&shim.pool, &shim.region, GS_PLAIN || py.free_threaded);
    if (gs_environ_setup(templates) < 0 || make_contexts() < 0)
        return NULL;
    leave_signals_to_the_parent(); /* once more: the app may have set handlers at import */
    gs_stacks_guard_signal();
    errno = gs_control_start(control_fd);
    if (errno)
        return py.PyErr_SetFromErrno(py.OSError);
    /* From here on the control socket tells of the parent's end. The kernel's signal, which the
     * parent asked for, comes with the end of the one thread that started us. */
    prctl(PR_SET_PDEATHSIG, 0);
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held. watch(control_fd, signal, format_stacks, request_timeout): faulthandler writes the
 * stacks to control_fd when signal comes; 0: it cannot. */
static PyObj *watch(PyObj *self, PyObj *args)
{
    int control, signal;

    (void)self;
    if (!py.PyArg_ParseTuple(args, "iiOO:watch", &control, &signal, &shim.format_stacks,
                             &shim.request_timeout))
        return NULL;
    py.Py_IncRef(shim.format_stacks);
    py.Py_IncRef(shim.request_timeout);
    if (gs_stacks_setup(control, signal) < 0)
        return py.PyErr_Format(py.ValueError, "nobody handles signal %d", signal);
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held, let go inside. serve(thread) */
static PyObj *serve(PyObj *self, PyObj *args)
{
    int thread, main_thread = 0;

    (void)self;
    if (!py.PyArg_ParseTuple(args, "i|i:serve", &thread, &main_thread))
        return NULL;
    if (!shim.contexts || thread < 0 || (uint32_t)thread >= shim.region.head.threads)
        return py.PyErr_Format(py.ValueError, "no thread %d", thread);
    struct context *c = &shim.contexts[thread];
    c->thread.handles_signals = main_thread;
    gs_pool_enter(&shim.pool, &c->thread, (uint32_t)thread);
    if (gs_serve(c) < 0)
        return NULL;
    py.Py_IncRef(py.None);
    return py.None;
}

/* GIL held, let go inside. wait() */
static PyObj *wait_for_end(PyObj *self, PyObj *args)
{
    (void)self;
    (void)args;
    if (gs_main_wait() < 0)
        return NULL;
    py.Py_IncRef(py.None);
    return py.None;
}

static struct py_method methods[] = {
    {"attach", attach, PY_METH_VARARGS,
     "attach(region_fd, control_fd, doorbell_fds, app, templates, log_exception)"},
    {"watch", watch, PY_METH_VARARGS,
     "watch(control_fd, signal, format_stacks, request_timeout): before attach"},
    {"serve", serve, PY_METH_VARARGS, "serve(thread, is_main=0): serves until the worker ends"},
    {"leave_signals", leave_signals, PY_METH_NOARGS,
     "leave_signals(): takes the parent's signals back from an app that is imported"},
    {"fork", gs_template_fork, PY_METH_VARARGS,
     "fork(first, control, fds): makes a worker of a template"},
    {"wait", wait_for_end, PY_METH_NOARGS, "wait(): waits until the worker ends"},
    {NULL, NULL, 0, NULL},
};

/* GIL held. The module's execution step: 0, or -1 with an exception set. */
static int execute(PyObj *module)
{
    (void)module;
    if (mark_parent() < 0)
        return -1;
    leave_signals_to_the_parent(); /* before the app's import: a terminal's Ctrl-C comes any time */
    return gs_input_setup() < 0 || gs_start_response_setup() < 0 || gs_extensions_setup() < 0
                   || gs_upgrade_setup() < 0
               ? -1
               : 0;
}

/* What follows the object header in PyModuleDef; the header's size is known at run time only. */
struct module_tail {
    PyObj *(*init)(void);
    ssize_t index;
    PyObj *copy;
    const char *name, *doc;
    ssize_t size;
    struct py_method *methods;
    struct py_slot *slots;
    void *traverse, *clear, *free;
};

#define PY_MOD_EXEC 2
#define PY_MOD_GIL 4 /* since 3.13 */

/* GIL held. CPython's entry point. */
__attribute__((visibility("default"))) PyObj *PyInit__gophersnake(void)
{
    static struct py_slot slots[] = {{PY_MOD_EXEC, (void *)execute}, {0, NULL}, {0, NULL}};

    if (gs_py_load() < 0 || gs_py_learn() < 0)
        return NULL;
    if (py.minor >= 13)
        slots[1] = (struct py_slot){
            PY_MOD_GIL, (void *)1}; /* not used: a free-threaded build keeps its GIL off */
    char *def = calloc(1, py.head_bytes + sizeof(struct module_tail));
    if (!def)
        return py.PyErr_NoMemory();
    struct module_tail *tail = (struct module_tail *)(def + py.head_bytes);
    tail->name = "_gophersnake";
    tail->doc = "the link between this worker and gophersnake";
    tail->methods = methods;
    tail->slots = slots;
    return py.PyModuleDef_Init(def);
}
