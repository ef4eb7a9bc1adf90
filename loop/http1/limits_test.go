package http1

import (
	"fmt"
	"math"
	"testing"
)

// smallLimits make every edge cheap to play at every split.
func smallLimits() Limits {
	return Limits{
		RequestLineBytesMax:   64,
		HeadBytesMax:          256,
		HeaderCountMax:        5,
		BodyBytesMax:          50,
		TrailerBytesMax:       40,
		ChunkLineBytesMax:     30,
		ChunkOverheadBytesMax: 60,
	}
}

// edges are messages in which the limit of that size counts n.
var edges = []struct {
	name    string
	size    int
	refusal string
	input   func(n int) string
}{
	{"request line", 64, "414", func(n int) string {
		return line("GET /" + rep("x", n-len("GET / HTTP/1.1")) + " HTTP/1.1")
	}},
	{"request line after CRLF", 64, "414", func(n int) string {
		return "\r\n" + line("GET /"+rep("x", n-len("GET / HTTP/1.1"))+" HTTP/1.1")
	}},
	{"request line of 1.0", 64, "414", func(n int) string {
		return line("GET /" + rep("x", n-len("GET / HTTP/1.1")) + " HTTP/1.0")
	}},
	{"head", 256, "431", func(n int) string { return padded(n) }},
	{"head after CRLF", 256, "431", func(n int) string { return "\r\n" + padded(n-2) }},
	{"field lines", 5, "431", func(n int) string { return get + numbered(n-1) + "\r\n" }},
	{"Content-Length", 50, "413", func(n int) string { return length(fmt.Sprint(n)) + rep("x", n) }},
	{"one chunk", 50, "413", func(n int) string {
		return chunks(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, rep("x", n)))
	}},
	{"two chunks", 50, "413", func(n int) string {
		return chunks("1e\r\n" + rep("x", 30) + "\r\n" +
			fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n-30, rep("x", n-30)))
	}},
	{"trailers", 40, "431", func(n int) string {
		return chunks("0\r\nA: b\r\nX: " + rep("v", n-11) + "\r\n\r\n")
	}},
	{"trailer name", 40, "431", func(n int) string {
		return chunks("0\r\n" + rep("N", n-3) + ":\r\n\r\n")
	}},
	{"chunk line", 30, "400", func(n int) string {
		return chunks("1;" + rep("x", n-2) + "\r\nA\r\n0\r\n\r\n")
	}},
	{"second chunk line", 30, "400", func(n int) string {
		return chunks("a\r\n0123456789\r\n1;" + rep("x", n-2) + "\r\nA\r\n0\r\n\r\n")
	}},
	{"last chunk line", 30, "400", func(n int) string {
		return chunks("0;" + rep("x", n-2) + "\r\n\r\n")
	}},
	// 26 bytes of framing in the first chunk, n-31 in the second, 5 in the third and 3 in the last,
	// of which the three data bytes pay for three.
	{"chunk overhead", 60, "400", func(n int) string {
		return chunks("1;" + rep("x", 20) + "\r\nA\r\n1;" + rep("x", n-37) + "\r\nA\r\n" +
			"1\r\nA\r\n0\r\n\r\n")
	}},
}

// TestLimits plays each limit at one less, at the limit and at one more: the edge is exact and
// does not depend on how the bytes were cut.
func TestLimits(t *testing.T) {
	for _, e := range edges {
		t.Run(e.name, func(t *testing.T) {
			for n := e.size - 1; n <= e.size+1; n++ {
				got := playEverySplit(t, smallLimits(), e.input(n))
				if refused := got == e.refusal; refused != (n > e.size) {
					t.Errorf("%d of %d: got %.200q", n, e.size, got)
				}
			}
		})
	}
}

// TestTightLimits: limits that end within the method, or allow no field line at all.
func TestTightLimits(t *testing.T) {
	lim := smallLimits()
	lim.RequestLineBytesMax, lim.HeaderCountMax = 4, 0
	for _, c := range []testCase{
		{"method fits", "ABCD", "..."},
		{"method too long", "ABCDE", "414"},
		{"SP too many", "ABCD ", "414"},
		{"target too many", "ABC /", "414"},
		{"after CRLF", "\r\nABC /", "414"},
	} {
		if got := playEverySplit(t, lim, c.in); got != c.want {
			t.Errorf("%s: got %q, want %q", c.id, got, c.want)
		}
	}
	lim.RequestLineBytesMax = 64
	for in, want := range map[string]string{
		"GET / HTTP/1.0\r\n\r\n":         "GET / 1.0 close",
		"GET / HTTP/1.0\r\nA: b\r\n\r\n": "431",
		"GET / HTTP/1.0\r\nA":            "431",
	} {
		if got := playEverySplit(t, lim, in); got != want {
			t.Errorf("no field lines: got %q, want %q\ninput %q", got, want, in)
		}
	}
}

// padded is a head of n bytes.
func padded(n int) string {
	const frame = get + "X: \r\n\r\n"
	return get + "X: " + rep("v", n-len(frame)) + "\r\n\r\n"
}

// TestLimitAnswersWhenCrossed: the refusal comes with the first byte too many, complete or not.
func TestLimitAnswersWhenCrossed(t *testing.T) {
	lim := DefaultLimits()
	for _, c := range []struct {
		name, in, want string
		at             int // bytes that are still fine
	}{
		{"request line", "GET /" + rep("x", 9000), "414", lim.RequestLineBytesMax},
		{"request line after CRLF", "\r\nGET /" + rep("x", 9000), "414", lim.RequestLineBytesMax + 2},
		{"head", get + "X: " + rep("a", 40000), "431", lim.HeadBytesMax},
		{"head in a name", get + rep("a", 40000), "431", lim.HeadBytesMax},
		{"field lines", get + numbered(100), "431", len(get + numbered(99))},
		{"method", rep("A", 100), "501", methodBytesMax},
		{"Content-Length", length(" 104857601"), "413", len(length(" 104857601")) - 3},
		{"chunk size", chunks("6400001\r\n"), "413", len(chunks("6400001\r"))},
		{"trailers", chunks("0\r\nX:" + rep("a", 9000)), "431",
			len(chunks("0\r\n")) + lim.TrailerBytesMax},
		{"chunk line", chunks("0;" + rep("a", 9000)), "400", len(chunks("")) + lim.ChunkLineBytesMax},
	} {
		if got := play(lim, []byte(c.in[:c.at])).result(); len(got) < 3 || got[len(got)-3:] != "..." {
			t.Errorf("%s: after %d bytes got %.100q, want more wanted", c.name, c.at, got)
		}
		if got := play(lim, []byte(c.in[:c.at+1])).result(); got != c.want {
			t.Errorf("%s: after %d bytes got %.100q, want %s", c.name, c.at+1, got, c.want)
		}
	}
}

// TestNoBodyLimit: 0 turns the limit off, and then the type's own end holds.
func TestNoBodyLimit(t *testing.T) {
	lim := DefaultLimits()
	lim.BodyBytesMax = 0
	for _, c := range []testCase{
		{"1 GB", length(" 1000000000"), gotPost + ` Content-Length="1000000000" ...`},
		{"2^63-1", length(" 9223372036854775807"), gotPost +
			` Content-Length="9223372036854775807" ...`},
		{"2^63", length(" 9223372036854775808"), "413"},
		{"chunk of 1 GB", chunks("40000000\r\n"), gotChunked + " ..."},
		{"chunk of 2^63-1", chunks("7fffffffffffffff\r\n"), gotChunked + " ..."},
		{"chunk of 2^63", chunks("8000000000000000\r\n"), "413"},
		{"chunks of 2^63 together", chunks("1\r\nA\r\n7fffffffffffffff\r\n"), "413"},
	} {
		if got := playEverySplit(t, lim, c.in); got != c.want {
			t.Errorf("%s: got %q, want %q", c.id, got, c.want)
		}
	}
}

// TestChunkOverhead is case TO-15: what a chunked body may cost beyond its data.
func TestChunkOverhead(t *testing.T) {
	for _, c := range []struct {
		name   string
		chunk  string
		count  int
		refuse *Error
	}{
		{"1,000,000 chunks of 1 byte", "1\r\nA\r\n", 1_000_000, errChunkOverhead},
		{"100,000 chunks of 10 bytes", "a\r\n0123456789\r\n", 100_000, nil},
		{"10,000 chunks of 100 bytes with 1 KB extensions",
			"64;" + rep("x", 1024) + "\r\n" + rep("d", 100) + "\r\n", 10_000, errChunkOverhead},
		{"1,000,000 chunks of 5 bytes", "5\r\nhello\r\n", 1_000_000, nil},
	} {
		var d Chunked
		lim := DefaultLimits()
		var err *Error
		for i := 0; i < c.count && err == nil; i++ {
			for rest := []byte(c.chunk); len(rest) > 0 && err == nil; {
				var n int
				n, _, _, err = d.Next(rest, &lim)
				rest = rest[n:]
			}
		}
		if err != c.refuse {
			t.Errorf("%s: got %v, want %v", c.name, err, c.refuse)
		}
	}
}

// TestChunkedBeyond2GB: no count of a chunked body is as small as 32 bits.
func TestChunkedBeyond2GB(t *testing.T) {
	lim := DefaultLimits()
	lim.BodyBytesMax = 0
	d := Chunked{decoded: math.MaxUint32, overhead: math.MaxUint32}
	for rest := []byte(hello); len(rest) > 0; {
		n, _, _, err := d.Next(rest, &lim)
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if want := int64(math.MaxUint32 + 5); d.decoded != want {
		t.Errorf("got %d decoded, want %d", d.decoded, want)
	}
}
