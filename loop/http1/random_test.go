package http1

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// fragments are what heads and chunked bodies are made of, sound and unsound.
var fragments = []string{
	"GET", "POST", "HEAD", "OPTIONS", "CONNECT", " ", "  ", "\t", "/", "*", "/p?q", "/%41", "/%", "//",
	"http://b", "http://", "a:80", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1", "\r\n", "\r\n\r\n",
	"\n", "\r", "Host: a\r\n", "Host: b", "Host", ":", ": ", "x", "X-A: b\r\n", "X_A: b\r\n", "_",
	"Content-Length: 5\r\n", "Content-Length: ", "content-length:3\r\n", "0", "1", "5", "a", "+", "-",
	"Transfer-Encoding: chunked\r\n", "Transfer-Encoding:", "chunked", "identity", ",", ";", "=", "\"",
	"Connection: close\r\n", "Connection: keep-alive\r\n", "Connection: ", "Expect: 100-continue\r\n",
	"Content-Type: t\r\n", "Proxy: p\r\n", "\x00", "\x7f", "\x80", "hello", "5\r\nhello\r\n",
	"0\r\n\r\n", "0\r\n", "T: v\r\n", get, post, next, hello, "@", "#", "[::1]", "[", "]", "%2f", "\\",
	"GET / HTTP/1.1\r\n", "abcdefghijklmnopqrstuvwxyz", "X:\r\n", "X: \r\n", "\v", "\xa0",
}

// TestRandom puts sound cases together with fragments in the wrong places and demands the laws of
// the fuzz targets. The seed is fixed: a failure repeats, and its input is printed.
func TestRandom(t *testing.T) {
	const rounds = 20000
	rng := rand.New(rand.NewPCG(1, 2))
	cases := allCases()
	accepted := 0
	for range rounds {
		in := cases[rng.IntN(len(cases))].in
		if len(in) > 2000 {
			continue
		}
		for range rng.IntN(4) {
			from := rng.IntN(len(in) + 1)
			to := from + rng.IntN(min(4, len(in)-from+1))
			in = in[:from] + fragments[rng.IntN(len(fragments))] + in[to:]
		}
		data := []byte(in)
		cut := rng.IntN(len(data) + 1)
		lim := DefaultLimits()
		whole, split := play(lim, data), play(lim, data, cut)
		if whole.result() != split.result() || whole.taken != split.taken {
			t.Fatalf("whole %q, cut at %d %q\ninput %q", whole.result(), cut, split.result(), in)
		}
		req, n, err := parseHere(lim, data)
		switch {
		case err == ErrDisagreement:
			t.Fatalf("guard and wildcat disagree\ninput %q", in)
		case err == nil && n > 0:
			accepted++
			compareHead(t, data, n, req)
			compareTarget(t, req.Target)
			if req.Chunked {
				compareChunked(t, data[n:])
			}
		}
		if _, value, ok := strings.Cut(in, "Host: "); ok {
			value, _, _ = strings.Cut(value, "\r\n")
			compareHost(t, []byte(value))
		}
	}
	if accepted < rounds/10 {
		t.Errorf("only %d of %d heads accepted: the test has lost its point", accepted, rounds)
	}
}
