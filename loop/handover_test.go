package loop

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// HandOver: a client that was promised another request gets its answer, as the last one; an idle
// one is closed after a while; the backlog is left to the other owner of the listener.
func TestHandOver(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.KeepAlive = 2 * time.Second })
	w := g.worker()
	shared, err := g.ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.FileListener(shared)
	_ = shared.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	idle, asks, busy := g.dial(), g.dial(), g.dial()
	for _, p := range []*peer{idle, asks} {
		p.send(get("/"))
		g.take(w).Answer(ok("before"))
		p.want(200, "before")
	}
	busy.send(get("/busy"))
	r := g.take(w)
	g.r.HandOver()
	g.on(g.loop(), func() {}) // it has looked for idle clients
	asks.send(get("/after"))
	last := g.take(w)
	if last.KeepAlive {
		t.Error("a client is told that its connection stays")
	}
	last.Answer(ok("after"))
	asks.want(200, "after")
	asks.wantClosed()
	if !r.KeepAlive {
		t.Fatal("a client was told that its connection ends: nothing is promised")
	}
	r.Answer(ok("busy"))
	busy.want(200, "busy")
	busy.send(get("/promised"))
	g.take(w).Answer(ok("promised"))
	busy.want(200, "promised")
	busy.wantClosed()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.r.Settle(ctx) // returns although idle is there
	idle.wantClosed()
	g.r.Settle(t.Context())

	p := g.dial()
	p.send(get("/other"))
	c, err := other.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := make([]byte, len(get("/other")))
	if _, err := c.Read(text); !strings.HasPrefix(string(text), "GET /other") {
		t.Errorf("the other owner reads %q (%v)", text, err)
	}
}

func TestAliveNoticesALoopThatIsStuck(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Loops = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := g.r.Alive(ctx); err != nil {
		t.Fatal(err)
	}
	stuck, running := make(chan struct{}), make(chan struct{})
	g.r.loops[1].post(func() { close(running); <-stuck })
	<-running
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := g.r.Alive(ctx)
	close(stuck)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "loop 1 ") {
		t.Errorf("got %v, want loop 1 named", err)
	}
}

// A loop that has answered is not to blame when the time is over.
func TestAliveBlamesTheSilent(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{})
	close(answered)
	answers := []<-chan struct{}{answered, make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 { // select takes either when both are ready
		if err := silent(ctx, answers); err == nil || !strings.Contains(err.Error(), "loop 1 ") {
			t.Fatalf("got %v, want loop 1 named", err)
		}
		if err := silent(ctx, answers[:1]); err != nil {
			t.Fatalf("got %v, want none", err)
		}
	}
}
