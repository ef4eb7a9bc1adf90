package loop

import (
	"context"
	"slices"
	"testing"
	"time"
)

// A nap is possible when requests wait for a thread, and its length is bounded.
func TestNapTime(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 2, nil)
	var all []*peer
	for _, c := range []struct {
		requests int64
		want     time.Duration
	}{{0, 0}, {1, 0}, {2, 0}, {3, napPerWaiting}, {5, 3 * napPerWaiting}, {60, napMax}} {
		for len(all) < int(c.requests) {
			p := g.dial()
			p.send(get("/"))
			all = append(all, p)
		}
		g.inFlight(w[0], c.requests)
		var got time.Duration
		g.on(g.loop(), func() { got = g.loop().napTime() })
		if got != c.want {
			t.Errorf("nap with %d requests for 2 threads: got %v, want %v", c.requests, got, c.want)
		}
	}
	g.serve(w[0], nil)
	for _, p := range all {
		p.want(200, "/")
	}
}

// A loop that does not find gnet's epoll descriptor waits as gnet does.
func TestServesWithoutLulls(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	l := g.loop()
	g.on(l, func() {
		if l.turns.poller < 0 {
			t.Error("gnet's epoll descriptor was not found")
		}
		l.turns.poller = -1
	})
	g.serve(g.worker(), nil)
	p := g.dial()
	for range 100 {
		p.send(get("/a"), get("/b"))
		p.want(200, "/a")
		p.want(200, "/b")
	}
}

// What a busy worker has answered is seen at the end of a nap, though it rings nobody: its next
// request takes long.
func TestNapSeesWhatIsNotRungFor(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, nil)
	quick, long, last := g.dial(), g.dial(), g.dial()
	quick.send(get("/quick"))
	first := g.take(w[0])
	long.send(get("/long"))
	last.send(get("/last"))
	g.inFlight(w[0], 3)
	first.Answer(ok("quick"))
	second := g.take(w[0])
	quick.want(200, "quick")
	second.Answer(ok("long"))
	long.want(200, "long")
	g.take(w[0]).Answer(ok("last"))
	last.want(200, "last")
}

// gnet hears of tasks by an eventfd that it watches edge-triggered: a turn that has seen it must not
// keep that to itself. These tasks are not counted, as ours are.
func TestTurnsLeaveTasksToGnet(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	p := g.dial()
	for range 200 {
		p.send(get("/"))
		p.want(200, "/")
		done := make(chan struct{})
		if err := g.loop().events.Execute(t.Context(), uncounted(func() { close(done) })); err != nil {
			t.Fatal(err)
		}
		g.closed("the task", done)
	}
}

// uncounted is a task that the loop does not know of.
type uncounted func()

func (f uncounted) Run(context.Context) error { f(); return nil }

// A lull does not begin while gnet has a task: of those its descriptor tells nothing, and a new
// client is one. The quickest tell, for others may have had to wait for a CPU.
func TestNewClientsDoNotWaitForLulls(t *testing.T) {
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	var took []time.Duration
	for range 40 {
		begun := time.Now()
		p := g.dial()
		p.send(get("/"))
		p.want(200, "/")
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	if quick := took[len(took)/8]; quick >= lullMax {
		t.Errorf("a connection and its request: got %v at best, want less than %v", quick, lullMax)
	}
}
