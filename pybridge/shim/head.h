/* head.h: checking and writing a response's head. Plain C, no Python, tested by test/head_test.c.
 */
#ifndef GS_HEAD_H
#define GS_HEAD_H

#include <stddef.h>
#include <stdint.h>

#define GS_DECIMAL_MAX 20u /* digits of the largest uint64_t */

enum head_field {
    FIELD_ORDINARY,
    FIELD_LENGTH, /* Content-Length */
    FIELD_DATE,
    FIELD_SERVER,
    FIELD_CONNECTION,
    FIELD_HOP_BY_HOP, /* the server's own business: RFC 9110 §7.6.1 */
};

int gs_status_code(const char *s, size_t len);
int gs_text_ok(const char *s, size_t len);
int gs_is_ascii(const char *s, size_t len);
int gs_token_ok(const char *s, size_t len);
enum head_field gs_classify_field(const char *name, size_t len);
int64_t gs_parse_length(const char *s, size_t len);
int gs_has_token(const char *list, size_t len, const char *token);
size_t gs_decimal(uint64_t n, char *to);
size_t gs_http_date(int64_t unix_seconds, char *to);

#endif
