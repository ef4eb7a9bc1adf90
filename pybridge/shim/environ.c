/* environ.c: from a request's slot to a fresh environ dict (PEP 3333 "environ Variables").
 *
 * Clients repeat themselves: most environs are copies of the last one with the same headers
 * (mould.c). For others, what is constant for a listener (wsgi.*, SERVER_NAME, ...) stands in a
 * template dict that is copied; the rest is set by interned keys. Header names lead to their HTTP_
 * key by a hash table on the wire name, and the last value under each name is kept. A fresh str for
 * every key and value would cost three times as much.
 */
#define _GNU_SOURCE
#include "environ.h"
#include "head.h"

#include <stdlib.h>

__attribute__((visibility("hidden"))) PyObj *gs_keys[K_COUNT];
static PyObj *empty, *protocol10, *protocol11;

static const char *const known_names[] = {
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cache-control",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ipcountry",
    "cf-ray",
    "cf-visitor",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "expect",
    "fly-client-ip",
    "forwarded",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "save-data",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-fetch-dest",
    "sec-fetch-mode",
    "sec-fetch-site",
    "sec-fetch-user",
    "sec-gpc",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-csrftoken",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-request-start",
    "x-requested-with",
};

/* Lower case of the ASCII letters among eight bytes; other bytes as they are. */
static uint64_t lower_word(uint64_t w)
{
    const uint64_t each = 0x0101010101010101u;
    uint64_t seven = w & each * 0x7f; /* no sum below carries into the next byte */
    uint64_t from_a = seven + each * (0x80 - 'A'), past_z = seven + each * (0x7f - 'Z');

    return w | ((~w & (from_a ^ past_z) & each * 0x80) >> 2);
}

/* Writes s in lower case to `to`, which has room for len rounded up to a multiple of 8, filled up
 * with zeros. Returns its hash. */
static uint32_t lower_case(char *to, const char *s, uint32_t len)
{
    uint64_t hash = len, w;

    for (uint32_t i = 0; i < len; i += 8) {
        if (i + 8 <= len) {
            memcpy(&w, s + i, 8);
        } else if (len >= 8) { /* the last eight bytes without those that were before */
            memcpy(&w, s + len - 8, 8);
            w >>= 8 * (i + 8 - len);
        } else {
            w = 0;
            for (uint32_t j = 0; j < len; j++)
                w |= (uint64_t)(uint8_t)s[j] << 8 * j;
        }
        w = lower_word(w);
        memcpy(to + i, &w, 8);
        hash = (hash ^ w) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* 1 when the first len bytes are equal; both are filled up with zeros to a multiple of 8. */
static int equal_words(const char *a, const char *b, uint32_t len)
{
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t x, y;
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            return 0;
    }
    return 1;
}

/* GIL held. The environ key of a lower-case wire name: CONTENT_TYPE, CONTENT_LENGTH, else HTTP_ and
 * the name in upper case with '-' as '_'. New reference; NULL with an exception set. */
static PyObj *key_of(const char *name, uint32_t len)
{
    char buf[5 + 256] = "HTTP_", *p = buf + 5;

    if (len > 256) {
        PyObj *bytes = py.PyBytes_FromStringAndSize(NULL, (ssize_t)len + 5);
        char *b = bytes ? py.PyBytes_AsString(bytes) : NULL;
        if (!b)
            return NULL;
        memcpy(b, "HTTP_", 5);
        for (uint32_t i = 0; i < len; i++)
            b[5 + i] = name[i] == '-'                     ? '_'
                       : name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] & ~0x20)
                                                          : name[i];
        PyObj *key = py.PyUnicode_DecodeLatin1(b, (ssize_t)len + 5, NULL);
        py.Py_DecRef(bytes);
        return key;
    }
    for (uint32_t i = 0; i < len; i++)
        p[i] = name[i] == '-'                     ? '_'
               : name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] & ~0x20)
                                                  : name[i];
    p[len] = 0;
    if ((len == 12 && !memcmp(name, "content-type", 12))
        || (len == 14 && !memcmp(name, "content-length", 14)))
        return py.PyUnicode_InternFromString(p);
    return py.PyUnicode_InternFromString(buf);
}

/* GIL held. The table's entry for a wire name, made when there is room; NULL without one (no
 * exception set: the caller takes the slow path). */
static struct name *find_name(struct cache *c, const char *wire, uint32_t len)
{
    char low[64];

    if (len > sizeof low)
        return NULL;
    uint32_t hash = lower_case(low, wire, len), at = hash % GS_NAME_BUCKETS;
    for (; c->bucket[at]; at = (at + 1) % GS_NAME_BUCKETS) {
        struct name *n = &c->names[c->bucket[at] - 1];
        if (n->hash == hash && n->len == len && equal_words(n->bytes, low, len))
            return n;
    }
    if (c->count == GS_NAMES_MAX)
        return NULL;
    struct name *n = &c->names[c->count];
    n->key = key_of(low, len);
    if (!n->key) {
        py.PyErr_Clear();
        return NULL;
    }
    n->hash = hash;
    n->len = (uint16_t)len;
    n->joins_by_semicolon = len == 6 && !memcmp(low, "cookie", 6);
    memcpy(n->bytes, low, (len + 7) & ~7u);
    c->bucket[at] = (uint16_t)++c->count;
    return n;
}

/* GIL held. The str of wire bytes, latin-1 as PEP 3333 asks; the one made last time when the bytes
 * are the same. Borrowed from n, or NULL with an exception set. */
static PyObj *cached_str(struct name *n, const char *s, uint32_t len)
{
    if (n->value && n->value_len == len && !memcmp(n->value_bytes, s, len))
        return n->value;
    PyObj *v = py.PyUnicode_DecodeLatin1(s, len, NULL);
    if (!v)
        return NULL;
    py.Py_DecRef(n->value);
    n->value = v;
    n->value_len = 0;
    if (len <= GS_VALUE_CACHE_MAX) {
        n->value_len = (uint8_t)len;
        memcpy(n->value_bytes, s, len);
    } else {
        n->value_len = 255; /* matches no length that is compared */
    }
    return v;
}

/* GIL held. Sets key to the wire bytes; 0, or -1 with an exception set. */
static int set_str(PyObj *env, PyObj *key, const char *s, uint32_t len)
{
    PyObj *v = len ? py.PyUnicode_DecodeLatin1(s, len, NULL) : NULL;

    if (len && !v)
        return -1;
    int rc = py.PyDict_SetItem(env, key, len ? v : empty);
    py.Py_DecRef(v);
    return rc;
}

/* GIL held. Appends a repeated field's value to the one under key; 0, or -1 with an exception set.
 */
static int join_str(PyObj *env, PyObj *key, const char *s, uint32_t len, int semicolon)
{
    PyObj *old = py.PyDict_GetItemWithError(env, key), *more, *both;

    if (!old)
        return py.PyErr_Occurred() ? -1 : set_str(env, key, s, len);
    more = py.PyUnicode_DecodeLatin1(s, len, NULL);
    both = more ? py.PyUnicode_FromFormat(semicolon ? "%U; %U" : "%U,%U", old, more) : NULL;
    int rc = both ? py.PyDict_SetItem(env, key, both) : -1;
    py.Py_DecRef(more);
    py.Py_DecRef(both);
    return rc;
}

/* GIL held. One header into the environ; 0, or -1 with an exception set. */
static int set_header(struct context *c, PyObj *env, const struct header *h)
{
    const char *base = (const char *)c->req.slot;
    const char *wire = base + h->name.off, *value = base + h->value.off;
    struct name *n = find_name(c->cache, wire, h->name.len);

    if (n) {
        if (n->seen_in == c->req.use)
            return join_str(env, n->key, value, h->value.len, n->joins_by_semicolon);
        n->seen_in = c->req.use;
        PyObj *v = cached_str(n, value, h->value.len);
        return v ? py.PyDict_SetItem(env, n->key, v) : -1;
    }
    char *low = malloc(h->name.len + 8u);
    if (!low) {
        py.PyErr_NoMemory();
        return -1;
    }
    lower_case(low, wire, h->name.len);
    PyObj *key = key_of(low, h->name.len);
    free(low);
    int rc = key ? join_str(env, key, value, h->value.len, 0) : -1;
    py.Py_DecRef(key);
    return rc;
}

/* GIL held. The peer's port; 0, or -1 with an exception set. */
int gs_environ_set_port(PyObj *env, uint16_t port)
{
    char digits[GS_DECIMAL_MAX];

    return set_str(env, gs_keys[K_PORT], digits, (uint32_t)gs_decimal(port, digits));
}

/* GIL held. The request line and the peer; 0, or -1 with an exception set. */
static int set_request(struct context *c, PyObj *env)
{
    const struct slot *s = c->req.slot;
    const char *base = (const char *)s;
    struct cache *k = c->cache;
    PyObj *method = cached_str(&k->method, base + s->method.off, s->method.len);
    PyObj *addr =
        method ? cached_str(&k->addr, base + s->remote_addr.off, s->remote_addr.len) : NULL;

    if (!addr || py.PyDict_SetItem(env, gs_keys[K_METHOD], method) < 0
        || py.PyDict_SetItem(env, gs_keys[K_ADDR], addr) < 0)
        return -1;
    PyObj *target = py.PyUnicode_DecodeLatin1(base + s->target.off, s->target.len, NULL);
    if (!target)
        return -1;
    int rc = py.PyDict_SetItem(env, gs_keys[K_RAW_URI], target) < 0
                     || py.PyDict_SetItem(env, gs_keys[K_REQUEST_URI], target) < 0
                 ? -1
                 : 0;
    int same = s->path.off == s->target.off && s->path.len == s->target.len;
    if (rc == 0 && same)
        rc = py.PyDict_SetItem(env, gs_keys[K_PATH], target);
    else if (rc == 0)
        rc = set_str(env, gs_keys[K_PATH], base + s->path.off, s->path.len);
    py.Py_DecRef(target);
    if (rc < 0 || set_str(env, gs_keys[K_QUERY], base + s->query.off, s->query.len) < 0)
        return -1;
    if (s->remote_port && gs_environ_set_port(env, s->remote_port) < 0)
        return -1;
    return py.PyDict_SetItem(env, gs_keys[K_PROTOCOL],
                             s->flags & REQ_HTTP10 ? protocol10 : protocol11);
}

/* GIL held. Puts a new wsgi.input into env, and borrows it to *own. 0, or -1 with an exception set.
 */
int gs_environ_set_input(struct context *c, PyObj *env, PyObj **own)
{
    PyObj *input = gs_input_new(c);
    int rc = input ? py.PyDict_SetItem(env, gs_keys[K_INPUT], input) : -1;

    py.Py_DecRef(input);
    *own = rc < 0 ? NULL : input;
    return rc;
}

/* GIL held. All of the thread's request into a copy of its template, but for what set_length adds.
 * *own: what belongs to the request alone. 0, or -1 with an exception set. */
int gs_environ_fill(struct context *c, PyObj *env, struct belongings *own)
{
    const struct slot *s = c->req.slot;
    const struct header *h = (const struct header *)((const char *)s + s->headers_off);

    if (set_request(c, env) < 0 || gs_environ_set_input(c, env, &own->input) < 0
        || gs_extensions_add(c, env, own) < 0)
        return -1;
    for (uint32_t i = 0; i < s->header_count; i++)
        if (set_header(c, env, &h[i]) < 0)
            return -1;
    return 0;
}

/* GIL held. A chunked body is complete by now, so its length is known: apps that trust
 * CONTENT_LENGTH alone (Django) can read it. 0, or -1 with an exception set. */
static int set_length(const struct slot *s, PyObj *env)
{
    char digits[GS_DECIMAL_MAX];

    if (!(s->flags & REQ_BODY))
        return 0;
    return set_str(env, gs_keys[K_LENGTH], digits, (uint32_t)gs_decimal(s->body_len, digits));
}

/* GIL held. The template of the thread's request. */
PyObj *gs_environ_template(const struct context *c)
{
    uint32_t listener = c->req.slot->listener;

    return c->cache->templates[listener < shim.template_count ? listener : 0];
}

/* GIL held. A fresh environ for the thread's request. New reference; NULL with an exception set. */
PyObj *gs_environ_new(struct context *c)
{
    struct belongings own;
    PyObj *env = NULL;
    int rc = gs_mould_cast(c, &env);

    if (rc == 0) {
        env = py.PyDict_Copy(gs_environ_template(c));
        rc = env ? gs_environ_fill(c, env, &own) : -1;
    }
    if (rc >= 0 && set_length(c->req.slot, env) == 0)
        return env;
    py.Py_DecRef(env);
    return NULL;
}

/* GIL held. A copy of a dict with room for so many keys: its own copies have it too, and never
 * resize. New reference; NULL with an exception set. */
PyObj *gs_environ_presized(PyObj *dict, uint32_t room)
{
    PyObj *d = py._PyDict_NewPresized ? py._PyDict_NewPresized((ssize_t)room) : py.PyDict_New();

    if (d && py.PyDict_Update(d, dict) < 0) {
        py.Py_DecRef(d);
        return NULL;
    }
    return d;
}

/* GIL held. The key of a header's wire name, borrowed for ever; NULL without an exception when the
 * table has no room for it. */
PyObj *gs_environ_key(struct context *c, const char *wire, uint32_t len)
{
    const struct name *n = find_name(c->cache, wire, len);

    return n ? n->key : NULL;
}

/* GIL held. An empty cache with templates of its own; NULL with an exception set. */
struct cache *gs_cache_new(void)
{
    struct cache *c = calloc(1, sizeof *c);

    if (!c) {
        py.PyErr_NoMemory();
        return NULL;
    }
    for (size_t i = 0; i < sizeof known_names / sizeof *known_names; i++)
        if (!find_name(c, known_names[i], (uint32_t)strlen(known_names[i]))) {
            free(c);
            py.PyErr_NoMemory();
            return NULL;
        }
    for (uint32_t i = 0; i < shim.template_count; i++) {
        c->templates[i] = gs_environ_presized(shim.templates[i], 48);
        if (!c->templates[i])
            return NULL;
    }
    return c;
}

/* GIL held. Keeps the listeners' templates (a list of dicts) and makes the constant objects; 0, or
 * -1 with an exception set. */
int gs_environ_setup(PyObj *templates)
{
    static const char *const names[K_COUNT] = {
        "REQUEST_METHOD",  "PATH_INFO",   "QUERY_STRING", "RAW_URI",    "REQUEST_URI",
        "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT",  "wsgi.input", "CONTENT_LENGTH",
    };
    ssize_t n = py.PyList_Size(templates);

    if (n < 1 || n > (ssize_t)GS_TEMPLATES_MAX) {
        py.PyErr_Format(py.ValueError, "between 1 and %d listeners are possible",
                        (int)GS_TEMPLATES_MAX);
        return -1;
    }
    for (int i = 0; i < K_COUNT; i++)
        if (!(gs_keys[i] = py.PyUnicode_InternFromString(names[i])))
            return -1;
    empty = py.PyUnicode_InternFromString("");
    protocol10 = py.PyUnicode_InternFromString("HTTP/1.0");
    protocol11 = py.PyUnicode_InternFromString("HTTP/1.1");
    if (!empty || !protocol10 || !protocol11)
        return -1;
    for (ssize_t i = 0; i < n; i++) {
        shim.templates[i] = py.PyList_GetItem(templates, i);
        if (!shim.templates[i])
            return -1;
        py.Py_IncRef(shim.templates[i]);
    }
    shim.template_count = (uint32_t)n;
    return 0;
}
