package loop

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// newPool makes a rig with workers of so many threads each.
func newPool(t testing.TB, workers, threads int, change func(*Config)) (*rig,
	[]*pybridge.Scripted) {
	t.Helper()
	g := newRig(t, change)
	g.threads = threads
	var all []*pybridge.Scripted
	for range workers {
		all = append(all, g.worker())
	}
	return g, all
}

// hold makes a worker busy with one request; the answer lets it go.
func (g *rig) hold(w *pybridge.Scripted) (*peer, *pybridge.Taken) {
	g.t.Helper()
	for range 100 { // until the request comes to this worker
		p := g.dial()
		p.send(get("/long"))
		var taken *pybridge.Taken
		for end := time.Now().Add(patience); taken == nil; {
			if time.Now().After(end) {
				g.t.Fatalf("no worker gets a request within %v", patience)
			}
			for _, other := range g.workers {
				if r, err := other.Take(time.Millisecond); err == nil {
					if other == w {
						return p, r
					}
					taken = r
					r.Answer(ok("other"))
				}
			}
		}
		p.want(200, "other")
		_ = p.Close()
	}
	g.t.Fatal("no request comes to the worker")
	return nil, nil
}

// With 2 workers of 1 thread each, no short request waits for the long one, wherever it was put.
func TestShortRequestsPassALongOne(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprint(loops, " loops"), func(t *testing.T) {
			g, w := newPool(t, 2, 1, func(c *Config) { c.Loops, c.QueueMax = loops, 1000 })
			slow, long := g.hold(w[0])
			var all []*peer
			for range 200 {
				p := g.dial()
				p.send(get("/short"))
				all = append(all, p)
			}
			g.eventually("all to be in, some behind the long one", func() bool {
				return g.r.Stats().Waiting == int64(1+len(all)-len(w)) // each has one thread
			})
			g.serve(w[1], nil)
			for _, p := range all {
				p.want(200, "/short")
			}
			s := g.r.Stats()
			if s.Stolen == 0 {
				t.Error("no request was moved: the test did not see what it is for")
			}
			if s.InFlight != 1 || s.Waiting != 0 {
				t.Errorf("after them: got %d in flight, %d waiting, want the long one",
					s.InFlight, s.Waiting)
			}
			long.Answer(ok("long"))
			slow.want(200, "long")
		})
	}
}

// A request moves whole, wherever its body is.
func TestWhatMoves(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 2, 1, nil)
	_, long := g.hold(w[0])
	_, longer := g.hold(w[1])
	const chunked = "Transfer-Encoding: chunked\r\n\r\n"
	var all []*peer
	sizes := []int{0, 100, 20_000, 300_000, 3_000_000}
	for i, size := range sizes {
		body := strings.Repeat("x", size)
		p := g.dial()
		head := fmt.Sprintf("POST /%d/%%41?q=%d HTTP/1.1\r\nHost: a\r\n", i, size)
		if size < 1_000_000 {
			p.send(head, fmt.Sprintf("Content-Length: %d\r\n\r\n", size), body)
		} else {
			p.send(head, chunked, fmt.Sprintf("%x\r\n", size), body, "\r\n0\r\n\r\n")
		}
		all = append(all, p)
		g.eventually("the request to wait", func() bool {
			return g.r.Stats().Waiting == int64(i+1)
		})
	}
	longer.Answer(ok("longer"))
	for range sizes { // those that lay here already come first
		r := g.take(w[1])
		i := int(r.Path[1] - '0')
		if want := fmt.Sprintf("/%d/A?q=%d", i, sizes[i]); r.Path+"?"+r.Query != want {
			t.Errorf("got %s?%s, want %s", r.Path, r.Query, want)
		}
		if got := bodyBytes(t, r); got != sizes[i] || !r.HasBody {
			t.Errorf("request %d: got a body of %d, %v, want %d", i, got, r.HasBody, sizes[i])
		}
		r.Answer(ok(r.Path))
		all[i].want(200, r.Path)
	}
	if n := g.r.Stats().Stolen; n == 0 {
		t.Error("nothing was moved: the test did not see what it is for")
	}
	long.Answer(ok("long"))
}

// bodyBytes is how long the body is that a request really has.
func bodyBytes(t *testing.T, r *pybridge.Taken) int {
	t.Helper()
	if r.BodyFile == nil {
		return len(r.Body)
	}
	defer r.BodyFile.Close()
	b, err := io.ReadAll(io.NewSectionReader(r.BodyFile, 0, r.BodyLen))
	if err != nil {
		t.Error(err)
	}
	return len(b)
}

// A load spreads over workers before a second thread of one is used, and one request at a time
// stays with one worker.
func TestPlacement(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 3, 4, nil)
	// No look: it would call a worker still whose requests this test is late to take.
	g.on(g.loop(), func() { g.loop().lookArmed = true })
	p := g.dial()
	for range 5 {
		p.send(get("/"))
		g.take(w[0]).Answer(ok(""))
		p.want(200, "")
	}
	for round := range 4 {
		for range w {
			g.dial().send(get("/"))
		}
		for i := range w {
			g.inFlight(w[i], int64(round+1))
			g.take(w[i])
		}
	}
}

// What waits for an old worker moves to the new ones when they take over, so that a long queue does
// not delay a reload; what runs goes on.
func TestSwitchMovesWhatWaits(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, nil)
	slow, long := g.hold(w[0])
	var waiting []*peer
	for i := range 20 {
		p := g.dial()
		p.send(get(fmt.Sprint("/", i)))
		waiting = append(waiting, p)
		g.inFlight(w[0], int64(i+2))
	}
	next := g.unadded()
	_, drained := g.r.SwitchWorkers([]Worker{next}, []Worker{w[0]})
	for i, p := range waiting {
		r := g.take(next)
		if want := fmt.Sprint("/", i); r.Path != want {
			t.Errorf("order: got %s, want %s", r.Path, want)
		}
		r.Answer(ok("new"))
		p.want(200, "new")
	}
	select {
	case <-drained[0]:
		t.Error("drained with a request in flight")
	default:
	}
	long.Answer(ok("old"))
	slow.want(200, "old")
	g.closed("drained", drained[0])
}

// A worker that stands still gets no more while another moves, and some again after its answer.
func TestStillWorker(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 2, 2, nil)
	_, long := g.hold(w[0]) // its second thread does not come either, as if the GIL were held
	g.serve(w[1], nil)
	still := func() (yes bool) {
		g.on(g.loop(), func() { yes = g.loop().lanes[0].still })
		return yes
	}
	p := g.dial()
	g.eventually("the worker to stand still", func() bool {
		p.send(get("/"), get("/"))
		q := g.dial()
		q.send(get("/"))
		q.want(200, "/")
		_ = q.Close()
		p.want(200, "/")
		p.want(200, "/")
		return still()
	})
	long.Answer(ok(""))
	g.eventually("the worker to move", func() bool { return !still() })
}

// A request to upgrade that no thread had begun moves when its worker dies, with its socket.
func TestUpgradeMovesFromTheDead(t *testing.T) {
	t.Parallel()
	g, w := newPool(t, 1, 1, func(c *Config) { c.WebSocket = true })
	slow, _ := g.hold(w[0])
	p := g.dial()
	p.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	g.inFlight(w[0], 2)
	w[0].Kill()
	slow.want(502, "")
	r := g.take(g.worker())
	if r.Path != "/ws" {
		t.Errorf("got %s, want /ws", r.Path)
	}
	r.Send(ok("no upgrade"), pybridge.ReplyLast|pybridge.ReplyClose, patience)
	p.want(200, "no upgrade")
}

// A body's temporary file is closed once, however often its request moved.
func TestMovedFilesAreClosed(t *testing.T) {
	t.Parallel()
	before := openTemporaries(t)
	g, w := newPool(t, 2, 1, nil)
	_, long := g.hold(w[0])
	_, other := g.hold(w[1])
	p := g.dial()
	p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n",
		strings.Repeat("x", 2_000_000))
	g.eventually("the request to wait", func() bool { return g.r.Stats().Waiting == 1 })
	other.Answer(ok(""))
	r := g.take(w[1])
	_ = r.BodyFile.Close()
	r.Answer(ok(""))
	p.want(200, "")
	long.Answer(ok(""))
	for _, s := range w {
		s.Kill() // with what lay in its sockets
	}
	g.eventually("no temporary file", func() bool {
		return len(openTemporaries(t)) <= len(before)
	})
}

// openTemporaries lists the unlinked files that this test's server keeps open.
func openTemporaries(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range all {
		name, _ := os.Readlink("/proc/self/fd/" + f.Name())
		if strings.Contains(name, t.Name()) && strings.HasSuffix(name, "(deleted)") {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}
