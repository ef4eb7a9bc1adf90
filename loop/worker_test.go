package loop

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// Invariant 4: a worker that breaks the format is killed and only its own requests fail.
func TestCorruptWorker(t *testing.T) {
	g := newRig(t, nil)
	bad, good := g.worker(), g.worker()
	atBad, atGood := g.dial(), g.dial()
	atBad.send(get("/bad"))
	r := g.take(bad)
	atGood.send(get("/good"))
	s := g.take(good)
	r.Break()
	select {
	case <-bad.Killed():
	case <-time.After(patience):
		t.Fatal("the worker lives on")
	}
	atBad.want(502, "")
	atBad.wantClosed()
	s.Answer(ok("good"))
	atGood.want(200, "good")
	atGood.send(get("/again"))
	g.take(good).Answer(ok("again"))
	atGood.want(200, "again")
	if n := g.loop().stats.corrupt.Load(); n != 1 {
		t.Errorf("corrupt workers: got %d, want 1", n)
	}
}

// Invariant 10: when a worker dies, what no thread had begun moves to another worker, what runs
// gets 502, what was half answered is cut off so that the client can tell.
func TestWorkerDies(t *testing.T) {
	for _, how := range []string{"doorbell closes", "removed"} {
		t.Run(how, func(t *testing.T) {
			g := newRig(t, nil)
			g.threads = 2
			w := g.worker()
			running, half, moved := g.dial(), g.dial(), g.dial()
			running.send(get("/running"))
			g.take(w)
			half.send(get("/half"))
			g.take(w).Send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 0, patience)
			moved.send(get("/moved/%41?q=1"), get("/next"))
			body := strings.Repeat("b", 20000) // larger than a slot has room for
			moved2 := g.dial()
			moved2.send(fmt.Sprintf("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s",
				len(body), body))
			g.inFlight(w, 4)
			other := g.worker()
			if how == "removed" {
				g.r.RemoveWorker(w)
			} else {
				w.Kill()
			}
			running.want(502, "")
			running.wantClosed()
			if status, b, err := half.answer(); status != 200 || b != "half" || err == nil {
				t.Errorf("half an answer: got %d %q %v, want 200, half of it and an error",
					status, b, err)
			}
			for range 2 {
				r := g.take(other)
				switch r.Path {
				case "/moved/A":
					if r.Target != "/moved/%41?q=1" || r.Query != "q=1" {
						t.Errorf("moved: got target %q, query %q", r.Target, r.Query)
					}
				case "/body":
					if string(r.Body) != body {
						t.Errorf("moved body: got %d bytes, want %d", len(r.Body), len(body))
					}
				}
				r.Answer(ok(r.Path))
			}
			moved.want(200, "/moved/A")
			moved2.want(200, "/body")
			g.take(other).Answer(ok("next"))
			moved.want(200, "next")
		})
	}
}

// A chunked answer of HTTP/1.0 has no end of its own: only a reset tells that it is not whole.
func TestHalfAnswerToHTTP10IsReset(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send("GET / HTTP/1.0\r\n\r\n")
	g.take(w).Send("HTTP/1.1 200 OK\r\n\r\nhalf", 0, patience)
	b := make([]byte, 4)
	for !strings.HasSuffix(string(b), "half") {
		next, err := p.r.ReadByte()
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, next)
	}
	w.Kill()
	p.wantReset()
}

// An answer that was complete when the worker died is delivered, and the next pipelined request
// goes to another worker.
func TestDeathAfterAnswer(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/1"), get("/2"))
	r := g.take(w)
	other := g.worker()
	g.on(g.loop(), func() { // both happen before the loop looks
		r.Answer(ok("1"))
		w.Kill()
	})
	p.want(200, "1")
	g.take(other).Answer(ok("2"))
	p.want(200, "2")
}

// A request without any worker waits in the queue; a body in a file moves too.
func TestFileMovesWithRequest(t *testing.T) {
	g := newRig(t, nil)
	g.threads = 1
	w := g.worker()
	busy := g.dial()
	busy.send(get("/busy"))
	g.take(w)
	p := g.dial()
	body := strings.Repeat("0123456789", 300000)
	p.send("POST /file HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	for b := body; b != ""; b = b[min(len(b), 50000):] {
		n := min(len(b), 50000)
		p.send(fmt.Sprintf("%x\r\n%s\r\n", n, b[:n]))
	}
	p.send("0\r\n\r\n")
	g.inFlight(w, 2)
	w.Kill()
	busy.want(502, "")
	g.eventually("the request to wait", func() bool {
		n := 0
		g.on(g.loop(), func() { n = g.loop().queue.len })
		return n == 1
	})
	r := g.take(g.worker())
	got := make([]byte, r.BodyLen)
	if _, err := r.BodyFile.ReadAt(got, 0); err != nil || string(got) != body {
		t.Errorf("body: got %d bytes and %v, want %d", len(got), err, len(body))
	}
	_ = r.BodyFile.Close()
	r.Answer(ok("file"))
	p.want(200, "file")
}

// DrainWorker: what is in flight ends, what comes goes elsewhere.
func TestDrain(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p, q := g.dial(), g.dial()
	p.send(get("/in-flight"))
	r := g.take(w)
	drained := g.r.DrainWorker(w)
	g.on(g.loop(), func() {})
	q.send(get("/new"))
	g.eventually("the new request to wait", func() bool {
		n := 0
		g.on(g.loop(), func() { n = g.loop().queue.len })
		return n == 1
	})
	select {
	case <-drained:
		t.Fatal("drained with a request in flight")
	default:
	}
	r.Answer(ok("in-flight"))
	p.want(200, "in-flight")
	g.closed("drained", drained)
	g.take(g.worker()).Answer(ok("new"))
	q.want(200, "new")
}

func (g *rig) closed(what string, ch <-chan struct{}) {
	g.t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		g.t.Fatalf("%s: not within %v", what, patience)
	}
}

// A drained worker that dies with a request in flight is drained.
func TestDrainEndsWithDeath(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p, gone := g.dial(), g.dial()
	p.send(get("/"))
	gone.send(get("/gone"))
	g.take(w)
	g.take(w)
	gone.reset() // its slot belongs to nobody
	drained := g.r.DrainWorker(w)
	w.Kill()
	p.want(502, "")
	g.closed("drained", drained)
}

// A panic costs the client it happened for and nobody else; it is counted and logged.
func TestPanicCostsOneClient(t *testing.T) {
	inject := map[string]func(g *rig, w *pybridge.Scripted, p *peer){
		"in received": func(g *rig, _ *pybridge.Scripted, p *peer) {
			p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
			g.breakClient(p, stateBody)
			p.send("more")
		},
		"in a reply": func(g *rig, w *pybridge.Scripted, p *peer) {
			p.send(get("/"))
			r := g.take(w)
			g.breakClient(p, stateRunning)
			r.Answer(ok("sent before"))
			p.want(200, "sent before")
		},
		"in laneDown": func(g *rig, w *pybridge.Scripted, p *peer) {
			p.send(get("/"))
			g.take(w)
			g.breakClient(p, stateRunning)
			w.Kill()
		},
	}
	for where, do := range inject {
		t.Run(where, func(t *testing.T) {
			g := newRig(t, nil)
			w := g.worker()
			other := g.dial()
			other.send(get("/other"))
			r := g.take(w)
			p := g.dial()
			do(g, w, p)
			p.wantNoAnswer()
			if where == "in laneDown" {
				other.want(502, "")
			} else {
				r.Answer(ok("other"))
				other.want(200, "other")
				other.send(get("/again"))
				g.take(w).Answer(ok("again"))
				other.want(200, "again")
			}
			if n := g.loop().stats.panics.Load(); n != 1 {
				t.Errorf("panics: got %d, want 1", n)
			}
			if g.log.count("panic in the reactor") != 1 || g.log.count("goroutine") == 0 {
				t.Errorf("log: want the panic once, with its stack")
			}
		})
	}
}

// wantNoAnswer accepts any end without an answer.
func (p *peer) wantNoAnswer() {
	p.g.t.Helper()
	if status, _, err := p.answer(); err == nil {
		p.g.t.Fatalf("answer: got %d, want none", status)
	}
}

// breakClient takes away what the code relies on in the loop's side of p.
func (g *rig) breakClient(p *peer, s state) {
	g.t.Helper()
	g.eventually("the client", func() bool {
		found := false
		g.on(g.loop(), func() {
			c := g.clientOf(p)
			if c == nil || c.state != s {
				return
			}
			found = true
			if c.incoming != nil { // the next body byte finds none
				c.freeIncoming()
				return
			}
			c.loop, c.booked, c.incoming = nil, 1, &incoming{}
		})
		return found
	})
}

// clientOf finds the loop's side of p. On the loop only.
func (g *rig) clientOf(p *peer) *client {
	port := p.LocalAddr().(*net.TCPAddr).Port
	for c := range g.loop().clients {
		if int(c.port) == port {
			return c
		}
	}
	return nil
}
