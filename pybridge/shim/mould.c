/* mould.c: environs that are like the ones before.
 *
 * A client sends the same header names in the same order again and again, and mostly the same
 * values; so do all clients of one kind, or behind one proxy. A mould is the environ of an earlier
 * request, as it was before the app saw it, with the bytes it was made of. A request with the same
 * names puts what differs into the mould, and its environ is a copy. So a field that is as before
 * costs the comparison of its bytes, and no insertion.
 *
 *   - A mould belongs to one thread: what PyDict_Copy may start (a collection, and so any code of
 *     the app, and so other threads) finds another mould, or none.
 *   - The keys of a mould's dict are the same all its life; requests of other keys have other
 *     moulds, or none. A mould that could not be brought up to date is forgotten.
 *   - What belongs to the request alone (wsgi.input, the extensions) is used again only if the
 *     mould alone holds it. Else the app has kept it: it stays what it was, and refuses.
 *   - A mould is never given to the app.
 */
#define _GNU_SOURCE
#include "environ.h"

#include <stdlib.h>

#define GS_MOULDS_MAX 8u         /* a thread */
#define GS_MOULD_HEADERS_MAX 32u /* requests with more have no mould */
#define GS_MOULD_NAME_MAX 51u    /* bytes; likewise for longer names */
#define GS_MOULD_PAUSE 8u /* requests at least between two that make one, which costs an environ */
#define GS_MOULD_ROOM 8u  /* keys that an app can add before its environ has to grow */
#define NOT_KEPT UINT32_MAX /* as value_len: matches no value */

/* A header, or another part of the request, and the value that the dict has for it. */
struct field {
    PyObj *key;
    uint32_t value_len;
    uint8_t name_len;
    char name[GS_MOULD_NAME_MAX]; /* as on the wire */
    char value[GS_VALUE_CACHE_MAX];
};

_Static_assert(offsetof(struct field, value) == 64, "a field begins with one cache line");

struct mould {
    uint32_t shape;
    int used; /* since the last search for one to replace */
    uint32_t header_count, listener, http10;
    uint16_t port; /* 0: the environ has no REMOTE_PORT */
    PyObj *dict;
    struct belongings own;
    struct field method, addr, target, path, query;
    struct field header[GS_MOULD_HEADERS_MAX];
};

struct moulds {
    struct mould *mould[GS_MOULDS_MAX]; /* NULL, or with a dict */
    uint32_t next;                      /* to be replaced */
    uint32_t made;                      /* `use` of the request that made the last one */
};

static uint64_t word_at(const char *s)
{
    uint64_t w;

    memcpy(&w, s, sizeof w);
    return w;
}

/* 1 when the bytes are equal. They are few: a call of memcmp costs more than most of them. */
static int same_bytes(const char *a, const char *b, uint32_t len)
{
    if (len > 64)
        return !memcmp(a, b, len);
    if (len < 8) {
        for (uint32_t i = 0; i < len; i++)
            if (a[i] != b[i])
                return 0;
        return 1;
    }
    for (uint32_t i = 0; i + 8 < len; i += 8)
        if (word_at(a + i) != word_at(b + i))
            return 0;
    return word_at(a + len - 8) == word_at(b + len - 8);
}

static const struct header *headers_of(const struct slot *s)
{
    return (const struct header *)((const char *)s + s->headers_off);
}

/* A number that is the same for requests with the same names; others differ in most cases. */
static uint32_t shape_of(const struct slot *s)
{
    const struct header *h = headers_of(s);
    uint32_t shape = s->header_count;

    for (uint32_t i = 0; i < s->header_count; i++)
        shape = shape * 31 + h[i].name.len;
    return shape;
}

static int holds(const struct field *f, const struct slot *s, struct span value)
{
    return f->value_len == value.len
           && same_bytes(f->value, (const char *)s + value.off, value.len);
}

static void note_value(struct field *f, const struct slot *s, struct span value)
{
    f->value_len = value.len <= sizeof f->value ? value.len : NOT_KEPT;
    if (f->value_len != NOT_KEPT)
        memcpy(f->value, (const char *)s + value.off, value.len);
}

/* GIL held. Gives one field another value; 0, or -1 with an exception set. */
static int set_field(PyObj *dict, struct field *f, const struct slot *s, struct span value)
{
    PyObj *v = py.PyUnicode_DecodeLatin1((const char *)s + value.off, value.len, NULL);
    int rc = v ? py.PyDict_SetItem(dict, f->key, v) : -1;
    py.Py_DecRef(v);
    note_value(f, s, value);
    return rc;
}

/* GIL held. Brings one field up to date; 0, or -1 with an exception set. */
static inline int update(PyObj *dict, struct field *f, const struct slot *s, struct span value)
{
    return holds(f, s, value) ? 0 : set_field(dict, f, s, value);
}

/* GIL held. Brings the target up to date, which stands under two keys, or (without escapes and
 * query) under three; 0, or -1 with an exception set. */
static int set_target(struct mould *m, const struct slot *s)
{
    int same = s->path.off == s->target.off && s->path.len == s->target.len;

    if (!holds(&m->target, s, s->target)) {
        PyObj *v = py.PyUnicode_DecodeLatin1((const char *)s + s->target.off, s->target.len, NULL);
        int rc = v && py.PyDict_SetItem(m->dict, gs_keys[K_RAW_URI], v) == 0
                         && py.PyDict_SetItem(m->dict, gs_keys[K_REQUEST_URI], v) == 0
                         && (!same || py.PyDict_SetItem(m->dict, gs_keys[K_PATH], v) == 0)
                     ? 0
                     : -1;
        py.Py_DecRef(v);
        note_value(&m->target, s, s->target);
        if (same)
            note_value(&m->path, s, s->path);
        if (rc < 0 || same)
            return rc;
    }
    return update(m->dict, &m->path, s, s->path);
}

/* GIL held. Brings all but the headers up to date; 0, or -1 with an exception set. */
static int set_rest(struct context *c, struct mould *m)
{
    const struct slot *s = c->req.slot;

    if (update(m->dict, &m->method, s, s->method) < 0
        || update(m->dict, &m->addr, s, s->remote_addr) < 0
        || update(m->dict, &m->query, s, s->query) < 0 || set_target(m, s) < 0)
        return -1;
    if (m->port != s->remote_port && gs_environ_set_port(m->dict, s->remote_port) < 0)
        return -1;
    m->port = s->remote_port;
    if (!gs_input_renew(m->own.input, c) && gs_environ_set_input(c, m->dict, &m->own.input) < 0)
        return -1;
    return gs_extensions_renew(c, m->dict, &m->own);
}

/* GIL held. Brings a mould up to date: 1; 0 when it is one of other requests (what was changed is
 * changed in its bytes, too); -1 with an exception set. */
static int fit(struct context *c, struct mould *m)
{
    const struct slot *s = c->req.slot;
    const struct header *h = headers_of(s);

    if (m->header_count != s->header_count || m->listener != s->listener
        || m->http10 != (s->flags & REQ_HTTP10) || !m->port != !s->remote_port)
        return 0;
    for (uint32_t i = 0; i < m->header_count; i++) {
        struct field *f = &m->header[i];
        if (f->name_len != h[i].name.len
            || !same_bytes(f->name, (const char *)s + h[i].name.off, f->name_len))
            return 0;
        if (update(m->dict, f, s, h[i].value) < 0)
            return -1;
    }
    return set_rest(c, m) < 0 ? -1 : 1;
}

/* GIL held. The keys of the headers: 0, or -1 when there are too many, when a name is too long, or
 * when two have the same key. */
static int find_keys(struct context *c, PyObj **key)
{
    const struct slot *s = c->req.slot;
    const struct header *h = headers_of(s);

    if (s->header_count > GS_MOULD_HEADERS_MAX)
        return -1;
    for (uint32_t i = 0; i < s->header_count; i++) {
        if (h[i].name.len > GS_MOULD_NAME_MAX)
            return -1;
        key[i] = gs_environ_key(c, (const char *)s + h[i].name.off, h[i].name.len);
        for (uint32_t j = 0; j < i; j++)
            if (key[j] == key[i])
                return -1;
        if (!key[i])
            return -1;
    }
    return 0;
}

/* Notes the headers and their keys. */
static void note_headers(struct mould *m, const struct slot *s, PyObj *const *key)
{
    const struct header *h = headers_of(s);

    m->header_count = s->header_count;
    for (uint32_t i = 0; i < s->header_count; i++) {
        struct field *f = &m->header[i];
        f->key = key[i];
        f->name_len = (uint8_t)h[i].name.len;
        memcpy(f->name, (const char *)s + h[i].name.off, h[i].name.len);
        note_value(f, s, h[i].value);
    }
}

/* Notes the rest of the request. */
static void note_rest(struct mould *m, const struct slot *s)
{
    m->method.key = gs_keys[K_METHOD];
    m->addr.key = gs_keys[K_ADDR];
    m->path.key = gs_keys[K_PATH];
    m->query.key = gs_keys[K_QUERY];
    note_value(&m->method, s, s->method);
    note_value(&m->addr, s, s->remote_addr);
    note_value(&m->target, s, s->target);
    note_value(&m->path, s, s->path);
    note_value(&m->query, s, s->query);
    m->listener = s->listener;
    m->http10 = s->flags & REQ_HTTP10;
    m->port = s->remote_port;
}

/* GIL held. */
static void forget(struct mould **m)
{
    if (*m)
        py.Py_DecRef((*m)->dict);
    free(*m);
    *m = NULL;
}

/* GIL held. A mould of the thread's request; NULL without an exception when it can have none, or
 * with one set. */
static struct mould *make(struct context *c, uint32_t shape)
{
    const struct slot *s = c->req.slot;
    PyObj *template = gs_environ_template(c), *key[GS_MOULD_HEADERS_MAX];
    uint32_t room = (uint32_t)py.PyDict_Size(template) + K_COUNT + 2 + s->header_count;
    struct mould *m = find_keys(c, key) == 0 ? calloc(1, sizeof *m) : NULL;

    if (!m)
        return NULL; /* without memory, too, there is a way to make the environ */
    m->shape = shape;
    note_headers(m, s, key);
    note_rest(m, s);
    m->dict = gs_environ_presized(template, room + GS_MOULD_ROOM);
    if (!m->dict || gs_environ_fill(c, m->dict, &m->own) < 0)
        forget(&m);
    return m;
}

/* GIL held. The place for another mould: an empty one, or one that was not used of late. */
static struct mould **place(struct moulds *all)
{
    for (;;) {
        struct mould **m = &all->mould[all->next];
        all->next = (all->next + 1) % GS_MOULDS_MAX;
        if (!*m || !(*m)->used)
            return m;
        (*m)->used = 0;
    }
}

/* GIL held. Finds the place of the mould for the thread's request and brings that up to date: 1; 0
 * when there is none; -1 with an exception set. */
static int find(struct context *c, uint32_t shape, struct mould ***found)
{
    for (uint32_t i = 0; i < GS_MOULDS_MAX; i++) {
        struct mould **m = *found = &c->moulds->mould[i];
        int rc = *m && (*m)->shape == shape ? fit(c, *m) : 0;
        if (rc < 0)
            forget(m);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* GIL held. The environ of the thread's request, a new reference: 1; 0 when there is no mould for
 * it; -1 with an exception set. */
int gs_mould_cast(struct context *c, PyObj **env)
{
    uint32_t shape = shape_of(c->req.slot);
    struct mould **m;

    if (!c->moulds) {
        if (!(c->moulds = calloc(1, sizeof *c->moulds)))
            return 0;
        c->moulds->made = c->req.use - 2 * GS_MOULD_PAUSE; /* the first request makes one */
    }
    int rc = find(c, shape, &m);
    /* `use` grows by two a request. */
    if (rc == 0 && c->req.use - c->moulds->made >= 2 * GS_MOULD_PAUSE) {
        c->moulds->made = c->req.use;
        m = place(c->moulds);
        forget(m);
        *m = make(c, shape);
        rc = *m ? 1 : py.PyErr_Occurred() ? -1 : 0;
    }
    if (rc <= 0)
        return rc;
    (*m)->used = 1;
    *env = py.PyDict_Copy((*m)->dict);
    return *env ? 1 : -1;
}
