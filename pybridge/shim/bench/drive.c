/* drive.c: plays the Go side of one lane, on the shim's own thread, so that what a request costs
 * in a worker can be measured to the instruction.
 *
 * It is loaded with LD_PRELOAD before the C library and stands in for syscall(3), by which the
 * shim sleeps when its lane is empty. Instead of sleeping, that call does here what a loop does: it
 * takes and acknowledges the replies, publishes the next batch of requests and returns, as if the
 * thread had been woken. Nothing of the shim is changed or left out, there is no second thread
 * whose pace matters, and a batch spends its time in nothing but requests (and, once, the way into
 * and out of the park). What is missing against a real server: the cache misses on lines that the
 * loop's core has written.
 *
 * A program that is never measured so sees a plain syscall(3).
 *
 * drive_bare() is the floor: the app called in a loop of C with one environ and a start_response
 * that does nothing, no lanes.
 */
#define _GNU_SOURCE
#include "../lane.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else /* times only */
#define CALLGRIND_START_INSTRUMENTATION
#define CALLGRIND_TOGGLE_COLLECT
#endif

#define PUBLIC __attribute__((visibility("default")))
#define DRIVE_BATCH 64u /* requests published at once: as many as a lane of few threads holds */
#define DRIVE_BATCHES_MAX 1000000u
#define DRIVE_REPLIES 256u /* no thread ever waits for an acknowledgement */
#define DRIVE_WARM 8u      /* batches before the first one that counts */
/* As far apart as slots of a server with default limits (region.go), so that pages count. */
#define DRIVE_SLOT_BYTES (1025u * GS_LINE)

static __thread int driving; /* this thread's sleeps are turns of the driver */

static struct {
    struct region region;
    uint32_t batches, turns, generation;
    int control; /* the end by which the shim is told to quit */
    uint64_t began;
    uint64_t *took; /* [batches] nanoseconds */
} drive;

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *why)
{
    dprintf(2, "drive: %s\n", why);
    _exit(1);
}

/* The next part of a lane, at a page of its own. */
static uint32_t place(uint32_t *at, uint32_t bytes)
{
    uint32_t off = *at;

    *at = (*at + bytes + 4095u) & ~4095u;
    return off;
}

static struct region_head layout(void)
{
    struct region_head h = {
        .magic = GS_MAGIC,
        .version = GS_VERSION,
        .lanes = 1,
        .threads = 1,
        .slots = DRIVE_BATCH,
        .slot_bytes = DRIVE_SLOT_BYTES,
        .replies = DRIVE_REPLIES,
        .replies_per_thread = DRIVE_REPLIES,
        .arena_bytes = 0,
        .response_bytes = 4 * GS_BLOCK_MAX,
        .lanes_off = GS_WAKE_OFF + 4096u,
    };
    uint32_t at = 4096;

    h.requests_off = place(&at, h.slots * sizeof(uint32_t));
    h.replies_off = place(&at, h.replies * sizeof(struct reply));
    h.slots_off = place(&at, h.slots * h.slot_bytes);
    h.arena_off = place(&at, h.arena_bytes);
    h.responses_off = place(&at, h.response_bytes);
    h.lane_bytes = at;
    return h;
}

/* Copies text into the slot at *at. */
static struct span put(struct slot *s, uint32_t *at, const char *text)
{
    struct span here = {*at, (uint32_t)strlen(text)};

    memcpy((char *)s + *at, text, here.len);
    *at += here.len;
    return here;
}

/* Writes GET / with the given fields (name, value, name, ..., NULL) into a slot. */
static void write_request(struct slot *s, const char *const *fields)
{
    struct header *h = (struct header *)(s + 1);
    uint32_t count = 0, at;

    while (fields[2 * count])
        count++;
    at = (uint32_t)((char *)(h + count) - (char *)s);
    s->flags = REQ_KEEP_ALIVE;
    s->remote_port = 40000;
    s->header_count = count;
    s->headers_off = sizeof *s;
    for (uint32_t i = 0; i < count; i++) {
        h[i].name = put(s, &at, fields[2 * i]);
        h[i].value = put(s, &at, fields[2 * i + 1]);
    }
    s->method = put(s, &at, "GET");
    s->target = s->path = put(s, &at, "/");
    s->query = (struct span){at, 0};
    s->remote_addr = put(s, &at, "127.0.0.1");
}

/* Makes the region; returns its descriptor. fields: of each request. The shim quits after
 * `batches` measured ones, told by `control`. */
PUBLIC int drive_prepare(const char *const *fields, uint32_t batches, int control)
{
    struct region_head h = layout();
    size_t bytes = h.lanes_off + h.lane_bytes;
    int doorbell = -1, fd = memfd_create("drive", 0);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 || pwrite(fd, &h, sizeof h, 0) != sizeof h)
        fail("no memory for a region");
    if (gs_region_attach(&drive.region, fd, &doorbell, 1) < 0)
        fail("the region is not as lane.h wants it");
    for (uint32_t i = 0; i < h.slots; i++)
        write_request(gs_slot(&drive.region, &drive.region.lane[0], i), fields);
    if (batches == 0 || batches > DRIVE_BATCHES_MAX)
        fail("batches are from 1 to 1000000");
    drive.batches = batches;
    drive.took = calloc(batches, sizeof *drive.took);
    if (!drive.took)
        fail("no memory for times");
    drive.control = control;
    return fd;
}

/* From here on the calling thread's sleeps are turns. */
PUBLIC void drive_begin(void)
{
    driving = 1;
}

/* Takes the replies to a batch: each is the whole answer, 200, to a request of this batch. */
static void take_replies(struct lane *l, uint32_t answered)
{
    if (atomic_load(l->rep_tail) != answered)
        fail("not every request has exactly one reply");
    for (uint32_t i = answered - DRIVE_BATCH; i != answered; i++) {
        const struct reply *r = &l->replies[i % DRIVE_REPLIES];
        if (r->status != 200 || !(r->flags & REPLY_LAST) || r->len == 0
            || r->generation != drive.generation)
            fail("an answer is not the app's 200");
    }
    atomic_store(&gs_ack(l, 0)->count, answered);
}

static void publish(struct lane *l)
{
    uint32_t tail = atomic_load(l->req_tail);

    drive.generation++;
    for (uint32_t i = 0; i < DRIVE_BATCH; i++) {
        struct slot *s = gs_slot(&drive.region, l, i);
        atomic_store(&s->gone, 0);
        atomic_store(&s->state, drive.generation << SLOT_GENERATION_SHIFT | SLOT_QUEUED);
        atomic_store(&l->requests[(tail + i) % DRIVE_BATCH], i);
    }
    atomic_store(l->req_tail, tail + DRIVE_BATCH);
    if (atomic_exchange(drive.region.bell, 0))
        atomic_fetch_add(gs_wake_word(&drive.region, 0), 1);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Prints nanoseconds a request: the batches' median and least. */
static void report(const char *what, uint64_t *took, uint32_t n)
{
    qsort(took, n, sizeof *took, by_value);
    printf("%s %.1f %.1f\n", what, (double)took[n / 2] / DRIVE_BATCH,
           (double)took[0] / DRIVE_BATCH);
    fflush(stdout);
}

/* The shim has served a batch, or is here for the first time. 0 when there is a next one. */
static int turn(void)
{
    struct lane *l = &drive.region.lane[0];
    uint64_t now = now_ns();
    uint32_t n = drive.turns++;

    if (n > DRIVE_WARM)
        CALLGRIND_TOGGLE_COLLECT;
    if (n > 0)
        take_replies(l, n * DRIVE_BATCH);
    if (n > DRIVE_WARM)
        drive.took[n - DRIVE_WARM - 1] = now - drive.began;
    if (n == DRIVE_WARM + drive.batches) {
        report("shim", drive.took, drive.batches);
        driving = 0;
        return write(drive.control, "q", 1) == 1 ? -1 : (fail("control"), -1);
    }
    publish(l);
    if (n == DRIVE_WARM)
        CALLGRIND_START_INSTRUMENTATION;
    if (n >= DRIVE_WARM)
        CALLGRIND_TOGGLE_COLLECT;
    drive.began = now_ns();
    return 0;
}

/* In place of the C library's. */
PUBLIC long syscall(long number, ...)
{
    static long (*next)(long, ...);
    long a[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (driving && number == SYS_futex && (int)a[1] == FUTEX_WAIT && turn() == 0)
        return 0;
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

typedef struct PyObj PyObj;

struct py_method {
    const char *name;
    PyObj *(*call)(PyObj *, PyObj *);
    int flags;
    const char *doc;
};

#define PY_METH_VARARGS 1

/* What the loop needs of the interpreter it runs in. */
struct interpreter {
    PyObj *(*vectorcall)(PyObj *, PyObj *const *, size_t, PyObj *); /* NULL before 3.9 or in it */
    PyObj *(*call)(PyObj *, ...);
    PyObj *(*new_function)(struct py_method *, PyObj *, PyObj *);
    PyObj *none;
    void (*incref)(PyObj *), (*decref)(PyObj *);
};

static struct interpreter py;

static int load_interpreter(void)
{
    py.vectorcall = dlsym(RTLD_DEFAULT, "PyObject_Vectorcall");
    py.call = dlsym(RTLD_DEFAULT, "PyObject_CallFunctionObjArgs");
    py.new_function = dlsym(RTLD_DEFAULT, "PyCFunction_NewEx");
    py.none = dlsym(RTLD_DEFAULT, "_Py_NoneStruct");
    py.incref = dlsym(RTLD_DEFAULT, "Py_IncRef");
    py.decref = dlsym(RTLD_DEFAULT, "Py_DecRef");
    return py.call && py.new_function && py.none && py.incref && py.decref ? 0 : -1;
}

/* GIL held. A start_response that does nothing. */
static PyObj *start_nothing(PyObj *self, PyObj *args)
{
    (void)self, (void)args;
    py.incref(py.none);
    return py.none;
}

/* GIL held. Calls the app a batch of times; 0, or -1 with an exception set. */
static int call_batch(PyObj *app, PyObj *environ, PyObj *start)
{
    PyObj *args[] = {environ, start};

    for (uint32_t i = 0; i < DRIVE_BATCH; i++) {
        PyObj *result =
            py.vectorcall ? py.vectorcall(app, args, 2, NULL) : py.call(app, environ, start, NULL);
        if (!result)
            return -1;
        py.decref(result);
    }
    return 0;
}

/* GIL held. Measures so many batches of calls of the app; 0, or -1 when the interpreter cannot, or
 * the app raised. */
PUBLIC int drive_bare(PyObj *app, PyObj *environ, uint32_t batches)
{
    static struct py_method def = {"start_response", start_nothing, PY_METH_VARARGS, ""};
    uint64_t *took = calloc(batches, sizeof *took);

    if (!took || load_interpreter() < 0)
        return -1;
    PyObj *start = py.new_function(&def, NULL, NULL);
    for (uint32_t n = 0; n < DRIVE_WARM; n++)
        if (!start || call_batch(app, environ, start) < 0)
            return -1;
    CALLGRIND_START_INSTRUMENTATION;
    for (uint32_t n = 0; n < batches; n++) {
        CALLGRIND_TOGGLE_COLLECT;
        uint64_t began = now_ns();
        if (call_batch(app, environ, start) < 0)
            return -1;
        took[n] = now_ns() - began;
        CALLGRIND_TOGGLE_COLLECT;
    }
    report("bare", took, batches);
    return 0;
}
