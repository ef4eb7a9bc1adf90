package loop

import (
	"strings"
	"sync"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// Every client sees answers of the old workers, then of the new ones, and none fails.
func TestSwitchIsOneStep(t *testing.T) {
	g := newRig(t, func(c *Config) { c.Loops = 2 })
	olds := []Worker{}
	for range 2 {
		w := g.worker()
		g.serve(w, func(*pybridge.Taken) string { return ok("old") })
		olds = append(olds, w)
	}
	var clients sync.WaitGroup
	asked := make(chan struct{}, 1)
	for range 16 {
		p := g.dial()
		clients.Go(func() {
			for olds, news := 0, 0; news < 20; {
				p.send(get("/"))
				status, body, err := p.answer()
				switch {
				case err != nil || status != 200:
					t.Errorf("answer: got %d %v, want 200", status, err)
					return
				case body == "new":
					news++
				case news > 0:
					t.Errorf("got %q after %d answers of the new workers", body, news)
					return
				default:
					if olds++; olds == 10 {
						asked <- struct{}{}
					}
				}
			}
		})
	}
	for range 16 {
		<-asked
	}
	news := []Worker{}
	for range 2 {
		w := g.unadded()
		g.serve(w, func(*pybridge.Taken) string { return ok("new") })
		news = append(news, w)
	}
	done, drained := g.r.SwitchWorkers(news, olds)
	g.closed("switched", done)
	late := g.dial()
	late.send(get("/"))
	late.want(200, "new")
	clients.Wait()
	for i, c := range drained {
		wantDrained(t, i, c)
	}
}

func wantDrained(t *testing.T, i int, drained <-chan struct{}) {
	t.Helper()
	select {
	case <-drained:
	case <-time.After(patience):
		t.Errorf("old worker %d has not drained", i)
	}
}

// The switch of workers that are dead already ends at once.
func TestSwitchOfTheDead(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	g.r.RemoveWorker(w)
	_, drained := g.r.SwitchWorkers(nil, []Worker{w})
	wantDrained(t, 0, drained[0])
}

// Abort ends answers that have begun, so that the client can tell and the app can close; what has
// not begun goes on.
func TestAbort(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	begun, waiting := g.dial(), g.dial()
	begun.send(get("/stream"))
	stream := g.take(w)
	stream.Send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", 0, patience)
	waiting.send(get("/late"))
	late := g.take(w)
	drained := g.r.DrainWorker(w)
	g.r.AbortWorker(w)
	if status, body, err := begun.answer(); status != 200 || body != "half" || err == nil {
		t.Errorf("begun: got %d %q %v, want 200, half of it and an error", status, body, err)
	}
	if !stream.Gone() || late.Gone() {
		t.Errorf("told to end: got %v and %v, want the stream only", stream.Gone(), late.Gone())
	}
	late.Answer(ok("late"))
	waiting.want(200, "late")
	stream.Answer("")
	wantDrained(t, 0, drained)
	if n := g.r.Aborted(); n != 1 {
		t.Errorf("aborted: got %d, want 1", n)
	}
	if n := g.r.Served(w); n != 2 {
		t.Errorf("served: got %d, want 2", n)
	}
}

// A thread that waits until its client reads is let go.
func TestAbortOfASlowReader(t *testing.T) {
	g := newRig(t, func(c *Config) { c.BufferBytesMax, c.SpoolBytesMax = 1<<20, 0 })
	w := g.worker()
	p := g.dial()
	p.send(get("/big"))
	r := g.take(w)
	r.Send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", 0, patience)
	block := strings.Repeat("x", 16000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !r.Gone() {
			r.Send(block, 0, patience)
		}
		r.Answer("")
	}()
	g.eventually("the thread to wait for its reader", func() bool {
		held := false
		g.on(g.loop(), func() {
			for d := range g.loop().drainers {
				held = held || d.full()
			}
		})
		return held
	})
	drained := g.r.DrainWorker(w)
	g.r.AbortWorker(w)
	wantDrained(t, 0, drained)
	<-ended
}

// A worker may die at any moment while loops are linked to it.
func TestDeathWhileLinked(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Loops = 2 })
	for range 30 {
		w := g.unadded()
		done, _ := g.r.SwitchWorkers([]Worker{w}, nil)
		w.Kill()
		g.closed("the switch", done)
		g.r.RemoveWorker(w)
	}
	for _, l := range g.r.loops {
		g.on(l, func() {
			if n := len(l.lanes); n != 0 {
				t.Errorf("lanes: got %d, want 0", n)
			}
		})
	}
	g.serve(g.worker(), nil)
	p := g.dial()
	p.send(get("/"))
	p.want(200, "/")
}
