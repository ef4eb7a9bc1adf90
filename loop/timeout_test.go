package loop

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"gophersnake/pybridge"
)

const (
	// short is a timeout that tests wait for; slack is what this machine may be late by.
	short = 300 * time.Millisecond
	slack = 3 * time.Second
	// holdable is a queue timeout that what is to be taken in time meets on a busy machine too.
	holdable = 2 * time.Second
)

// within checks a deadline: never early, at most two ticks and the slack late.
// The deadline may count from any time after begun, so that is taken before what starts it.
func within(t *testing.T, begun time.Time, want time.Duration) {
	t.Helper()
	if took := time.Since(begun); took < want || took > want+2*clockTick+slack {
		t.Errorf("deadline: got %v, want %v to %v", took, want, want+2*clockTick)
	}
}

// TO-01: a client that sends nothing is closed silently at the header timeout.
func TestNothingSent(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.HeaderTimeout = short })
	begun, p := time.Now(), g.dial()
	p.wantClosed()
	within(t, begun, short)
}

// An empty line is not a request: no 408 for it.
func TestOnlyEmptyLineSent(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.HeaderTimeout = short })
	p := g.dial()
	p.send("\r\n")
	p.wantClosed()
}

// TO-02: the header deadline is for the whole head; bytes that trickle do not move it.
func TestTrickledHead(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.HeaderTimeout = short })
	begun, p := time.Now(), g.dial()
	stop := p.trickle("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1000))
	defer stop()
	p.want(408, "")
	within(t, begun, short)
	p.wantClosed()
}

// trickle sends a byte every 10 ms until it is stopped or the text is over.
func (p *peer) trickle(text string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := range text {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			if _, err := io.WriteString(p.TCPConn, text[i:i+1]); err != nil {
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// TO-02 on a later request: the deadline counts from its first byte.
func TestTrickledSecondHead(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.HeaderTimeout, c.KeepAlive = short, time.Minute })
	g.serve(g.worker(), nil)
	p := g.dial()
	p.send(get("/"))
	p.want(200, "/")
	wait := time.NewTimer(2 * short) // idle is not late
	<-wait.C
	begun := time.Now()
	stop := p.trickle("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 1000))
	defer stop()
	p.want(408, "")
	within(t, begun, short)
}

// TO-05: an idle connection closes silently after the keep-alive timeout.
func TestIdleClosesSilently(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.KeepAlive = short })
	g.serve(g.worker(), nil)
	p := g.dial()
	begun := time.Now()
	p.send(get("/"))
	p.want(200, "/")
	p.wantClosed()
	within(t, begun, short)
}

// --keep-alive 0 closes after each answer.
func TestKeepAliveOff(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.KeepAlive = 0 })
	w := g.worker()
	p := g.dial()
	p.send(get("/"))
	r := g.take(w)
	if r.KeepAlive {
		t.Error("the worker is told that the connection stays")
	}
	r.Answer(ok("only"))
	p.want(200, "only")
	p.wantClosed()
}

// TO-06: a request that comes in the moment of the idle close is answered, or the connection is
// closed without a byte and the request was never run.
func TestRequestAtIdleClose(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.KeepAlive = short })
	w := g.worker()
	var run sync.Map
	g.serve(w, func(r *pybridge.Taken) string { run.Store(r.Path, true); return ok(r.Path) })
	for i := range 4 {
		p := g.dial()
		p.send(get("/first"))
		p.want(200, "/first")
		wait := time.NewTimer(short + time.Duration(i)*clockTick/2)
		<-wait.C
		path := fmt.Sprintf("/%d", i)
		_, _ = io.WriteString(p.TCPConn, get(path))
		_, body, err := p.answer()
		if _, ran := run.Load(path); ran != (err == nil && body == path) {
			t.Errorf("request %d: run %v, answer %q %v", i, ran, body, err)
		}
	}
}

// TO-03: a body that comes too slowly is refused: no byte for the timeout, or too few on average.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	for name, rate := range map[string]string{"no byte": "", "trickle": strings.Repeat("x", 1000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, func(c *Config) { c.BodyTimeout = short })
			w := g.worker()
			begun, p := time.Now(), g.dial()
			p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
			stop := p.trickle(rate)
			defer stop()
			p.want(408, "")
			within(t, begun, short)
			p.wantClosed()
			if _, err := w.Take(0); err == nil {
				t.Error("a thread got an unfinished request")
			}
		})
	}
}

// A body that is slow but not too slow is served, however long it takes.
func TestSteadyBody(t *testing.T) {
	t.Parallel()
	const most = 5 * short
	g := newRig(t, func(c *Config) { c.BodyTimeout = most })
	g.serve(g.worker(), func(r *pybridge.Taken) string { return ok(fmt.Sprint(len(r.Body))) })
	p := g.dial()
	begun := time.Now()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
	tick := time.NewTicker(short)
	defer tick.Stop()
	for range 10 {
		p.send(strings.Repeat("x", 500))
		<-tick.C
	}
	p.want(200, "5000")
	if took := time.Since(begun); took < most {
		t.Errorf("took %v: the test did not see what it is for", took)
	}
}

// expireUnread has the deadline of the peer's client pass while bytes of it wait in the kernel, as
// for a loop that was late itself.
func (g *rig) expireUnread(p *peer, bytes string) {
	g.t.Helper()
	busy, free := make(chan *client), make(chan struct{})
	g.loop().post(func() {
		c := g.clientOf(p)
		busy <- c
		<-free
		c.timer.at = g.loop().now
		g.loop().expireDue()
	})
	c := <-busy
	defer close(free)
	p.send(bytes)
	g.eventually("bytes in the kernel", c.unread)
}

// partRead waits until the loop has read a part of a head or body, and waits for more.
func (g *rig) partRead(p *peer, part string) {
	g.t.Helper()
	g.eventually("the part to be read", func() (read bool) {
		g.on(g.loop(), func() {
			c := g.clientOf(p)
			read = c != nil && (string(c.unparsed()) == part ||
				c.incoming != nil && c.incoming.body != nil && string(c.incoming.body.B) == part)
		})
		return read
	})
}

// What came in time is no reason for a 408, however late the loop reads it. A head has this once.
func TestUnreadIsNotLate(t *testing.T) {
	t.Parallel()
	const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
	const head = "GET / HTTP/1.1\r\n"
	g := newRig(t, nil)
	g.serve(g.worker(), func(r *pybridge.Taken) string { return ok(r.Method + string(r.Body)) })
	p := g.dial()
	p.send(post, "ab")
	g.partRead(p, "ab")
	g.expireUnread(p, "c")
	g.partRead(p, "abc")
	g.expireUnread(p, "d")
	p.want(200, "POSTabcd")
	for range 2 { // each head anew
		p.send(head)
		g.partRead(p, head)
		g.expireUnread(p, "Host: a\r\n\r\n")
		p.want(200, "GET")
	}
	p.send(head)
	g.partRead(p, head)
	g.expireUnread(p, "X: y\r\n")
	g.partRead(p, head+"X: y\r\n")
	g.expireUnread(p, "Host: a\r\n\r\n")
	p.want(408, "")
	p.wantClosed()
}

// A body that trickles is refused although there is always some of it unread at its deadline.
func TestUnreadBodyIsTooSlow(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nab")
	g.partRead(p, "ab")
	g.on(g.loop(), func() {
		g.clientOf(p).incoming.began -= 2 * int64(g.r.cfg.BodyTimeout)
	})
	g.expireUnread(p, "c")
	p.want(408, "")
	p.wantClosed()
}

// TO-08: 100 at once, then the body timeout.
func TestExpectWithoutBody(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.BodyTimeout = short })
	g.worker()
	p := g.dial()
	begun := time.Now()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	p.want(100, "")
	if took := time.Since(begun); took > slack {
		t.Errorf("100 after %v", took)
	}
	p.want(408, "")
	within(t, begun, short)
}

// EX-10: a body that is too large is refused instead of invited.
func TestExpectTooLarge(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n")
	p.want(413, "")
	p.wantClosed()
}

// TO-23: after a timeout in a body, what comes is never taken for a request.
func TestPauseDesync(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.BodyTimeout = short })
	w := g.worker()
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
	p.want(408, "")
	_, _ = io.WriteString(p.TCPConn, get("/smuggled"))
	p.wantClosed()
	if _, err := w.Take(50 * time.Millisecond); err == nil {
		t.Fatal("a line after the timeout was served as a request")
	}
}

// TO-17: deadlines are measured on the monotonic clock.
func TestMonotonic(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	if !strings.Contains(g.r.began.String(), "m=") {
		t.Error("the reactor's clock has no monotonic reading")
	}
}

// R2: a client that goes on sending after our last byte is read for a while and cut off then.
func TestLinger(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	quiet, p := g.dial(), g.dial()
	begun := time.Now()
	quiet.send("BAD\r\n\r\n")
	p.send("BAD\r\n\r\n")
	p.want(400, "")
	block := strings.Repeat("x", 64<<10)
	sent := 0
	for ; sent < 100<<20; sent += len(block) {
		if _, err := io.WriteString(p.TCPConn, block); err != nil {
			break
		}
	}
	if sent < lingerBytesMax/2 || sent >= 100<<20 {
		t.Errorf("sent after the end: got %d bytes, want about %d", sent, lingerBytesMax)
	}
	quiet.want(400, "")
	quiet.wantClosed() // our side only
	g.noClients()
	within(t, begun, lingerTime)
}

// A request that waits longer than the queue timeout gets 503; with --timeout it gets 504 when a
// thread has it. An answer that has begun in time may take as long as it likes.
func TestQueueAndAppTimeouts(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.QueueTimeout = short })
	p := g.dial()
	begun := time.Now()
	p.send(get("/"))
	p.want(503, "")
	within(t, begun, short)
	p.wantClosed()

	g = newRig(t, func(c *Config) { c.QueueTimeout, c.RequestTimeout = holdable, 2*short })
	w := g.worker()
	late, half := g.dial(), g.dial()
	begun = time.Now()
	late.send(get("/late"))
	r := g.take(w)
	half.send(get("/half"))
	stream := g.take(w)
	stream.Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 0, patience)
	late.want(504, "")
	within(t, begun, 2*short)
	stream.Answer(" full")
	half.want(200, "half full")
	if !r.Gone() {
		t.Error("the thread is not told")
	}
	r.Answer(ok("too late"))
	late.wantClosed()
}

// Retry-After comes with each 503.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.QueueTimeout = short })
	p := g.dial()
	p.send(get("/"))
	head, err := p.r.ReadString('\n')
	if err != nil || !strings.Contains(head, "503") {
		t.Fatalf("got %q %v", head, err)
	}
	rest, _ := io.ReadAll(p.r)
	for _, want := range []string{"Retry-After: ", "Cache-Control: no-store", "Connection: close"} {
		if !strings.Contains(string(rest), want) {
			t.Errorf("503: want %q in %q", want, rest)
		}
	}
}

// CloseDoors: idle clients are closed, busy ones after their answer, clients in the backlog and
// those that have just come are answered; Close returns when all have gone.
func TestCloseDoors(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	w := g.worker()
	idle, busy, fresh, silent := g.dial(), g.dial(), g.dial(), g.dial()
	idle.send(get("/"))
	g.take(w).Answer(ok("idle"))
	idle.want(200, "idle")
	busy.send(get("/busy"), get("/behind"))
	r := g.take(w)
	g.eventually("four clients", func() bool { return g.r.clients.Load() == 4 })
	g.r.CloseDoors()
	idle.wantClosed()
	fresh.send(get("/fresh"))
	s := g.take(w)
	if s.KeepAlive {
		t.Error("a client is told that its connection stays")
	}
	s.Answer(ok("fresh"))
	fresh.want(200, "fresh")
	fresh.wantClosed()
	r.Answer(ok("busy"))
	busy.want(200, "busy")
	busy.wantClosed()
	silent.wantClosed()
	_ = fresh.Close()
	_ = busy.Close()
	g.noClients()
}

// The kernel has accepted clients that nobody has taken yet: closing the listener would reset them.
func TestBacklogIsServed(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.ln = ln
	var waiting []*peer
	for i := range 20 {
		p := g.dial()
		p.send(get(fmt.Sprintf("/%d", i)))
		waiting = append(waiting, p)
	}
	g.r.mu.Lock()
	g.r.doors = append(g.r.doors, door{ln, 0})
	g.r.mu.Unlock()
	g.r.CloseDoors()
	for i, p := range waiting {
		p.want(200, fmt.Sprintf("/%d", i))
		p.wantClosed()
	}
}
