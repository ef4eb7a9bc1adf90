package http1

import (
	"bytes"
	"strings"
	"testing"
)

// cutsFrom turns fuzzed bytes into increasing offsets into n bytes.
func cutsFrom(splits []byte, n int) []int {
	var cuts []int
	at := 0
	for _, s := range splits {
		at += int(s)
		if at > n {
			break
		}
		cuts = append(cuts, at)
	}
	return cuts
}

func addCases(f *testing.F, add func(in []byte)) {
	for _, c := range allCases() {
		if len(c.in) < 4096 {
			add([]byte(c.in))
		}
	}
	add([]byte(browserHead))
}

// FuzzHead: no panic, and one verdict for every way of cutting.
func FuzzHead(f *testing.F) {
	addCases(f, func(in []byte) { f.Add(in, []byte{1, 1, 1, 7, 50}) })
	small := Limits{RequestLineBytesMax: 60, HeadBytesMax: 200, HeaderCountMax: 4}
	f.Fuzz(func(t *testing.T, in, splits []byte) {
		for _, lim := range []Limits{DefaultLimits(), small} {
			whole := play(lim, in)
			cut := play(lim, in, cutsFrom(splits, len(in))...)
			if whole.result() != cut.result() || whole.taken != cut.taken {
				t.Fatalf("whole %q after %d bytes, cut %q after %d\ninput %q",
					whole.result(), whole.taken, cut.result(), cut.taken, in)
			}
		}
	})
}

// FuzzDiffHead: what is accepted, two other readers read the same way.
func FuzzDiffHead(f *testing.F) {
	addCases(f, func(in []byte) { f.Add(in) })
	f.Fuzz(func(t *testing.T, in []byte) {
		req, n, err := parseHere(DefaultLimits(), in)
		switch {
		case err == ErrDisagreement:
			t.Fatalf("guard and wildcat disagree\ninput %q", in)
		case err == nil && n > 0:
			compareHead(t, in, n, req)
		}
	})
}

// FuzzConn: the concatenation law. What follows a complete exchange is judged as if it had come
// first, what precedes it as if nothing followed, and after a refusal there is nothing more.
func FuzzConn(f *testing.F) {
	addCases(f, func(in []byte) {
		f.Add(in, []byte(next))
		f.Add([]byte(chunks(hello)), in)
	})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		lim := DefaultLimits()
		first := play(lim, a)
		both := play(lim, append(bytes.Clone(a), b...))
		if first.dead {
			if both.result() != first.result() || both.taken != first.taken {
				t.Fatalf("after a refusal: %q, then %q\ninput %q + %q",
					first.result(), both.result(), a, b)
			}
			return
		}
		if first.taken != len(a) || first.inBody || first.guard.Begun() {
			return
		}
		second := play(lim, b)
		want := append(first.events, second.events...)
		if got := strings.Join(both.events, "; "); got != strings.Join(want, "; ") ||
			both.taken != first.taken+second.taken {
			t.Fatalf("got %q (%d bytes), want %q (%d + %d)\ninput %q + %q", got, both.taken,
				want, first.taken, second.taken, a, b)
		}
	})
}

// FuzzChunked: decoder, grammar and net/http agree; cuts do not matter; the default limits only
// ever turn an acceptance into a refusal.
func FuzzChunked(f *testing.F) {
	for _, c := range chunkedBodies {
		if _, body, ok := strings.Cut(c.in, "\r\n\r\n"); ok && len(body) < 4096 {
			f.Add([]byte(body), []byte{1, 1, 3})
		}
	}
	f.Fuzz(func(t *testing.T, in, splits []byte) {
		compareChunked(t, in)
		lim := DefaultLimits()
		n, body, done, err := decode(in, &lim)
		cutN, cutBody, cutDone, cutErr := decode(in, &lim, cutsFrom(splits, len(in))...)
		if n != cutN || !bytes.Equal(body, cutBody) || done != cutDone || err != cutErr {
			t.Fatalf("whole %d %q %v %v, cut %d %q %v %v\ninput %q",
				n, body, done, err, cutN, cutBody, cutDone, cutErr, in)
		}
		if wantN, _, _ := readChunked(in); done && n != wantN {
			t.Fatalf("got %d bytes, grammar %d\ninput %q", n, wantN, in)
		}
	})
}

// FuzzTarget compares with net/url.
func FuzzTarget(f *testing.F) {
	for _, c := range targets {
		if words := strings.SplitN(c.in, " ", 3); len(words) == 3 {
			f.Add([]byte(words[1]))
		}
	}
	f.Fuzz(func(t *testing.T, target []byte) { compareTarget(t, target) })
}

// FuzzHost compares with the grammar of RFC 3986.
func FuzzHost(f *testing.F) {
	for _, c := range hosts {
		if _, value, ok := strings.Cut(c.in, "Host: "); ok {
			value, _, _ = strings.Cut(value, "\r\n")
			f.Add([]byte(value))
		}
	}
	f.Add([]byte("[1:2:3:4:5:6:255.0.0.1]:00080"))
	f.Fuzz(func(t *testing.T, host []byte) { compareHost(t, host) })
}
