/* template.c: a process that has imported the app and forks the workers (--preload).
 *
 * A worker shall be a child of the server, as any other: its end is then told to the server, and
 * the end of the template is nothing to it. So there are two forks:
 *
 *   template ── middle ── worker
 *
 * 1. The middle process sends the worker's number on the orders socket and waits for one byte:
 *    the server has hold of the worker (a pidfd) while no one can have reaped it yet.
 * 2. The middle process ends, so the kernel gives the worker to the nearest subreaper, the server.
 * 3. The template has waited for the middle process and says so (boot/template.py). Only now is the
 *    worker surely the server's; one byte on the worker's control socket lets it go on.
 *
 * What is said on the orders socket is an int32_t: a worker's number, an errno value with a minus
 * where a fork failed, or 0 when the middle process is gone.
 *
 * Python takes it for one fork: the functions of os.register_at_fork run once on each side, those
 * of the child when the worker has its own descriptors. The middle process runs nothing of Python.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define GS_ORDER_FDS_MAX 253 /* SCM_MAX_FD: what one message carries */

struct order {
    int first;   /* number of the first descriptor to be replaced; the orders socket */
    int control; /* number of the control socket */
    int count;
    int fds[GS_ORDER_FDS_MAX]; /* the worker's own, for first and up; the last is its output */
};

/* GIL held, like all that follows. The middle process: says what became of the second fork. It has
 * no thread but this one, so nothing but system calls is safe. */
static void tell_and_end(int orders, pid_t pid)
{
    int32_t said = pid < 0 ? -errno : pid;
    char go;

    if (write(orders, &said, sizeof said) == (ssize_t)sizeof said && said > 0)
        while (read(orders, &go, 1) < 0 && errno == EINTR)
            continue;
    _exit(0);
}

/* GIL held. The worker: puts its descriptors where the template's were. */
static void take_places(const struct order *o)
{
    int output = o->fds[o->count - 1];

    for (int i = 0; i < o->count - 1; i++) {
        dup3(o->fds[i], o->first + i, O_CLOEXEC);
        close(o->fds[i]);
    }
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    close(output);
}

/* GIL held; no other thread is there to want it. The worker: returns when it is the server's child.
 * Until attach() the server's end would go unnoticed, for the app's functions at fork may hang: the
 * kernel shall end us then. Its signal could not be asked for earlier: it would have come with the
 * end of the middle process. */
static void await_adoption(int control)
{
    char go;
    ssize_t n;

    while ((n = read(control, &go, 1)) < 0 && errno == EINTR)
        continue;
    if (n != 1)
        _exit(1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (recv(control, &go, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
        _exit(1); /* the server died before prctl */
}

/* GIL held. 0, or -1 with an exception set. */
static int read_order(PyObj *args, struct order *o)
{
    PyObj *fds;

    if (!py.PyArg_ParseTuple(args, "iiO:fork", &o->first, &o->control, &fds))
        return -1;
    o->count = (int)py.PyList_Size(fds);
    if (o->count < 3 || o->count > GS_ORDER_FDS_MAX) {
        py.PyErr_Format(py.ValueError, "%d descriptors are not those of a worker", o->count);
        return -1;
    }
    for (int i = 0; i < o->count; i++)
        o->fds[i] = (int)py.PyLong_AsSsize_t(py.PyList_GetItem(fds, i));
    return 0;
}

/* GIL held. fork(first, control, fds): 0 in the worker; in the template the number of the middle
 * process, which must be waited for. NULL with an exception set. */
PyObj *gs_template_fork(PyObj *self, PyObj *args)
{
    struct order o;
    pid_t middle, worker;
    sigset_t all, old;

    (void)self;
    if (read_order(args, &o) < 0)
        return NULL;
    py.PyOS_BeforeFork();
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old); /* no handler runs in the middle process */
    middle = fork();
    if (middle == 0) {
        worker = fork();
        if (worker != 0)
            tell_and_end(o.first, worker);
        *shim.parent_process = 1; /* wiped by the fork, as for children of the app */
        sigprocmask(SIG_SETMASK, &old, NULL);
        take_places(&o);
        await_adoption(o.control);
        py.PyOS_AfterFork_Child();
        return py.PyLong_FromLong(0);
    }
    int err = errno;
    sigprocmask(SIG_SETMASK, &old, NULL);
    py.PyOS_AfterFork_Parent();
    if (middle > 0)
        return py.PyLong_FromLong(middle);
    errno = err;
    return py.PyErr_SetFromErrno(py.OSError);
}
