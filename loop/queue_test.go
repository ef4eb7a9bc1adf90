package loop

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// --queue counts what waits in slots too: with one thread, one request runs, QueueMax wait and the
// next one is refused.
func TestQueueLimitCountsSlots(t *testing.T) {
	t.Parallel()
	const most = 3
	g, w := newPool(t, 1, 1, func(c *Config) { c.QueueMax = most })
	slow, long := g.hold(w[0])
	var waiting []*peer
	for i := range most {
		p := g.dial()
		p.send(get(fmt.Sprint("/", i)))
		waiting = append(waiting, p)
		g.inFlight(w[0], int64(i+2))
	}
	p := g.dial()
	p.send(get("/more"))
	p.want(503, "")
	waiting[0].reset() // it makes room
	g.inFlight(w[0], most)
	late := g.dial()
	late.send(get("/late"))
	g.inFlight(w[0], most+1)
	s := g.r.Stats()
	if s.Unavailable["queue"] != 1 || s.Waiting != most || s.WaitingMax != most {
		t.Errorf("stats: got %d refused, %d waiting, %d at most, want 1, %d, %d",
			s.Unavailable["queue"], s.Waiting, s.WaitingMax, most, most)
	}
	g.serve(w[0], nil)
	long.Answer(ok("long"))
	slow.want(200, "long")
	for i, p := range waiting[1:] {
		p.want(200, fmt.Sprint("/", i+1))
	}
	late.want(200, "/late")
}

// --queue-timeout is for what no thread has begun, in the queue or in a slot. What runs has
// --timeout.
func TestQueueTimeoutInSlots(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, func(c *Config) { c.QueueTimeout = holdable })
	slow, long := g.hold(w[0])
	p := g.dial()
	begun := time.Now()
	p.send(get("/waits"))
	g.inFlight(w[0], 2)
	p.want(503, "")
	within(t, begun, holdable)
	g.inFlight(w[0], 1)
	long.Answer(ok("long"))
	slow.want(200, "long")
	if r, err := w[0].Take(0); err == nil {
		t.Errorf("%s was served after its 503", r.Path)
	}
	if n := g.r.Stats().Unavailable["queue-timeout"]; n != 1 {
		t.Errorf("counted: got %d, want 1", n)
	}
}

// A queued request whose client was reset never runs, be it in the queue or in a slot. One that has
// closed its sending side only still reads, so its request runs (RFC 9112 §9.6); unless it is reset
// later, which only a look at its socket tells.
func TestQueuedOfClientsThatLeave(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"reset", "half", "half, then reset"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := newRig(t, nil)
			g.threads = 1
			p := g.dial()
			p.send(get("/leaves"))
			g.queued(1)
			if how == "reset" {
				p.reset()
				g.queued(0)
			} else {
				_ = p.CloseWrite()
				g.halfClosed()
			}
			if how == "half, then reset" {
				p.reset()
			}
			w := g.worker()
			q := g.dial()
			q.send(get("/stays"))
			if how == "half" {
				g.take(w).Answer(ok("half"))
				p.want(200, "half")
			}
			r := g.take(w)
			if r.Path != "/stays" {
				t.Errorf("got %s, want /stays only", r.Path)
			}
			r.Answer(ok(""))
			q.want(200, "")
		})
	}
}

// A half-closed client's request that lies in a slot runs too.
func TestHalfClosedInSlot(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, nil)
	_, long := g.hold(w[0])
	p := g.dial()
	p.send(get("/half"))
	g.inFlight(w[0], 2)
	_ = p.CloseWrite()
	g.halfClosed()
	long.Answer(ok(""))
	g.take(w[0]).Answer(ok("half"))
	p.want(200, "half")
}

// queued waits until so many requests are in the queue.
func (g *rig) queued(n int64) {
	g.t.Helper()
	g.eventually(fmt.Sprint(n, " in the queue"), func() bool { return g.r.queued.Load() == n })
}

// halfClosed waits until the loop knows that a client sends no more.
func (g *rig) halfClosed() {
	g.t.Helper()
	g.eventually("the loop to see the half-close", func() bool {
		seen := false
		g.on(g.loop(), func() {
			for c := range g.loop().clients {
				seen = seen || c.eof
			}
		})
		return seen
	})
}

// While no worker is there and none will come soon, 503 comes at once, with the time until then;
// also to those that wait already, and to what a dying worker leaves behind.
func TestNoWorkers(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, nil)
	running, long := g.hold(w[0])
	behind := g.dial()
	behind.send(get("/behind"))
	g.inFlight(w[0], 2)
	g.r.NoWorkers("it serves still", time.Now().Add(time.Hour))
	g.on(g.loop(), func() {})
	long.Answer(ok("long"))
	running.want(200, "long")
	g.take(w[0]).Answer(ok("behind"))
	behind.want(200, "behind")

	g.r.RemoveWorker(w[0])
	g.r.NoWorkers("", time.Time{})
	waits := g.dial()
	waits.send(get("/waits"))
	g.queued(1)
	g.r.NoWorkers("the app crashes", time.Now().Add(4500*time.Millisecond))
	waits.wantRetry(5)
	comes := g.dial()
	comes.send(get("/comes"))
	comes.wantRetry(5)
	g.r.NoWorkers("the app crashes", time.Now().Add(time.Hour))
	later := g.dial()
	later.send(get("/later"))
	later.wantRetry(retrySecondsMax)
	if n := g.r.Stats().Unavailable["workers"]; n != 3 {
		t.Errorf("counted: got %d, want 3", n)
	}
	next := g.worker()
	again := g.dial()
	again.send(get("/again"))
	g.take(next).Answer(ok("again"))
	again.want(200, "again")
}

// A stop loses no request that waits in the queue: it goes to a worker before that drains. What
// comes later gets 503 at once.
func TestStopServesTheQueue(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 2, 1, nil)
	_, long := g.hold(w[0])
	_, longer := g.hold(w[1])
	upload := g.dial()
	upload.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n1")
	var last *peer
	g.eventually("both workers to stand still and a request in the queue", func() (queued bool) {
		last = g.dial()
		last.send(get("/last"))
		g.eventually("it in the loop", func() (seen bool) {
			g.on(g.loop(), func() {
				c := g.clientOf(last)
				seen = c != nil && c.state != stateHead
				queued = seen && c.state == stateQueued
				for _, ln := range g.loop().lanes {
					queued = queued && ln.still
				}
			})
			return seen
		})
		return queued
	})
	g.r.CloseDoors()
	_, drained := g.r.SwitchWorkers(nil, []Worker{w[0], w[1]})
	g.queued(0)
	upload.send("2")
	upload.wantRetry(1)
	g.serve(w[0], nil)
	g.serve(w[1], nil)
	long.Answer(ok(""))
	longer.Answer(ok(""))
	last.want(200, "/last")
	for _, d := range drained {
		g.closed("drained", d)
	}
}

// wantRetry reads a 503 that asks to come again in so many seconds.
func (p *peer) wantRetry(seconds int) {
	p.g.t.Helper()
	a, err := http.ReadResponse(p.r, nil)
	if err != nil {
		p.g.t.Fatal(err)
	}
	got, _ := strconv.Atoi(a.Header.Get("Retry-After"))
	if a.StatusCode != 503 || got > seconds || got < seconds-1 || got < 1 {
		p.g.t.Fatalf("got %d, Retry-After %q, want 503 and %d", a.StatusCode,
			a.Header.Get("Retry-After"), seconds)
	}
}

// Requests tells what waits and runs, without a query.
func TestRequests(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 2, func(c *Config) { c.Loops = 2 })
	if all := g.r.Requests(); len(all) != 0 {
		t.Fatalf("nothing runs: got %+v", all)
	}
	want := map[string]RequestState{"/gone": RequestAbandoned, "/runs": RequestAnswering,
		"/waits/%41": RequestWaiting}
	gone, runs, waits := g.dial(), g.dial(), g.dial()
	gone.send(get("/gone"))
	leaving := g.take(w[0])
	gone.reset()
	g.eventually("the request to be told", leaving.Gone)
	runs.send("POST /runs?token=secret HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
	running := g.take(w[0])
	running.Send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha", 0, patience)
	b := make([]byte, 10)
	_, _ = runs.r.Read(b)
	waits.send(get("/waits/%41?token=secret"))
	g.inFlight(w[0], 3)
	all := g.r.Requests()
	for _, q := range all {
		if state, known := want[q.Path]; !known || state != q.State {
			t.Errorf("got %+v", q)
		}
		if started := q.State != RequestWaiting; started != (q.Thread >= 0) || q.Worker != 1 ||
			q.Age <= 0 || q.Age > patience {
			t.Errorf("got %+v", q)
		}
		if strings.Contains(fmt.Sprint(q), "secret") {
			t.Errorf("a secret is shown: %+v", q)
		}
	}
	if len(all) != 3 {
		t.Errorf("got %d requests, want 3: %+v", len(all), all)
	}
	leaving.Answer("")
	running.Answer("ha")
	g.take(w[0]).Answer(ok(""))
	waits.want(200, "")
	g.inFlight(w[0], 0)
	g.r.RemoveWorker(w[0])
	queued := g.dial()
	queued.send(get("/queued?q"))
	g.queued(1)
	all = g.r.Requests()
	if len(all) != 1 || all[0].Path != "/queued" || all[0].Method != "GET" ||
		all[0].State != RequestQueued || all[0].Thread != -1 || all[0].Client != "127.0.0.1" {
		t.Errorf("queue: got %+v", all)
	}
}

func TestShownLine(t *testing.T) {
	for head, want := range map[string]string{
		"GET /a/b?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n": "GET /a/b",
		"GET / HTTP/1.1\r\n":                            "GET /",
		"OPTIONS * HTTP/1.1\r\n\r\n":                    "OPTIONS *",
		"":                                              " ",
		"\x00\x01\x02":                                  " ",
		"GET /\x1b[31m HTTP/1.1\r\n":                    " ",
		"GET":                                           " ",
		"GET /" + strings.Repeat("x", 1000) + "?s": "GET /" + strings.Repeat("x", 507),
	} {
		method, path := shownLine([]byte(head))
		if got := method + " " + path; got != want {
			t.Errorf("%.40q: got %q, want %q", head, got, want)
		}
	}
}

// What the reactor counts: answers by class, waits of requests, requests by worker.
func TestStats(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, nil)
	slow, long := g.hold(w[0])
	p, bad := g.dial(), g.dial()
	p.send(get("/"))
	bad.send("BAD\r\n\r\n")
	bad.want(400, "")
	g.inFlight(w[0], 2)
	<-time.NewTimer(20 * time.Millisecond).C // a wait has a length, not an end
	long.Answer(ok(""))
	slow.want(200, "")
	g.take(w[0]).Answer(ok(""))
	p.want(200, "")
	s := g.r.Stats()
	if s.Answers != [6]uint64{2: 2, 4: 1} {
		t.Errorf("answers by class: got %v", s.Answers)
	}
	if n := s.Waits.Count(); n != 2 || s.Waits != s.Recent {
		t.Errorf("waits: got %v, lately %v, want 2", s.Waits, s.Recent)
	}
	if q := s.Waits.Quantile(0.99); q < 25*time.Millisecond {
		t.Errorf("longest wait: got %v, want above 20 ms", q)
	}
	if q := s.Waits.Quantile(0.5); q > 25*time.Millisecond {
		t.Errorf("shorter wait: got %v", q)
	}
	g.inFlight(w[0], 0)
	s = g.r.Stats()
	if len(s.Workers) != 1 || s.Workers[0] != (WorkerStats{ID: 1, Threads: 1, Served: 2}) {
		t.Errorf("workers: got %+v", s.Workers)
	}
}

func TestWaits(t *testing.T) {
	var w Waits
	if q := w.Quantile(0.5); q != 0 {
		t.Errorf("of nothing: got %v", q)
	}
	for _, wait := range []time.Duration{-time.Second, 0, time.Millisecond, time.Millisecond + 1,
		time.Hour} {
		w[bucketOf(int64(wait))]++
	}
	if w[0] != 2 || w[1] != 1 || w[2] != 1 || w[waitBuckets-1] != 1 {
		t.Errorf("buckets: got %v", w)
	}
	if q := w.Quantile(0.6); q != time.Millisecond {
		t.Errorf("three of five: got %v, want 1ms", q)
	}
	var r recent
	for range 2 * picturesMax {
		r.add(w)
	}
	w[3] += 7
	if got := r.since(w); got != (Waits{3: 7}) {
		t.Errorf("lately: got %v, want 7", got)
	}
}

// A loop that gets a worker late, when it is dead again, still knows that there are none.
func TestDeadWorkerIsNoHope(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	w := g.unadded()
	m := &member{worker: w, drained: make(chan struct{})}
	ln := g.loop().enrol(m)
	m.removed.Store(true)
	g.r.NoWorkers("the app crashes", time.Now().Add(4500*time.Millisecond))
	g.on(g.loop(), func() { g.loop().attach(ln) })
	p := g.dial()
	p.send(get("/"))
	p.wantRetry(5)
}
