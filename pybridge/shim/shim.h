/* shim.h: what the Python side of the shim shares between its files. */
#ifndef GS_SHIM_H
#define GS_SHIM_H

#include "lane.h"
#include "pool.h"
#include "py.h"

#define GS_TEMPLATES_MAX 64u
#define GS_HEAD_BYTES_MAX (1u << 20) /* an app's response head above this is refused: 500 */
#define GS_FILE_BYTES_MIN 65536      /* shorter files are read: passing one costs more */
#define GS_VALUE_CACHE_MAX 128u      /* longer values are not kept */

/* 1 makes a plain pool, which `bench pool` compares ours with: whoever is rung serves at once, and
 * lets go of the GIL after each request. No product is built so. */
#ifndef GS_PLAIN
#define GS_PLAIN 0
#endif

/* One header name that is known: its environ key, and the last value seen under it. */
struct name {
    uint32_t hash;
    uint16_t len;
    uint8_t joins_by_semicolon; /* Cookie, RFC 6265 §5.4; others by a comma, RFC 9110 §5.3 */
    uint8_t value_len;
    uint32_t seen_in; /* `use` of the request that had it last: finds repeats */
    PyObj *key;
    PyObj *value;
    char bytes[64]; /* lower case */
    char value_bytes[GS_VALUE_CACHE_MAX];
};

#define GS_NAMES_MAX 512u
#define GS_NAME_BUCKETS 1024u

/* Names and values seen before. One for all threads under the GIL; one a thread on free-threaded
 * builds. */
struct cache {
    struct name names[GS_NAMES_MAX];
    uint16_t bucket[GS_NAME_BUCKETS]; /* 1 + index into names, 0 empty; linear probing */
    uint32_t count;
    struct name addr, method; /* last values outside the headers; no key */
    int64_t date_second;      /* the second that date[] tells */
    char date[64];            /* "Date: ...", then "Server: ...", each with its CR LF */
    PyObj *templates[GS_TEMPLATES_MAX];
};

enum response_state {
    RESPONSE_NONE,    /* start_response was not called */
    RESPONSE_STARTED, /* status and headers are in head[] and may still be replaced */
    RESPONSE_FAILED,  /* start_response refused its arguments: only exc_info leads out of it */
    RESPONSE_SENT,    /* the head is on its way */
};

/* The one request a thread works on. `use` tells objects that apps kept from those of this request.
 */
struct request {
    uint32_t use;
    uint32_t lane, slot_no, generation;
    struct slot *slot;
    enum response_state state;
    int status;
    int bodiless; /* HEAD, 204, 304: no body on the wire */
    int chunked;
    int close;                /* the connection closes after this answer */
    int ended;                /* the loop was told that the answer is whole */
    int aborted;              /* the response is not whole */
    int app_date, app_server; /* the app set its own */
    int64_t length;           /* Content-Length, or -1 */
    int64_t sent;             /* body bytes taken from the app so far */
    char *head;               /* status line and headers; framing is appended when they are sent */
    uint32_t head_len, head_cap;
    char *block; /* the open block in the response ring, or NULL */
    uint32_t block_off, block_len, block_cap;
    const char *body; /* the request's whole body */
    size_t body_len;
    int body_fd;     /* of a body in a file, or -1 */
    PyObj *socket;   /* of an upgrade: the client's socket as the app sees it, or NULL */
    int body_mapped; /* body is a mapped file, unmapped at the end */
};

struct context {
    struct thread thread; /* the pool's part */
    struct request req;
    struct outlet outlet[GS_LANES_MAX];
    struct cache *cache;
    struct moulds *moulds;         /* mould.c's; NULL before the first request */
    PyObj *start_response, *write; /* of the last request: used again if the app let go of them */
    uint32_t next_lane;
    _Atomic unsigned long ident; /* what Python calls the thread; 0 before it serves */
    uint32_t gil_us; /* waited for the GIL since the last request; on account of the next one */
    /* Under the GIL, and on free-threaded builds under the guard: see interrupt.c. */
    _Atomic uint32_t guard;
    int interruptible, interrupted;
};

/* One process: set up once by attach(), then read only but for the pool's and caches' own fields.
 */
struct shim {
    struct region region;
    struct pool pool;
    struct context *contexts; /* [threads] */
    PyObj *app, *log_exception;
    PyObj *file_wrapper, *plain_file; /* boot.py's class, and its look at an instance */
    PyObj *client_socket;             /* boot.py: makes a socket object of a descriptor */
    PyObj *templates[GS_TEMPLATES_MAX];
    uint32_t template_count;
    _Atomic uint32_t turn; /* the taker's turn on free-threaded builds; the GIL serves elsewhere */
    _Atomic uint32_t *parent_process; /* reads 0 in a forked child (MADV_WIPEONFORK) */
    int control;
    struct cache *shared_cache;
    PyObj *request_timeout; /* boot.py: the class of an exception that ends a request; or NULL */
    PyObj *format_stacks;   /* boot.py: all stacks as bytes; or NULL */
};

extern struct shim shim;

/* GIL held or not. 1 in a child that the app has forked: it has no lanes. */
static inline int gs_in_child(void)
{
    return *shim.parent_process == 0;
}

/* gil.c: the only place where the GIL is let go and taken, and where a thread waits. */
int gs_serve(struct context *c);
int gs_wait_for_room(struct context *c);
int gs_main_wait(void);
void gs_with_gil(void (*f)(void *), void *arg);
void gs_turn_take(void);
void gs_turn_give(void);

/* environ.c */
int gs_environ_setup(PyObj *templates);
struct cache *gs_cache_new(void);
PyObj *gs_environ_new(struct context *c);

/* input.c, start_response.c: types whose objects belong to a request. */
int gs_input_setup(void);
PyObj *gs_input_new(struct context *c);
int gs_input_renew(PyObj *input, struct context *c);
int gs_input_open(struct context *c);
void gs_input_close(struct context *c);
int gs_start_response_setup(void);
PyObj *gs_start_response_new(struct context *c);

int gs_send_hints(struct context *c, PyObj *headers);

/* handle.c, extensions.c */
PyObj *gs_handle_type(const char *name, PyObj *(*call)(PyObj *, PyObj *, PyObj *));
PyObj *gs_handle_new(PyObj *type, struct context *c);
PyObj *gs_handle_again(PyObj **kept, PyObj *type, struct context *c);
int gs_handle_renew(PyObj *handle, struct context *c);
int gs_only_mine(PyObj *o);
struct context *gs_handle_context(PyObj *self, const char *what);
int gs_extensions_setup(void);

/* upgrade.c: the client's own socket for an app that asks for it. */
int gs_upgrade_setup(void);
int gs_upgrade_add(struct context *c, PyObj *env);
int gs_upgrade_taken(const struct context *c);
void gs_upgrade_close(struct context *c);

/* response.c: from the app's blocks to the lane. */
void gs_response_reset(struct context *c);
int gs_head_append(struct request *r, const char *s, size_t len);
int gs_head_field(struct request *r, const char *name, size_t name_len, const char *value,
                  size_t value_len);
int gs_response_block(struct context *c, const char *data, size_t len, int more, int64_t whole);
int gs_response_file(struct context *c, int fd, int64_t offset, int64_t length);
int gs_response_end(struct context *c);
int gs_response_interim(struct context *c, const char *data, size_t len);
void gs_response_ended(struct context *c);
void gs_response_last(struct context *c);
void gs_response_error(struct context *c);
void gs_response_abort(struct context *c);

/* template.c: the forks of --preload. */
PyObj *gs_template_fork(PyObj *self, PyObj *args);

/* request.c */
void gs_request_run(struct context *c);

#define GS_LINE_MAX 256u /* of a request line in stack dumps */
size_t gs_request_line(const struct context *c, char *line);

/* control.c */
int gs_control_start(int fd);
int gs_spawn(void *(*main)(void *), void *arg);

/* stacks.c: what the threads do, for the parent. */
int gs_stacks_setup(int control, int signal);
void gs_stacks_guard_signal(void);
void gs_stacks_send(void);
void gs_stacks_send_raw(void);
void gs_report(const void *data, size_t len);

/* interrupt.c: an exception in the thread that runs one particular request. */
void gs_interrupt(uint32_t lane, uint32_t slot, uint32_t generation);
void gs_guard(struct context *c);
void gs_unguard(struct context *c);
void gs_interruptible(struct context *c);
void gs_uninterruptible(struct context *c);

#endif
