package loop

import (
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
