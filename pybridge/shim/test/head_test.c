/* head_test.c: checking and writing a response's head. Every input ends at a page that cannot be
 * read, and begins where the one before it cannot either, so that a look beyond it ends the test.
 */
#define _GNU_SOURCE
#include "check.h"
#include "head.h"

#include <locale.h>

/* A page to write to, between two that cannot be touched. */
static char *fence;

static void fence_up(void)
{
    char *at = mmap(NULL, 3 * LOOP_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(at != MAP_FAILED, "%s", strerror(errno));
    CHECK(mprotect(at + LOOP_PAGE, LOOP_PAGE, PROT_READ | PROT_WRITE) == 0, "%s", strerror(errno));
    fence = at + LOOP_PAGE;
}

/* A copy of len bytes that ends at the fence; valid until the next call. */
static const char *at_end(const char *s, size_t len)
{
    return memcpy(fence + LOOP_PAGE - len, s, len);
}

/* One that begins at the fence. */
static const char *at_start(const char *s, size_t len)
{
    return memcpy(fence, s, len);
}

#define BYTES(literal) literal, sizeof(literal) - 1

static void status_codes(void)
{
    static const struct {
        const char *s;
        size_t len;
        int want;
    } table[] = {
        {BYTES("200 OK"), 200},
        {BYTES("200"), 200},
        {BYTES("200 "), 200},
        {BYTES("100 Continue"), 100},
        {BYTES("999 Ours"), 999},
        {BYTES("404 Not Found\r\nX: y"), 404}, /* gs_text_ok's to refuse */
        {BYTES("418 I'm a teapot \xe9"), 418},
        {BYTES("099 Low"), -1},
        {BYTES("000"), -1},
        {BYTES(""), -1},
        {BYTES("2"), -1},
        {BYTES("20"), -1},
        {BYTES("20 OK"), -1},
        {BYTES("2000"), -1},
        {BYTES("2000 OK"), -1},
        {BYTES("200OK"), -1},
        {BYTES("200\tOK"), -1},
        {BYTES(" 200 OK"), -1},
        {BYTES("+20 OK"), -1},
        {BYTES("-20 OK"), -1},
        {BYTES("2 0 OK"), -1},
        {BYTES("2\0"
               "0 OK"),
         -1},
        {BYTES("0x2 OK"), -1},
        {BYTES("\xb2\xb0\xb0 OK"), -1},
        {BYTES("OK"), -1},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int got = gs_status_code(at_end(table[i].s, table[i].len), table[i].len);
        CHECK(got == table[i].want, "got %d, want %d for \"%s\"", got, table[i].want, table[i].s);
        got = gs_status_code(at_start(table[i].s, table[i].len), table[i].len);
        CHECK(got == table[i].want, "got %d, want %d for \"%s\"", got, table[i].want, table[i].s);
    }
}

/* RFC 9110 §5.6.2: tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" /
 * "`" / "|" / "~" / DIGIT / ALPHA. Spelt out, so that it is not the code's own list. */
static int is_tchar(int b)
{
    switch (b) {
    case '!':
    case '#':
    case '$':
    case '%':
    case '&':
    case '\'':
    case '*':
    case '+':
    case '-':
    case '.':
    case '^':
    case '_':
    case '`':
    case '|':
    case '~':
        return 1;
    default:
        return (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z');
    }
}

/* Each byte in each place of a name and of a value. */
static void tokens_and_texts(void)
{
    CHECK(!gs_token_ok(at_end("", 0), 0), "an empty name is no token");
    CHECK(gs_text_ok(at_end("", 0), 0) && gs_is_ascii(at_end("", 0), 0), "an empty value is text");
    for (int b = 0; b < 256; b++)
        for (size_t len = 1; len <= 17; len++)
            for (size_t place = 0; place < len; place++) {
                char s[17];
                memset(s, 'x', sizeof s);
                s[place] = (char)b;
                int text = (b >= 0x20 && b != 0x7f) || b == '\t';
                const char *at = at_end(s, len);
                CHECK(gs_token_ok(at, len) == is_tchar(b), "token: byte %#x at %zu", b, place);
                CHECK(gs_text_ok(at, len) == text, "text: byte %#x at %zu", b, place);
                CHECK(gs_is_ascii(at, len) == (b < 0x80), "ASCII: byte %#x at %zu", b, place);
            }
}

static void lengths(void)
{
    static const struct {
        const char *s;
        size_t len;
        int64_t want;
    } table[] = {
        {BYTES("0"), 0},
        {BYTES("00"), 0},
        {BYTES("13"), 13},
        {BYTES("007"), 7},
        {BYTES("9223372036"), 9223372036},
        {BYTES("999999999999999999"), 999999999999999999},
        {BYTES("1000000000000000000"), -1},
        {BYTES("9223372036854775808"), -1},
        {BYTES("18446744073709551616"), -1},
        {BYTES(""), -1},
        {BYTES("-1"), -1},
        {BYTES("+1"), -1},
        {BYTES(" 1"), -1},
        {BYTES("1 "), -1},
        {BYTES("1,1"), -1},
        {BYTES("1_0"), -1},
        {BYTES("0x1"), -1},
        {BYTES("1\0"), -1},
        {BYTES("\xb2"), -1},
        {BYTES("1/"), -1},
        {BYTES("1:"), -1},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int64_t got = gs_parse_length(at_end(table[i].s, table[i].len), table[i].len);
        CHECK(got == table[i].want, "got %lld, want %lld for \"%s\"", (long long)got,
              (long long)table[i].want, table[i].s);
    }
}

static void fields(void)
{
    static const struct {
        const char *name;
        enum head_field want;
    } table[] = {
        {"Content-Length", FIELD_LENGTH},
        {"Date", FIELD_DATE},
        {"Server", FIELD_SERVER},
        {"Connection", FIELD_CONNECTION},
        {"Keep-Alive", FIELD_HOP_BY_HOP},
        {"Proxy-Authenticate", FIELD_HOP_BY_HOP},
        {"Proxy-Authorization", FIELD_HOP_BY_HOP},
        {"Proxy-Connection", FIELD_HOP_BY_HOP},
        {"TE", FIELD_HOP_BY_HOP},
        {"Trailer", FIELD_HOP_BY_HOP},
        {"Transfer-Encoding", FIELD_HOP_BY_HOP},
        {"Upgrade", FIELD_HOP_BY_HOP},
        {"Content-Type", FIELD_ORDINARY},
        {"Content-Lengt", FIELD_ORDINARY},
        {"Content-Lengths", FIELD_ORDINARY},
        {"X-Date", FIELD_ORDINARY},
        {"Content_Length", FIELD_ORDINARY},
        {"", FIELD_ORDINARY},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int how = 0; how < 3; how++) { /* as it stands, in capitals, in small letters */
            char name[32];
            size_t len = strlen(table[i].name);
            for (size_t n = 0; n < len; n++) {
                int b = table[i].name[n];
                int letter = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z');
                name[n] = (char)(letter && how == 1   ? b & ~0x20
                                 : letter && how == 2 ? b | 0x20
                                                      : b);
            }
            enum head_field got = gs_classify_field(at_end(name, len), len);
            CHECK(got == table[i].want, "got %d, want %d for %.*s", got, table[i].want, (int)len,
                  name);
        }
    /* Case is folded for letters only: '\r' is not '-', '[' is not '{'. */
    CHECK(gs_classify_field(at_end(BYTES("Content\rLength")), 14) == FIELD_ORDINARY, "CR folded");
    CHECK(gs_classify_field(at_end(BYTES("\x44\x41\x54\xc5")), 4) == FIELD_ORDINARY, "high bit");
}

static void list_tokens(void)
{
    static const struct {
        const char *list;
        size_t len;
        int want;
    } table[] = {
        {BYTES("close"), 1},
        {BYTES("Close"), 1},
        {BYTES("CLOSE"), 1},
        {BYTES(" close"), 1},
        {BYTES("close\t "), 1},
        {BYTES("keep-alive, close"), 1},
        {BYTES("keep-alive,close"), 1},
        {BYTES("close,keep-alive"), 1},
        {BYTES("a , \tclose\t , b"), 1},
        {BYTES(",,close"), 1},
        {BYTES("close,"), 1},
        {BYTES(""), 0},
        {BYTES(","), 0},
        {BYTES(" "), 0},
        {BYTES("clos"), 0},
        {BYTES("closed"), 0},
        {BYTES("xclose"), 0},
        {BYTES("clo se"), 0},
        {BYTES("close x"), 0},
        {BYTES("close;q=1"), 0},
        {BYTES("\"close\""), 0},
        {BYTES("clos\0e"), 0},
        {BYTES("keep-alive"), 0},
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int got = gs_has_token(at_end(table[i].list, table[i].len), table[i].len, "close");
        CHECK(got == table[i].want, "got %d, want %d for \"%s\"", got, table[i].want,
              table[i].list);
        got = gs_has_token(at_start(table[i].list, table[i].len), table[i].len, "close");
        CHECK(got == table[i].want, "got %d, want %d for \"%s\"", got, table[i].want,
              table[i].list);
    }
}

/* The C locale's strftime is the other implementation; ours must not follow the locale. */
static void date_is(int64_t second)
{
    char got[40], want[64];
    time_t t = (time_t)second;
    struct tm tm;

    memset(got, '?', sizeof got);
    size_t n = gs_http_date(second, got);
    CHECK(gmtime_r(&t, &tm), "second %lld", (long long)second);
    CHECK(strftime(want, sizeof want, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 29, "\"%s\"", want);
    CHECK(n == 29 && got[29] == 0 && strcmp(got, want) == 0, "got \"%s\", want \"%s\"", got, want);
}

static void dates(void)
{
    static const int64_t edges[] = {
        0,          1,          59,
        60,         3599,       86399,
        86400,      68169600, /* 29 February 1972 */
        784111777,            /* Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own */
        951782400,            /* 29 February 2000 */
        951868799,  951868800,  1078012800,
        2147483647, 2147483648, 4102444799,
        4107542400, /* 1 March 2100, after a February of 28 days */
        4294967295, 4294967296, 253402300799 /* the last of year 9999 */,
    };
    uint64_t random = 1;
    char example[40];

    setlocale(LC_ALL, "C");
    gs_http_date(784111777, example);
    CHECK(strcmp(example, "Sun, 06 Nov 1994 08:49:37 GMT") == 0, "got \"%s\"", example);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        date_is(edges[i]);
    for (int i = 0; i < 50000; i++)
        date_is((int64_t)(next_random(&random) % 253402300800u));
}

/* printf is the other implementation. */
static void decimals(void)
{
    uint64_t random = 1;

    for (int i = 0; i < 20000; i++) {
        uint64_t n = next_random(&random) >> (i % 64);
        char got[GS_DECIMAL_MAX], want[GS_DECIMAL_MAX + 1];
        n = i == 0 ? 0 : i == 1 ? UINT64_MAX : n;
        size_t len = gs_decimal(n, got);
        CHECK(len == (size_t)snprintf(want, sizeof want, "%llu", (unsigned long long)n)
                  && !memcmp(got, want, len),
              "got %.*s, want %s", (int)len, got, want);
    }
}

int main(void)
{
    fence_up();
    status_codes();
    tokens_and_texts();
    lengths();
    fields();
    list_tokens();
    dates();
    decimals();
    puts("head_test: ok");
    return 0;
}
