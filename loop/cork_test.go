package loop

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// segments is how many segments with data the client has got.
func (p *peer) segments() (n int) {
	p.g.t.Helper()
	raw, err := p.SyscallConn()
	if err != nil {
		p.g.t.Fatal(err)
	}
	failed := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Data_segs_in)
		}
	})
	if failed != nil || err != nil {
		p.g.t.Fatal(failed, err)
	}
	return n
}

// The answers to requests that came together leave together.
func TestPipelinedAnswersLeaveTogether(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	p := g.dial()
	const requests = 16
	p.send(strings.Repeat("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", requests))
	for range requests {
		p.want(200, "")
	}
	if n := p.segments(); n != 1 {
		t.Errorf("segments for %d answers: got %d, want 1", requests, n)
	}
}

// An answer does not wait for a next one that does not come soon: because its request is not
// complete, in whatever part, or because it takes long.
func TestAnswerIsNotKept(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	w := g.worker()
	for name, next := range map[string][2]string{
		"head": {"GET /b HTTP/1.1\r\nHo", "st: a\r\n\r\n"},
		"body": {"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1", "2"},
		"long": {get("/b"), ""},
	} {
		p := g.dial()
		p.send(get("/a"), next[0])
		g.take(w).Answer(ok("a"))
		p.want(200, "a")
		p.send(next[1])
		g.take(w).Answer(ok("b"))
		p.want(200, "b")
		if n := p.segments(); n != 2 {
			t.Errorf("%s: got %d segments, want 2", name, n)
		}
	}
	p := g.dial()
	p.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nOPTIONS * HT")
	p.want(200, "")
}

// What was collected for a client leaves before whatever comes behind it, in order.
func TestCorkedComesFirst(t *testing.T) {
	t.Parallel()
	const first = "collected "
	large := pattern(corkedBytesMax)
	for name, c := range map[string]struct {
		do   func(l *loop, c *client)
		want string // begins what follows
	}{
		"answer": {func(l *loop, c *client) { l.send(c, []byte("next")) }, "next"},
		"large":  {func(l *loop, c *client) { l.send(c, []byte(large)) }, large},
		"too many": {func(l *loop, c *client) {
			l.sendCorked(c, []byte(large[:corkedBytesMax-1]))
			l.push(c)
		}, large[:corkedBytesMax-1]},
		"refusal": {func(l *loop, c *client) { l.refuse(c, 400, "test", "") }, "HTTP/1.1 400 "},
		"file": {func(l *loop, c *client) {
			f, err := os.Open(fileOf(t, "file").Name())
			if err != nil {
				t.Error(err)
			}
			l.sendFile(c, f, 0, 4)
		}, "file"},
		"age": {func(l *loop, c *client) {
			l.corkedAt -= int64(corkMax)
			l.uncork()
		}, ""},
		"lull": {func(l *loop, c *client) { l.uncorkAll() }, ""},
		"end":  {func(l *loop, c *client) { l.drop(c) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, nil)
			p := g.dial()
			g.withClient(p, func(l *loop, mine *client) {
				l.sendCorked(mine, []byte(first))
				if mine.corked == nil {
					t.Error("nothing was collected")
				}
				c.do(l, mine)
				if mine.corked != nil || mine.booked != 0 {
					t.Errorf("still collected: %v, %d bytes booked", mine.corked, mine.booked)
				}
			})
			p.wantBytes(first + c.want)
		})
	}
}

// Where clients' buffers are used up, an answer does not wait for the next one.
func TestNothingIsCollectedBeyondTheBudget(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	p := g.dial()
	g.withClient(p, func(l *loop, c *client) {
		buffers := &l.reactor.buffers
		buffers.used.Add(buffers.max)
		defer buffers.used.Add(-buffers.max)
		l.sendCorked(c, []byte("answer"))
		if c.corked != nil {
			t.Error("it waits")
		}
	})
	p.wantBytes("answer")
}

// withClient runs f on the loop once it knows p.
func (g *rig) withClient(p *peer, f func(*loop, *client)) {
	g.t.Helper()
	g.eventually("a client on the loop", func() (known bool) {
		g.on(g.loop(), func() {
			if c := g.clientOf(p); c != nil {
				known = true
				f(g.loop(), c)
			}
		})
		return known
	})
}

// wantBytes reads as many bytes as text has.
func (p *peer) wantBytes(text string) {
	p.g.t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(p.r, got); err != nil || string(got) != text {
		p.g.t.Fatalf("got %.60q, %v, want %.60q", got, err, text)
	}
}
