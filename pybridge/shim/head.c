/* head.c: see head.h. All functions take (pointer, length) and read nothing beyond it. */
#define _GNU_SOURCE
#include "head.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

static int equal_folded(const char *s, const char *low, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (lower(s[i]) != low[i])
            return 0;
    return 1;
}

/* The status code of "NNN reason" or "NNN" (RFC 9112 §4, PEP 3333 "The start_response() Callable"),
 * or -1. */
int gs_status_code(const char *s, size_t len)
{
    int code = 0;

    if (len < 3 || (len > 3 && s[3] != ' '))
        return -1;
    for (int i = 0; i < 3; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        code = code * 10 + (s[i] - '0');
    }
    return code >= 100 ? code : -1;
}

/* RFC 9110 §5.5: field values hold no control characters but HTAB. 1 when s holds none, else 0. */
int gs_text_ok(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char b = (unsigned char)s[i];
        if ((b < 0x20 && b != '\t') || b == 0x7f)
            return 0;
    }
    return 1;
}

int gs_is_ascii(const char *s, size_t len)
{
    unsigned char all = 0;

    for (size_t i = 0; i < len; i++)
        all |= (unsigned char)s[i];
    return all < 0x80;
}

/* RFC 9110 §5.6.2: 1 when s is a token, else 0. */
int gs_token_ok(const char *s, size_t len)
{
    if (len == 0)
        return 0;
    for (size_t i = 0; i < len; i++) {
        char b = s[i], l = lower(b);
        if (!((l >= 'a' && l <= 'z') || (b >= '0' && b <= '9')
              || (b > 0 && strchr("!#$%&'*+-.^_`|~", b))))
            return 0;
    }
    return 1;
}

/* What the server has to know about a header field's name. */
enum head_field gs_classify_field(const char *name, size_t len)
{
    static const struct {
        const char *low;
        size_t len;
        enum head_field field;
    } known[] = {
        {"te", 2, FIELD_HOP_BY_HOP},
        {"date", 4, FIELD_DATE},
        {"server", 6, FIELD_SERVER},
        {"trailer", 7, FIELD_HOP_BY_HOP},
        {"trailers", 8, FIELD_HOP_BY_HOP},
        {"upgrade", 7, FIELD_HOP_BY_HOP},
        {"connection", 10, FIELD_CONNECTION},
        {"keep-alive", 10, FIELD_HOP_BY_HOP},
        {"content-length", 14, FIELD_LENGTH},
        {"proxy-connection", 16, FIELD_HOP_BY_HOP},
        {"transfer-encoding", 17, FIELD_HOP_BY_HOP},
        {"proxy-authenticate", 18, FIELD_HOP_BY_HOP},
        {"proxy-authorization", 19, FIELD_HOP_BY_HOP},
    };

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].len == len && equal_folded(name, known[i].low, len))
            return known[i].field;
    return FIELD_ORDINARY;
}

/* RFC 9110 §8.6: Content-Length = 1*DIGIT; bounded to what an int64_t holds. -1 when it is anything
 * else. */
int64_t gs_parse_length(const char *s, size_t len)
{
    int64_t n = 0;

    if (len == 0 || len > 18)
        return -1;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        n = n * 10 + (s[i] - '0');
    }
    return n;
}

/* 1 when the comma-separated list holds the (lower-case) token, in any case. */
int gs_has_token(const char *list, size_t len, const char *token)
{
    size_t want = strlen(token), i = 0;

    while (i < len) {
        size_t end = i;
        while (end < len && list[end] != ',')
            end++;
        size_t from = i, to = end;
        while (from < to && (list[from] == ' ' || list[from] == '\t'))
            from++;
        while (to > from && (list[to - 1] == ' ' || list[to - 1] == '\t'))
            to--;
        if (to - from == want && equal_folded(list + from, token, want))
            return 1;
        i = end + 1;
    }
    return 0;
}

/* RFC 9110 §5.6.7: IMF-fixdate, 29 bytes and a terminator. Not strftime: that speaks the locale's
 * language. */
size_t gs_http_date(int64_t unix_seconds, char *to)
{
    static const char days[] = "SunMonTueWedThuFriSat",
                      months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t t = (time_t)unix_seconds;
    struct tm tm;

    gmtime_r(&t, &tm);
    return (size_t)snprintf(to, 40, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
                            days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon,
                            tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}
