package loop

import (
	"testing"
	"time"

	"gophersnake/pybridge"
)

// deadline leaves time to be slow before, also on a busy machine.
const deadline = 5 * short

// told makes a rig whose overdue requests come by a channel: slow after short, late after deadline,
// hung after both.
func told(t *testing.T, change func(*Config)) (*rig, <-chan Overdue) {
	t.Helper()
	all := make(chan Overdue, 100)
	g := newRig(t, func(c *Config) {
		c.SlowRequest, c.RequestTimeout, c.HungAfter = short, deadline, short
		c.Overdue = func(o Overdue) { all <- o }
		if change != nil {
			change(c)
		}
	})
	return g, all
}

// wantOverdue waits for the next one.
func (g *rig) wantOverdue(all <-chan Overdue, want Lateness) Overdue {
	g.t.Helper()
	select {
	case o := <-all:
		if o.Lateness != want {
			g.t.Fatalf("overdue: got %v, want %v", o.Lateness, want)
		}
		return o
	case <-time.After(patience):
		g.t.Fatalf("overdue: got none, want %v", want)
	}
	return Overdue{}
}

// wantNoMore looks at what was told so far.
func (g *rig) wantNoMore(all <-chan Overdue) {
	g.t.Helper()
	select {
	case o := <-all:
		g.t.Errorf("overdue: got %+v, want no more", o)
	default:
	}
}

// A request that hangs is slow, late, when its client gets 504, and hung, each once, and is
// described without its query.
func TestOverdue(t *testing.T) {
	t.Parallel()
	g, all := told(t, nil)
	w := g.worker()
	begun, p := time.Now(), g.dial()
	p.send(get("/hangs?password=1"))
	r := g.take(w)
	slow := g.wantOverdue(all, Slow)
	within(t, begun, short)
	if slow.Worker != Worker(w) || slow.Slot != r.Slot || slow.Generation != r.Generation ||
		slow.Thread != int(r.Thread) || slow.Lane != 0 || slow.Client != "127.0.0.1" {
		t.Errorf("slow: got %+v for %+v", slow, r)
	}
	if slow.Method != "GET" || slow.Path != "/hangs" {
		t.Errorf("slow: got %q %q, want GET /hangs", slow.Method, slow.Path)
	}
	if slow.App < short || slow.Queue < 0 || slow.Queue > slack || slow.GIL != 0 {
		t.Errorf("slow: got %v of queue, %v of GIL, %v of app", slow.Queue, slow.GIL, slow.App)
	}
	p.want(504, "")
	within(t, begun, deadline)
	if late := g.wantOverdue(all, Late); late.App < deadline {
		t.Errorf("late: got %v of app, want %v", late.App, deadline)
	}
	hung := g.wantOverdue(all, Hung)
	within(t, begun, deadline+short)
	if hung.Slot != r.Slot || hung.App < deadline+short {
		t.Errorf("hung: got %+v", hung)
	}
	r.Answer(ok("never read"))
	g.wantNoMore(all)
}

// A thread that comes free in time is not hung, though its slot was used again.
func TestNotHung(t *testing.T) {
	t.Parallel()
	g, all := told(t, func(c *Config) { c.SlowRequest, c.HungAfter = 0, 2*time.Second })
	w := g.worker()
	late, next := g.dial(), g.dial()
	late.send(get("/late"))
	r := g.take(w)
	g.wantOverdue(all, Late)
	r.Answer(ok("never read"))
	next.send(get("/next"))
	again := g.take(w)
	if again.Slot != r.Slot || again.Generation == r.Generation {
		t.Fatalf("got slot %d, generation %d; want slot %d again", again.Slot, again.Generation,
			r.Slot)
	}
	if second := g.wantOverdue(all, Late); second.Generation != again.Generation {
		t.Errorf("got %+v, want the second request late", second)
	}
	again.Answer(ok("never read either"))
	g.eventually("nothing hangs", func() (none bool) {
		g.on(g.loop(), func() { none = len(g.loop().hanging) == 0 })
		return none
	})
	g.wantNoMore(all)
}

// Time in which no thread has a request is not the app's.
func TestWaitingIsNotOverdue(t *testing.T) {
	t.Parallel()
	g, all := told(t, nil)
	g.threads = 1
	w := g.worker()
	hangs, waits := g.dial(), g.dial()
	hangs.send(get("/hangs"))
	r := g.take(w)
	waits.send(get("/waits"))
	g.inFlight(w, 2)
	since := time.Now()
	g.wantOverdue(all, Slow)
	hangs.want(504, "")
	g.wantOverdue(all, Late)
	g.wantOverdue(all, Hung)
	r.Answer(ok("never read"))
	begun := time.Now()
	waited := begun.Sub(since)
	second := g.take(w) // after more than RequestTimeout
	slow := g.wantOverdue(all, Slow)
	within(t, begun, short)
	if slow.Path != "/waits" || slow.Queue < waited-clockTick || slow.App >= deadline {
		t.Errorf("slow: got %+v, want a queue of %v", slow, waited)
	}
	second.Answer(ok("in time"))
	waits.want(200, "in time")
	g.wantNoMore(all)
}

// An interim response begins no answer (RFC 9110 §15.2).
func TestInterimIsNoAnswer(t *testing.T) {
	t.Parallel()
	g, all := told(t, func(c *Config) { c.HungAfter = 0 })
	w := g.worker()
	begun, p := time.Now(), g.dial()
	p.send(get("/hints"))
	r := g.take(w)
	r.Send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", pybridge.ReplyInterim, patience)
	p.want(103, "")
	g.wantOverdue(all, Slow)
	p.want(504, "")
	within(t, begun, deadline)
	g.wantOverdue(all, Late)
	p.wantClosed()
	g.wantNoMore(all)
	if !r.Gone() {
		t.Error("the thread is not told")
	}
	r.Answer(ok("never read"))
}

// Without RequestTimeout a request may be slow, and nothing else; each once, in any order.
func TestSlowOnly(t *testing.T) {
	t.Parallel()
	g, all := told(t, func(c *Config) { c.RequestTimeout = 0 })
	w := g.worker()
	var runs []*pybridge.Taken
	var peers []*peer
	for range 3 {
		p := g.dial()
		p.send(get("/slow"))
		runs, peers = append(runs, g.take(w)), append(peers, p)
	}
	for range runs {
		g.wantOverdue(all, Slow)
	}
	for i, r := range runs {
		r.Answer(ok("at last"))
		peers[i].want(200, "at last")
	}
	g.wantNoMore(all)
}

// A worker that dies takes its hanging requests with it.
func TestDeadIsNotHung(t *testing.T) {
	t.Parallel()
	g, all := told(t, func(c *Config) { c.SlowRequest, c.HungAfter = 0, time.Minute })
	w := g.worker()
	p := g.dial()
	p.send(get("/hangs"))
	g.take(w)
	g.wantOverdue(all, Late)
	w.Kill()
	g.eventually("nothing hangs", func() (none bool) {
		g.on(g.loop(), func() { none = len(g.loop().hanging) == 0 })
		return none
	})
}

// Deadlines of their own are met in their order, whatever the order of setting.
func TestSetAgain(t *testing.T) {
	t.Parallel()
	var list timing
	var clients [5]client
	for i, at := range []int64{30, 10, 50, 20, 40} {
		list.setAgain(&clients[i], at)
	}
	list.clear(&clients[2])
	list.setAgain(&clients[2], 5)
	for _, want := range []int{2, 1, 3, 0, 4} {
		if c, kind := list.expired(100); c != &clients[want] || kind != timerAgain {
			t.Fatalf("got %p %v, want client %d", c, kind, want)
		}
	}
	if c, _ := list.expired(100); c != nil || list.lists[timerAgain].last != nil {
		t.Error("the list is not empty")
	}
}
