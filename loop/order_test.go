package loop

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// Invariant 8: pipelined requests are answered in order, one of them in flight at a time (TO-12,
// TO-20).
func TestPipelinedInOrder(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	const n = 300
	var all strings.Builder
	for i := range n {
		all.WriteString(get(fmt.Sprintf("/%d", i)))
	}
	p.send(all.String())
	for i := range n {
		r := g.take(w)
		if _, err := w.Take(0); err == nil {
			t.Fatalf("request %d: a second one of the client is in flight", i)
		}
		r.Answer(ok(r.Path))
		p.want(200, fmt.Sprintf("/%d", i))
	}
}

// TO-20: the second request's bytes come in the first one's segment, for every length of them.
func TestSecondInFirstSegment(t *testing.T) {
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	second := get("/second")
	for i := range len(second) + 1 {
		p := g.dial()
		p.send(get("/first"), second[:i])
		p.want(200, "/first")
		p.send(second[i:])
		p.want(200, "/second")
		_ = p.Close()
	}
}

// TO-21, TO-13, invariant 9: what follows a bad request never runs, and the answers keep order.
func TestErrorAfterSlowRequest(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/slow"), "BAD\r\n\r\n", get("/never"))
	r := g.take(w)
	p.send(get("/never"))
	r.Answer(ok("slow"))
	p.want(200, "slow")
	p.want(400, "")
	p.wantClosed()
	if _, err := w.Take(50 * time.Millisecond); err == nil {
		t.Fatal("a request after the error was served")
	}
}

// TO-13: the worker ends the connection with its answer to the first request.
func TestCloseByAnswer(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/first"), get("/second"))
	g.take(w).Send(ok("last"), pybridge.ReplyLast|pybridge.ReplyClose, patience)
	p.want(200, "last")
	p.wantClosed()
	if _, err := w.Take(50 * time.Millisecond); err == nil {
		t.Fatal("a request after the last answer was served")
	}
}

// The client has its answer when it is whole, though the app still closes its iterable: the next
// pipelined request runs meanwhile, and the slot is free only afterwards.
func TestAnswerEndsBeforeSlot(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/1"), get("/2"))
	first := g.take(w)
	first.Send(ok("1"), pybridge.ReplyEnd, patience)
	p.want(200, "1")
	second := g.take(w)
	g.inFlight(w, 2)
	first.Send("", pybridge.ReplyLast, patience)
	g.inFlight(w, 1)
	second.Send(ok("2"), pybridge.ReplyEnd, patience)
	p.want(200, "2")
	w.Kill() // with nobody waiting for the slot
	p.send(get("/3"))
	g.take(g.worker()).Answer(ok("3"))
	p.want(200, "3")
}

// TO-22: each request of a connection is judged by itself.
func TestSecondHostIsJudged(t *testing.T) {
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	p := g.dial()
	p.send(get("/"), "GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
	p.want(200, "/")
	p.want(400, "")
	p.wantClosed()
}

// TO-24, R1: after an early answer nothing that looks like a request is parsed, and the answer
// survives what the client still sends (R2).
func TestEarlyAnswerThenBody(t *testing.T) {
	g := newRig(t, func(c *Config) { c.Limits.BodyBytesMax = 1000 })
	w := g.worker()
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
	p.send(strings.Repeat("x", 50000), get("/inside"), strings.Repeat("x", 50000))
	p.want(413, "")
	p.wantClosed()
	if _, err := w.Take(50 * time.Millisecond); err == nil {
		t.Fatal("bytes of a refused body were served as a request")
	}
}

// KA-16, KA-17, TO-11: a client that has closed its sending side gets its answers, also those to
// pipelined requests.
func TestHalfClosedIsAnswered(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/1"), get("/2"), "GET /incomplete HT")
	_ = p.CloseWrite()
	for _, body := range []string{"/1", "/2"} {
		r := g.take(w)
		g.eventually("the thread to be told", r.HalfClosed)
		r.Answer(ok(body))
		p.want(200, body)
	}
	p.wantClosed()
	g.noClients()
}

// A half-closed client that still owes a part of its body costs nothing more.
func TestHalfClosedInBody(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/1"), "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
	_ = p.CloseWrite()
	r := g.take(w)
	r.Answer(ok("1"))
	p.want(200, "1")
	p.wantClosed()
	g.noClients()
}

func (g *rig) noClients() {
	g.t.Helper()
	g.eventually("no client", func() bool { return g.r.clients.Load() == 0 })
}

// Invariant 2: a late reply reaches nobody, though descriptor and slot have new owners. Every
// answer carries its request's canary. (FI-05 in small.)
func TestLateReplies(t *testing.T) {
	g := newRig(t, nil)
	g.threads = 64
	w := g.worker()
	for round := range 30 {
		var stale []*pybridge.Taken
		for i := range 8 {
			p := g.dial()
			p.send(get(fmt.Sprintf("/stale/%d/%d", round, i)))
			stale = append(stale, g.take(w))
			p.reset()
		}
		g.noClients()
		for _, r := range stale {
			g.eventually("the request to be told", r.Gone)
		}
		var fresh []*peer // with the descriptors of the others
		var taken []*pybridge.Taken
		for i := range 8 {
			p := g.dial()
			p.send(get(fmt.Sprintf("/fresh/%d/%d", round, i)))
			fresh = append(fresh, p)
			taken = append(taken, g.take(w))
		}
		for i := range stale {
			stale[i].Answer(ok(stale[i].Path))
			taken[i].Answer(ok(taken[i].Path))
		}
		for i, p := range fresh {
			p.want(200, fmt.Sprintf("/fresh/%d/%d", round, i))
			_ = p.Close()
		}
	}
	g.inFlight(w, 0)
}

// inFlight waits until the loops count n requests in the worker.
func (g *rig) inFlight(w *pybridge.Scripted, n int64) {
	g.t.Helper()
	g.eventually(fmt.Sprintf("%d requests in flight", n), func() bool {
		g.r.mu.Lock()
		defer g.r.mu.Unlock()
		return g.r.members[Worker(w)].inFlight.Load() == n
	})
}

// A request whose client has gone before any thread began it never runs, and its slot is free.
func TestQueuedOfGoneClientNeverRuns(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	for range 200 { // more than there are slots
		p := g.dial()
		p.send(get("/gone"))
		g.inFlight(w, 1)
		p.reset()
		g.inFlight(w, 0)
	}
	if r, err := w.Take(0); err == nil {
		t.Fatalf("%s was served", r.Path)
	}
}

// TO-09, TO-10: a client that vanishes in its upload or download costs nothing.
func TestVanishing(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	before := descriptors(t)
	for range 20 {
		p := g.dial()
		p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
		p.send(strings.Repeat("x", 2000000))
		p.reset()
		p = g.dial()
		p.send(get("/"))
		r := g.take(w)
		r.Send("HTTP/1.1 200 OK\r\n\r\n"+strings.Repeat("x", 100000), 0, patience)
		_, _ = io.ReadFull(p, make([]byte, 1000))
		p.reset()
		for !r.Gone() { // what is sent is acknowledged all the same: the thread never waits
			if !r.Send(strings.Repeat("x", 1000), 0, patience) {
				t.Fatal("the thread waits for a client that has gone")
			}
		}
		r.Send("", pybridge.ReplyLast|pybridge.ReplyAbort, patience)
	}
	g.noClients()
	g.inFlight(w, 0)
	g.eventually("all descriptors closed", func() bool { return descriptors(t) <= before })
	if _, err := w.Take(0); err == nil {
		t.Fatal("an unfinished upload was served")
	}
}
