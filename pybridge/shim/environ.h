/* environ.h: what the files that make environs share: environ.c, mould.c and extensions.c. */
#ifndef GS_ENVIRON_H
#define GS_ENVIRON_H

#include "shim.h"

/* The keys that every environ gets anew. */
enum environ_key {
    K_METHOD,
    K_PATH,
    K_QUERY,
    K_RAW_URI,
    K_REQUEST_URI,
    K_PROTOCOL,
    K_ADDR,
    K_PORT,
    K_INPUT,
    K_LENGTH,
    K_COUNT
};

extern PyObj *gs_keys[K_COUNT];

/* What an environ holds that belongs to its request; borrowed from the environ. */
struct belongings {
    PyObj *input;
    PyObj *hints; /* NULL for HTTP/1.0 */
    PyObj *disconnected;
};

/* environ.c */
PyObj *gs_environ_template(const struct context *c);
PyObj *gs_environ_presized(PyObj *dict, uint32_t room);
PyObj *gs_environ_key(struct context *c, const char *wire, uint32_t len);
int gs_environ_fill(struct context *c, PyObj *env, struct belongings *own);
int gs_environ_set_port(PyObj *env, uint16_t port);
int gs_environ_set_input(struct context *c, PyObj *env, PyObj **own);

/* extensions.c */
int gs_extensions_add(struct context *c, PyObj *env, struct belongings *own);
int gs_extensions_renew(struct context *c, PyObj *env, struct belongings *own);

/* mould.c: environs that are like the ones before. */
int gs_mould_cast(struct context *c, PyObj **env);

#endif
