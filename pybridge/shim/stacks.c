/* stacks.c: the Python stacks of all threads, for the parent.
 *
 * There are two ways, and the parent tries them in this order:
 *
 *   - An order on the control socket: boot.py's format_stacks runs under the GIL, so that no other
 *     thread moves meanwhile; it knows threads by name and what they run. The report is 'd', the
 *     text, and a NUL.
 *   - A handler that boot.py had the module faulthandler install for a signal of ours. It needs no
 *     GIL. The control thread calls it as faulthandler's own watchdog thread would; while the app
 *     is being imported there is no such thread yet, and the signal itself is sent. The report is
 *     'f', faulthandler's text, and a NUL. CPython's C API has nothing for this:
 *     _Py_DumpTracebackThreads is not exported in 3.10, 3.13 and 3.14.
 *
 * Reports of several threads must not mix on the socket, so each is written under a lock. A signal
 * handler cannot wait for it: it gives up, and the parent asks again. The lock's owners block the
 * signal, so the handler never interrupts one. While it is held nobody is waited for but the
 * parent, which always reads.
 */
#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct {
    _Atomic uint32_t lock;    /* of reports on the control socket */
    _Atomic uint32_t waiting; /* a thread waits for the GIL to format stacks */
    int control, signal;
    void (*dump)(int); /* faulthandler's handler; NULL when there is none */
} stacks;

/* Async-signal-safe. A parent that has gone reads nothing: then nothing is written. */
static void write_all(const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(stacks.control, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        data += n;
        len -= (size_t)n;
    }
}

/* GIL not held, signals blocked. One report, whole. */
void gs_report(const void *data, size_t len)
{
    gs_lock(&stacks.lock);
    write_all(data, len);
    gs_unlock(&stacks.lock);
}

/* GIL held or not. faulthandler tells threads by number only; this line names one of ours, and what
 * it runs. The slot may change meanwhile, so it may hold anything: a NUL would end the report, and
 * the parent would take what follows for the next one. */
static void write_name(const struct context *c)
{
    char line[320];
    int len = snprintf(line, sizeof line, "#0x%016lx ", c->ident);

    if (c->thread.handles_signals)
        len += snprintf(line + len, sizeof line - (size_t)len, "MainThread");
    else
        len += snprintf(line + len, sizeof line - (size_t)len, "gophersnake-%u", c->thread.id + 1);
    if (c->interruptible) {
        int request = len + 1;
        line[len++] = ' ';
        len += (int)gs_request_line(c, line + len);
        for (int i = request; i < len; i++)
            if ((unsigned char)line[i] < ' ')
                line[i] = '?';
    }
    line[len++] = '\n';
    write_all(line, (size_t)len);
}

/* GIL held or not, signals blocked. Reports all stacks without asking for the GIL. */
void gs_stacks_send_raw(void)
{
    if (!stacks.dump)
        return;
    gs_lock(&stacks.lock);
    write_all("f", 1);
    stacks.dump(stacks.signal);
    for (uint32_t i = 0; i < shim.region.head.threads; i++)
        if (shim.contexts[i].ident)
            write_name(&shim.contexts[i]);
    write_all("", 1);
    gs_unlock(&stacks.lock);
}

static void on_signal(int signal)
{
    uint32_t unlocked = 0;
    int saved = errno;

    if (*shim.parent_process && atomic_compare_exchange_strong(&stacks.lock, &unlocked, 1)) {
        write_all("f", 1);
        stacks.dump(signal);
        write_all("", 1);
        gs_unlock(&stacks.lock);
    }
    errno = saved;
}

/* GIL held. Puts our handler around the one that is there now, which is not called by itself. */
static void wrap_handler(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK}, old;

    if (sigaction(stacks.signal, NULL, &old) < 0 || old.sa_handler == on_signal)
        return;
    if (!stacks.dump)
        stacks.dump = old.sa_handler;
    sigaction(stacks.signal, &action, NULL);
}

/* GIL held. From here on the signal makes a report on fd control; faulthandler's handler must be
 * installed for it, and write there too. 0, or -1 when it is not. */
int gs_stacks_setup(int control, int signal)
{
    struct sigaction now;

    stacks.control = control;
    if (!signal)
        return 0;
    if (sigaction(signal, NULL, &now) < 0 || now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)
        return -1;
    stacks.signal = signal;
    wrap_handler();
    return 0;
}

/* GIL held. Takes the signal back, should the app have taken it at its import. */
void gs_stacks_guard_signal(void)
{
    if (stacks.signal && stacks.dump)
        wrap_handler();
}

/* GIL held. What each thread runs: {ident: "GET /path for 12.3 s"}; NULL with an exception set. */
static PyObj *running(void)
{
    PyObj *all = py.PyDict_New();
    uint64_t now = gs_now_ns();

    for (uint32_t i = 0; all && i < shim.region.head.threads; i++) {
        struct context *c = &shim.contexts[i];
        PyObj *line, *ident, *text;
        char bytes[GS_LINE_MAX];
        size_t len = 0;
        unsigned tenths = 0;
        gs_guard(c); /* while it is held, the request does not end and its slot stays as it is */
        if (c->interruptible) {
            len = gs_request_line(c, bytes);
            tenths = (unsigned)((now - c->req.slot->taken_ns) / 100000000u);
        }
        gs_unguard(c);
        if (!len)
            continue;
        line = py.PyUnicode_DecodeLatin1(bytes, (ssize_t)len, NULL);
        ident = py.PyLong_FromSsize_t((ssize_t)c->ident);
        text =
            line ? py.PyUnicode_FromFormat("%U for %u.%u s", line, tenths / 10, tenths % 10) : NULL;
        if (!ident || !text || py.PyDict_SetItem(all, ident, text) < 0)
            py.PyErr_Clear(); /* the stack is worth having without */
        py.Py_DecRef(ident);
        py.Py_DecRef(text);
        py.Py_DecRef(line);
    }
    return all;
}

struct text {
    char *data;
    size_t len;
};

/* GIL held. The stacks as a report in memory that the caller frees; NULL when there is none. */
static void format(void *result)
{
    struct text *t = result;
    PyObj *run = running(), *bytes = NULL;
    ssize_t len;
    char *s;

    atomic_store(&stacks.waiting, 0);
    if (run)
        bytes = py.PyObject_CallFunctionObjArgs(shim.format_stacks, run, NULL);
    if (bytes && py.PyBytes_AsStringAndSize(bytes, &s, &len) == 0
        && (t->data = malloc((size_t)len + 2))) {
        t->data[0] = 'd';
        memcpy(t->data + 1, s, (size_t)len);
        t->data[len + 1] = 0;
        t->len = (size_t)len + 2;
    }
    if (!t->data && shim.format_stacks)
        py.PyErr_WriteUnraisable(shim.format_stacks);
    py.Py_DecRef(bytes);
    py.Py_DecRef(run);
}

/* GIL not held; taken and let go. Reports all stacks to the parent, unless another thread is about
 * to: while the GIL is held for long, orders would pile up. */
void gs_stacks_send(void)
{
    struct text t = {NULL, 0};

    if (!shim.format_stacks || atomic_exchange(&stacks.waiting, 1))
        return;
    gs_with_gil(format, &t);
    if (t.data)
        gs_report(t.data, t.len);
    free(t.data);
}
