/* head.c: see head.h. All functions take (pointer, length) and read nothing beyond it. */
#define _GNU_SOURCE
#include "head.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define EVERY_BYTE(b) (0x0101010101010101u * (uint64_t)(b))

static uint64_t word_at(const char *s)
{
    uint64_t w;

    memcpy(&w, s, sizeof w);
    return w;
}

/* 1 when s is low in any case; low holds lower-case letters, digits and '-'. Of these only letters
 * have bit 6 set, and only there may bit 5, the case, differ. */
static int equal_folded(const char *s, const char *low, size_t len)
{
    size_t i = 0;

    for (; i + 8 <= len; i += 8) {
        uint64_t want = word_at(low + i), either = (want & EVERY_BYTE(0x40)) >> 1;
        if ((word_at(s + i) ^ want) & ~either)
            return 0;
    }
    for (; i < len; i++)
        if ((s[i] ^ low[i]) & ~((low[i] & 0x40) >> 1))
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

/* RFC 9110 §5.5: field values hold no control characters but HTAB. */
static int is_text(unsigned char b)
{
    return (b >= 0x20 && b != 0x7f) || b == '\t';
}

/* 1 when no byte of the word is a control but perhaps for HTAB: none below 0x20, none 0x7f. */
static int is_plain(uint64_t w)
{
    uint64_t del = w ^ EVERY_BYTE(0x7f);
    uint64_t low = (w - EVERY_BYTE(0x20)) & ~w, is_del = (del - EVERY_BYTE(1)) & ~del;

    return !((low | is_del) & EVERY_BYTE(0x80));
}

/* 1 when all bytes of s may stand in a field value, else 0. */
int gs_text_ok(const char *s, size_t len)
{
    size_t i = 0;

    while (i + 8 <= len && is_plain(word_at(s + i)))
        i += 8;
    if (len >= 8 && i + 8 > len && is_plain(word_at(s + len - 8)))
        return 1;
    for (; i < len; i++)
        if (!is_text((unsigned char)s[i]))
            return 0;
    return 1;
}

int gs_is_ascii(const char *s, size_t len)
{
    uint64_t all = 0;
    size_t i = 0;

    for (; i + 8 <= len; i += 8)
        all |= word_at(s + i);
    if (len >= 8)
        all |= word_at(s + len - 8);
    else
        for (; i < len; i++)
            all |= (unsigned char)s[i];
    return !(all & EVERY_BYTE(0x80));
}

/* RFC 9110 §5.6.2: 1 when s is a token, else 0. */
int gs_token_ok(const char *s, size_t len)
{
    static const uint8_t allowed[256] = {
        ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
        ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
        ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
    };

    for (size_t i = 0; i < len; i++)
        if (!allowed[(unsigned char)s[i]])
            return 0;
    return len > 0;
}

/* What the server has to know about a header field by its name. */
enum head_field gs_classify_field(const char *name, size_t len)
{
#define IS(low) (len == sizeof(low) - 1 && equal_folded(name, low, sizeof(low) - 1))
    switch (len ? name[0] | 0x20 : 0) {
    case 'c':
        return IS("content-length") ? FIELD_LENGTH
               : IS("connection")   ? FIELD_CONNECTION
                                    : FIELD_ORDINARY;
    case 'd':
        return IS("date") ? FIELD_DATE : FIELD_ORDINARY;
    case 's':
        return IS("server") ? FIELD_SERVER : FIELD_ORDINARY;
    case 'k':
        return IS("keep-alive") ? FIELD_HOP_BY_HOP : FIELD_ORDINARY;
    case 'p':
        return IS("proxy-connection") || IS("proxy-authenticate") || IS("proxy-authorization")
                   ? FIELD_HOP_BY_HOP
                   : FIELD_ORDINARY;
    case 't':
        return IS("te") || IS("trailer") || IS("trailers") || IS("transfer-encoding")
                   ? FIELD_HOP_BY_HOP
                   : FIELD_ORDINARY;
    case 'u':
        return IS("upgrade") ? FIELD_HOP_BY_HOP : FIELD_ORDINARY;
    default:
        return FIELD_ORDINARY;
    }
#undef IS
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

/* Writes n in decimal digits, at most GS_DECIMAL_MAX, without a terminator. Returns how many. */
size_t gs_decimal(uint64_t n, char *to)
{
    char digits[GS_DECIMAL_MAX], *at = digits + sizeof digits;

    do
        *--at = (char)('0' + n % 10);
    while (n /= 10);
    size_t len = (size_t)(digits + sizeof digits - at);
    memcpy(to, at, len);
    return len;
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
