package http1

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// session plays the reactor's part: it takes one client's bytes as reads and writes down, request
// by request, what came out of them.
type session struct {
	lim    Limits
	parser *Parser
	guard  Guard
	chunks Chunked

	buf    []byte // unconsumed bytes; a fresh array with nothing after its end at every read
	inBody bool
	left   int64 // of a Content-Length body; -1 in a chunked one
	body   []byte
	taken  int // bytes consumed

	request string // whose body is being read; the app does not know of it yet
	events  []string
	dead    bool
	err     *Error // of which it died
}

func newSession(lim Limits) *session {
	return &session{lim: lim, parser: NewParser(lim)}
}

// feed gives the session one read.
func (s *session) feed(read []byte) {
	if s.dead {
		return
	}
	old := s.buf
	s.buf = slices.Clip(append(append(make([]byte, 0, len(old)+len(read)), old...), read...))
	// Whoever kept a slice of the old array reads garbage now.
	for i := range old {
		old[i] = 0xff
	}
	for !s.dead && s.step() {
	}
}

// step takes one head or some body, and reports whether there may be more in the buffer.
func (s *session) step() bool {
	switch {
	case !s.inBody:
		return s.head()
	case s.left >= 0:
		n := int(min(s.left, int64(len(s.buf))))
		s.body = append(s.body, s.buf[:n]...)
		s.left -= int64(n)
		s.consume(n)
		if s.left > 0 {
			return false
		}
		s.endBody()
		return true
	}
	n, data, done, err := s.chunks.Next(s.buf, &s.lim)
	s.body = append(s.body, data...)
	s.consume(n)
	switch {
	case err != nil:
		s.refuse(err)
	case done:
		s.endBody()
		return true
	}
	return err == nil && len(s.buf) > 0
}

func (s *session) head() bool {
	n, err := s.guard.Scan(s.buf, &s.lim)
	if err != nil {
		s.refuse(err)
		return false
	}
	if n == 0 {
		return false
	}
	req, err := s.parser.Parse(s.buf[:n:n], &s.guard)
	if err != nil {
		s.refuse(err)
		return false
	}
	s.request = transcript(req)
	s.inBody, s.left = true, max(req.ContentLength, 0)
	if req.Chunked {
		s.left, s.chunks = -1, Chunked{}
	}
	s.guard.Reset()
	s.consume(n)
	return true
}

func (s *session) endBody() {
	if len(s.body) > 0 {
		s.request += fmt.Sprintf(" body=%q", s.body)
	}
	s.events = append(s.events, s.request)
	s.inBody, s.body = false, s.body[:0]
}

func (s *session) consume(n int) {
	s.buf = s.buf[n:]
	s.taken += n
}

func (s *session) refuse(err *Error) {
	s.events = append(s.events, fmt.Sprint(err.Status))
	s.dead, s.err = true, err
}

// result is everything that happened, in a form that compares and reads well. A message that is
// not complete ends in "...".
func (s *session) result() string {
	events := s.events
	switch {
	case s.dead:
	case s.inBody:
		events = append(events, s.request+" ...")
	case s.guard.Begun():
		events = append(events, "...")
	}
	return strings.Join(events, "; ")
}

// transcript writes down all that a request holds and that differs from the usual.
func transcript(r *Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r.Method, r.RawPath)
	if r.Query != nil {
		fmt.Fprintf(&b, "?%s", r.Query)
	}
	if r.Host != nil {
		fmt.Fprintf(&b, " host=%s", r.Host)
	}
	for _, h := range r.Headers {
		fmt.Fprintf(&b, " %s=%q", h.Name, h.Value)
	}
	for _, f := range []struct {
		set  bool
		text string
	}{
		{r.Chunked, " chunked"},
		{r.Minor == 0, " 1.0"},
		{!r.KeepAlive, " close"},
		{r.ExpectContinue, " expect"},
		{r.Asterisk, " asterisk"},
		{r.IsHead, " head"},
		{r.PathEscaped, " escaped"},
	} {
		if f.set {
			b.WriteString(f.text)
		}
	}
	return b.String()
}

// play gives input to a fresh session, cut at the offsets.
func play(lim Limits, input []byte, cuts ...int) *session {
	s := newSession(lim)
	from := 0
	for _, cut := range append(cuts, len(input)) {
		s.feed(input[from:cut])
		from = cut
	}
	return s
}

// playEverySplit plays input whole, byte by byte and in two reads cut at every offset, demands the
// same result each time, and returns it.
func playEverySplit(t testing.TB, lim Limits, input string) string {
	t.Helper()
	in := []byte(input)
	whole := play(lim, in)
	want := whole.result()
	check := func(how string, s *session) {
		t.Helper()
		if got := s.result(); got != want || s.taken != whole.taken {
			t.Fatalf("%s: got %q after %d bytes, whole %q after %d\ninput %.300q",
				how, got, s.taken, want, whole.taken, in)
		}
	}
	offsets := splitOffsets(lim, len(in))
	if len(in) == len(offsets) {
		check("byte by byte", play(lim, in, offsets...))
	} else {
		check("at all offsets", play(lim, in, offsets...))
	}
	for _, cut := range offsets {
		check(fmt.Sprintf("cut at %d", cut), play(lim, in, cut))
	}
	return want
}

// splitOffsets is every offset of a short input; of a long one, those near its ends and the
// limits, and some between: a filler byte is like its neighbours.
func splitOffsets(lim Limits, n int) []int {
	var offsets []int
	for i := 0; i < n; i++ {
		near := i < 100 || i > n-100 || i%(n/32+1) == 0
		for _, edge := range []int{lim.RequestLineBytesMax, lim.HeadBytesMax} {
			near = near || i > edge-20 && i < edge+20
		}
		if n <= 2500 || near {
			offsets = append(offsets, i)
		}
	}
	return offsets
}
