package http1

import (
	"bytes"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// TestAllocations: a request costs no allocation, accepted or refused.
func TestAllocations(t *testing.T) {
	lim := DefaultLimits()
	p := NewParser(lim)
	path := make([]byte, 0, 8192)
	date := []byte("Sun, 06 Nov 1994 08:49:37 GMT")
	for _, c := range append(allCases(), testCase{id: "browser", in: browserHead}) {
		input := []byte(c.in)
		got := testing.AllocsPerRun(3, func() {
			var g Guard
			n, err := g.Scan(input, &lim)
			if n > 0 {
				var req *Request
				if req, err = p.Parse(input[:n], &g); err == nil {
					path = AppendPath(path[:0], req.RawPath)
					var d Chunked
					for rest := input[n:]; req.Chunked && err == nil && len(rest) > 0; {
						var done bool
						if n, _, done, err = d.Next(rest, &lim); done {
							break
						}
						rest = rest[n:]
					}
				}
			}
			if err != nil {
				path = AppendError(path[:0], err.Status, date, 1)
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations", c.id, got)
		}
	}
}

func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Guard{}); n > 64 {
		t.Errorf("a Guard has %d bytes, want 64 at most", n)
	}
	if n := unsafe.Sizeof(Chunked{}); n > 64 {
		t.Errorf("a Chunked has %d bytes, want 64 at most", n)
	}
}

// TestTrickleIsLinear: wildcat alone took 2.46 s of CPU for 32 KB that came byte by byte. The bound
// is a hundred times what the guard needs.
func TestTrickleIsLinear(t *testing.T) {
	lim := DefaultLimits()
	input := []byte(padded(lim.HeadBytesMax))
	begin := time.Now()
	var g Guard
	for i := range input {
		if n, err := g.Scan(input[:i+1], &lim); err != nil || (n > 0) != (i+1 == len(input)) {
			t.Fatalf("after %d bytes: %d, %v", i+1, n, err)
		}
	}
	if took := time.Since(begin); took > 250*time.Millisecond {
		t.Errorf("%d bytes took %v", len(input), took)
	}
}

// TestRefusalLasts: whatever comes after a refusal, it stays the answer, and an accepted head
// stays accepted until Reset.
func TestRefusalLasts(t *testing.T) {
	lim := DefaultLimits()
	var g Guard
	_, first := g.Scan([]byte("BAD\r\n"), &lim)
	n, again := g.Scan([]byte(next), &lim)
	if first == nil || again != first || n != 0 {
		t.Errorf("got %v, then %d, %v", first, n, again)
	}
	g.Reset()
	for range 2 {
		if n, err := g.Scan([]byte(next+next), &lim); n != len(next) || err != nil {
			t.Errorf("got %d, %v, want %d", n, err, len(next))
		}
	}
	var d Chunked
	_, _, _, bad := d.Next([]byte("x"), &lim)
	_, data, done, still := d.Next([]byte(hello), &lim)
	if bad == nil || still != bad || data != nil || done {
		t.Errorf("chunked: got %v, then %q, %v, %v", bad, data, done, still)
	}
	d = Chunked{}
	if n, _, done, err := d.Next([]byte("0\r\n\r\n"), &lim); n != 5 || !done || err != nil {
		t.Errorf("chunked: got %d, %v, %v", n, done, err)
	}
	if n, _, done, err := d.Next([]byte(hello), &lim); n != 0 || !done || err != nil {
		t.Errorf("chunked after its end: got %d, %v, %v", n, done, err)
	}
}

func TestBegun(t *testing.T) {
	lim := DefaultLimits()
	for in, want := range map[string]bool{
		"": false, "\r": false, "\r\n": false, "\r\nG": true, "G": true, "GET / H": true,
		"\x16": true, "\n": true, get: true, next: true, "\rX": true,
	} {
		for cut := range len(in) + 1 {
			var g Guard
			g.Scan([]byte(in[:cut]), &lim)
			g.Scan([]byte(in), &lim)
			if got := g.Begun(); got != want {
				t.Errorf("%q cut at %d: got %v, want %v", in, cut, got, want)
			}
			g.Reset()
			if g.Begun() {
				t.Errorf("%q: begun after Reset", in)
			}
		}
	}
}

// TestNothingCarriesOver is wildcat's hazard P16: an earlier request's fields must not show.
func TestNothingCarriesOver(t *testing.T) {
	lim := DefaultLimits()
	p := NewParser(lim)
	first := "POST http://first/%41?q HTTP/1.0\r\nHost: a\r\nContent-Length: 10\r\nX_Y: z\r\n" +
		"Expect: 100-continue\r\nConnection: keep-alive\r\nCookie: secret\r\nX-Admin: yes\r\n\r\n"
	for i, c := range []struct{ in, want string }{
		{first, `POST /%41?q host=first Content-Length="10" Expect="100-continue" ` +
			`Connection="keep-alive" Cookie="secret" X-Admin="yes" 1.0 escaped`},
		{"GET / HTTP/1.0\r\n\r\n", "GET / 1.0 close"},
		{next, gotNext},
		{coding(" chunked"), gotChunked},
		{line("OPTIONS * HTTP/1.1"), "OPTIONS  host=a asterisk"},
		{head("A: b"), gotGet + ` A="b"`},
	} {
		var g Guard
		n, err := g.Scan([]byte(c.in), &lim)
		if err != nil {
			t.Fatal(err)
		}
		req, err := p.Parse([]byte(c.in)[:n], &g)
		if err != nil {
			t.Fatal(err)
		}
		if got := transcript(req); got != c.want {
			t.Errorf("request %d:\ngot  %s\nwant %s", i, got, c.want)
		}
		if i == 0 && req.ContentLength != 10 || i > 0 && req.ContentLength != -1 {
			t.Errorf("request %d: ContentLength %d", i, req.ContentLength)
		}
	}
}

// TestDisagreement gives the parser heads that are not what the guard accepted. Each row is one of
// wildcat's hazards that the agreement has to catch by itself; afterwards the parser must work.
func TestDisagreement(t *testing.T) {
	lim := DefaultLimits()
	p := NewParser(lim)
	const seen = "GET /path HTTP/1.1\r\nHost: a\r\nAb: cdef\r\n\r\n"
	for name, other := range map[string]string{
		"P1 ends early":        "GET /path HTTP/1.1\r\nHost: a\r\n\r\nAb: cdef\r\n",
		"P3 no colon":          "GET /path HTTP/1.1\r\nHost: a\r\nAbc cdef\r\n\r\n",
		"P3 name over a line":  "GET /path HTTP/1.1\r\nHost\r\n a\r\nAb:cdef\r\n\r\n",
		"P6 swallowed line":    "GET /path HTTP/1.1\r\nHost:\n a\r\nAb:cdef\r\n\r\n",
		"P9 fold":              "GET /path HTTP/1.1\r\nHost: a\r\n Ab:cdef\r\n\r\n",
		"P10 bare LF":          "GET /path HTTP/1.1\r\nHost: a\nAb: cdefg\r\n\r\n",
		"P10 bare LF first":    "GET /path HTTP/1.1\nHost: ab\r\nAb: cdef\r\n\r\n",
		"P10 no last LF":       "GET /path HTTP/1.1\r\nHost: ab\r\nAb: cdef\r\n\r",
		"P10 no last LF, CR X": "GET /path HTTP/1.1\r\nHost: a\r\nAb: cdef\r\n\rX",
		"P11 leading SP":       " GT /path HTTP/1.1\r\nHost: a\r\nAb: cdef\r\n\r\n",
		"P11 two SP":           "GET  path HTTP/1.1\r\nHost: a\r\nAb: cdef\r\n\r\n",
		"P11 short version":    "GET /paths HTTP/1.\r\nHost: a\r\nAb: cdef\r\n\r\n",
		"P11 long version":     "GET /path HTTP/1.1x\r\nHost:a\r\nAb: cdef\r\n\r\n",
		"short method":         "GE /paths HTTP/1.1\r\nHost: a\r\nAb: cdef\r\n\r\n",
		"short target":         "GET /pat HTTP/1.1\r\nHost: ab\r\nAb: cdef\r\n\r\n",
		"colon moved":          "GET /path HTTP/1.1\r\nHost: a\r\nAbc: def\r\n\r\n",
		"more lines":           "GET /path HTTP/1.1\r\nHost:\r\nA: bc\r\nAb:\r\n\r\n",
		"fewer lines":          "GET /path HTTP/1.1\r\nHost: abcdefghijk\r\n\r\n",
		"no lines":             "GET /path HTTP/1.1\r\n\r\nHost: a\r\nAb: cdef\r\n",
	} {
		if len(other) != len(seen) {
			t.Fatalf("%s: %d bytes, want %d", name, len(other), len(seen))
		}
		var g Guard
		if n, err := g.Scan([]byte(seen), &lim); n != len(seen) || err != nil {
			t.Fatal(n, err)
		}
		if req, err := p.Parse([]byte(other), &g); err != ErrDisagreement {
			t.Errorf("%s: got %v, %v", name, req, err)
		}
		req, err := p.Parse([]byte(seen), &g)
		if err != nil || transcript(req) != `GET /path host=a Ab="cdef"` {
			t.Errorf("after %s: got %v, %v", name, req, err)
		}
	}
	var g Guard
	g.Scan([]byte(seen), &lim)
	longer := strings.Replace(seen, "cdef", "cdefg", 1)
	for _, other := range []string{longer, seen + "x", seen[:len(seen)-1], "", seen + seen} {
		if _, err := p.Parse([]byte(other), &g); err != ErrDisagreement {
			t.Errorf("%q: got %v", other, err)
		}
	}
	for _, in := range []string{
		"GET / HTTP/1.1\r\n", get, get + "\r", get + "\rX", "GET / H", "\r\n",
	} {
		g.Reset()
		n, _ := g.Scan([]byte(in), &lim)
		for _, head := range []string{in, get + "\r\n"} {
			if _, err := p.Parse([]byte(head), &g); n != 0 || err != ErrDisagreement {
				t.Errorf("%q of %q that is not accepted: got %d, %v", head, in, n, err)
			}
		}
	}
	g.Reset()
	if _, err := p.Parse(nil, &g); err != ErrDisagreement {
		t.Errorf("nothing scanned: got %v", err)
	}
}

// TestResultsLieInTheHead: the request borrows, so that the loop knows what it may reuse.
func TestResultsLieInTheHead(t *testing.T) {
	lim := DefaultLimits()
	in := []byte("GET http://h/p?q HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n")
	req, n, err := parseHere(lim, in)
	if err != nil || n != len(in) {
		t.Fatal(n, err)
	}
	for _, s := range [][]byte{req.Method, req.Target, req.RawPath, req.Query, req.Host,
		req.Headers[0].Name, req.Headers[0].Value} {
		from := uintptr(unsafe.Pointer(&s[0])) - uintptr(unsafe.Pointer(&in[0]))
		if from >= uintptr(len(in)) {
			t.Errorf("%q lies outside the head", s)
		}
	}
	runtime.KeepAlive(in)
}

// TestMoreHeadersThanWildcatHolds: at the limit wildcat must not grow its slice.
func TestMoreHeadersThanWildcatHolds(t *testing.T) {
	for _, n := range []int{0, 1, 2, 9, 10, 11, 99, 100} {
		lim := DefaultLimits()
		lim.HeaderCountMax = n
		req, _, err := parseHere(lim, []byte("GET / HTTP/1.0\r\n"+numbered(n)+"\r\n"))
		if err != nil || len(req.Headers) != n {
			t.Errorf("%d field lines: got %v, %v", n, req, err)
		}
	}
}

func TestAppendPath(t *testing.T) {
	for raw, want := range map[string]string{
		"/":                  "/",
		"/a%20b":             "/a b",
		"/%C3%a9%2F%2f":      "/é//",
		"/%2541":             "/%41",
		"/+%2b":              "/++",
		"/%c0%af":            "/\xc0\xaf",
		"/%7E%30%39%fF%Ff/x": "/~09\xff\xff/x",
		"/%":                 "/%", // Parse refuses it; here it must only not break
		"/%4":                "/%4",
	} {
		if got := AppendPath([]byte("x"), []byte(raw)); string(got) != "x"+want {
			t.Errorf("%q: got %q, want %q", raw, got[1:], want)
		}
	}
}

// TestIPv6 compares with net/netip, which reads the same grammar (and zones, which we refuse).
func TestIPv6(t *testing.T) {
	for _, in := range []string{
		"::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::8",
		"1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1:2:3:4::5:6:7:8", "::1:2:3:4:5:6:7:8",
		"1::2::3", ":::", ":", "", ":1", "1:", "12345::", "g::", "1:::2", "::ffff:1.2.3.4",
		"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4", "1:2:3:4:5:1.2.3.4", "::1.2.3", "::1.2.3.4.5",
		"::256.1.1.1", "::01.1.1.1", "::00.1.1.1", "::1.2.3.", "::.1.2.3", "::1..2.3", "1.2.3.4",
		"::1.2.3.4:5", "::1:1.2.3.0", "::0.0.0.0", "::abcd.1.2.3", "ABCD:ef01::", "::1%25eth0", "1 ::",
		"::255.255.255.255", "::1234.1.1.1", "::1.2.3.a",
		"::1.2x3.4", "::1.2:3.4", "2001:db8::7", "::1/64", "1:2:3:4:5:6:7:",
	} {
		addr, err := netip.ParseAddr(in)
		want := err == nil && addr.Is6() && addr.Zone() == ""
		if got := validIPv6([]byte(in)); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func TestAppendError(t *testing.T) {
	date := []byte("Sun, 06 Nov 1994 08:49:37 GMT")
	got := string(AppendError([]byte("before"), 431, date, 1))
	want := "beforeHTTP/1.1 431 Request Header Fields Too Large\r\nServer: gophersnake\r\n" +
		"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Content-Length: 36\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n" +
		"431 Request Header Fields Too Large\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := string(AppendError(nil, 503, date, 7)); !strings.Contains(got, "\r\nRetry-After: 7\r\n") {
		t.Errorf("503 without Retry-After: %q", got)
	}
	if got := StatusText(299); got != "Error" {
		t.Errorf("got %q for an unknown status", got)
	}
}

// TestClasses holds the words-at-a-time scans to the byte table, for every byte at every place in
// a word.
func TestClasses(t *testing.T) {
	for c := range 256 {
		for at := range 24 {
			value := bytes.Repeat([]byte{'v'}, 24)
			value[at] = byte(c)
			want := len(value)
			if class[c]&inValue == 0 {
				want = at
			}
			if got := skipValue(value, 0); got != want {
				t.Errorf("byte %#x at %d of a value: got %d, want %d", c, at, got, want)
			}
			want = len(value)
			if class[c]&inTarget == 0 {
				want = at
			}
			if got := skipTarget(value, 0); got != want {
				t.Errorf("byte %#x at %d of a target: got %d, want %d", c, at, got, want)
			}
		}
	}
}

// parseHere scans and parses one head in place.
func parseHere(lim Limits, in []byte) (*Request, int, *Error) {
	var g Guard
	n, err := g.Scan(in, &lim)
	if err != nil || n == 0 {
		return nil, n, err
	}
	req, err := NewParser(lim).Parse(in[:n], &g)
	return req, n, err
}
