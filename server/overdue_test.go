package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gophersnake/loop"
	"gophersnake/pybridge"
	"gophersnake/server/internal/config"
)

const stacksOfTwo = `Thread gophersnake-1, GET /other for 0.1 s:
  File "/srv/app/other.py", line 1, in other
Thread gophersnake-2, GET /slow for 5.0 s:
  File "/usr/lib/python3.12/socket.py", line 9, in readinto
  File "/srv/venv/lib/python3.12/site-packages/driver/wire.py", line 8, in read
  File "/srv/app/views.py", line 7, in report
    rows = driver.read()
Thread gophersnake-20, GET /third for 0.1 s:
  File "/srv/app/third.py", line 1, in third
Idle: gophersnake-3`

// fakeSuspect is a suspect that remembers what was done to it.
type fakeSuspect struct {
	loop.Worker
	mu          sync.Mutex // over the rest
	asked       int        // for stacks
	interrupted [][3]uint32
	owes        time.Time // since when it owes an answer; zero: it answers at once
	text        string
}

func (f *fakeSuspect) ID() int                      { return 1 }
func (f *fakeSuspect) suspect(id int) suspect       { return map[int]suspect{1: f}[id] }
func (f *fakeSuspect) Lane(int) *pybridge.Lane      { return nil }
func (f *fakeSuspect) Interrupt(l int, s, g uint32) { f.note([3]uint32{uint32(l), s, g}) }

func (f *fakeSuspect) note(hit [3]uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interrupted = append(f.interrupted, hit)
}

func (f *fakeSuspect) Stacks(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.text, nil
}

func (f *fakeSuspect) Probe() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owes.IsZero() {
		return 0
	}
	return time.Since(f.owes)
}

func (f *fakeSuspect) Stats() loop.Stats {
	return loop.Stats{Workers: []loop.WorkerStats{{ID: 1, InFlight: 1}}}
}

// watched is a watch with one fake worker, and what it does.
type watched struct {
	*watch
	worker  *fakeSuspect
	log     *strings.Builder
	retired []string
}

func newWatched() *watched {
	w := &watched{worker: &fakeSuspect{text: stacksOfTwo}, log: &strings.Builder{}}
	w.watch = newWatch(engineSpec{
		config: &config.Config{Timeout: 30 * time.Second, SlowRequest: 5 * time.Second, Threads: 4},
		log:    slog.New(slog.NewTextHandler(w.log, nil)),
		retire: func(id int, why string) { w.retired = append(w.retired, fmt.Sprint(id, " ", why)) },
	})
	w.begin(w.worker)
	return w
}

// report tells of a request and waits until that is dealt with.
func (w *watched) report(n loop.Lateness) {
	w.overdue(loop.Overdue{Lateness: n, Worker: w.worker, Lane: 3, Slot: 4, Generation: 5,
		Thread: 1, Method: "GET", Path: "/slow", Client: "192.0.2.1", App: 5 * time.Second})
	synctest.Wait()
}

// Slow requests show their stacks once for each place in ten seconds; the others are counted.
func TestSlowRequestsAreShownByPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		for range 5 {
			w.report(loop.Slow)
		}
		if n := strings.Count(w.log.String(), "slow request"); n != 1 || w.worker.asked != 1 {
			t.Errorf("got %d entries, %d dumps, want 1 and 1", n, w.worker.asked)
		}
		for _, want := range []string{`request="GET /slow"`, "worker=1", "thread=gophersnake-2",
			"client=192.0.2.1", "app=5s", `stacks="Thread gophersnake-2, GET /slow`} {
			if !strings.Contains(w.log.String(), want) {
				t.Errorf("log: want %q in %s", want, w.log)
			}
		}
		time.Sleep(placeEvery) // of synctest's clock
		w.report(loop.Slow)
		if !strings.Contains(w.log.String(), "more_there_since=4 ") {
			t.Errorf("log: want a count of 4 in %s", w.log)
		}
		w.worker.text = strings.ReplaceAll(stacksOfTwo, "line 7", "line 77")
		time.Sleep(2 * freshSlow)
		w.report(loop.Slow)
		if n := strings.Count(w.log.String(), "slow request"); n != 3 {
			t.Errorf("got %d entries, want 3: another place is slow", n)
		}
		w.close()
		if len(w.worker.interrupted)+len(w.retired) > 0 {
			t.Errorf("got %v and %v, want nothing done", w.worker.interrupted, w.retired)
		}
	})
}

// A late request is shown, then interrupted; a hung one costs its worker the place.
func TestLateAndHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		w.report(loop.Late)
		if len(w.worker.interrupted) != 1 || w.worker.interrupted[0] != [3]uint32{3, 4, 5} ||
			!strings.Contains(w.log.String(), "no answer within --timeout") {
			t.Errorf("got %v and %s", w.worker.interrupted, w.log)
		}
		w.report(loop.Late)
		if n := strings.Count(w.log.String(), "other.py"); n != 1 {
			t.Errorf("other threads: got them %d times, want once in a second", n)
		}
		w.report(loop.Hung)
		const want = "1 gophersnake-2 still busy 5s after --timeout: GET /slow"
		if len(w.retired) != 1 || w.retired[0] != want {
			t.Errorf("retired: got %q, want %q", w.retired, want)
		}
		w.close()
		w.report(loop.Hung)
		if len(w.retired) != 1 {
			t.Error("a report after the end was heard")
		}
	})
}

// A worker that gives nobody the GIL is shown after --slow-request and retired after --timeout,
// each once; one that gives it in time begins anew.
func TestHeldGIL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatched()
		hold := func(d time.Duration) {
			w.worker.mu.Lock()
			w.worker.owes = time.Now()
			w.worker.mu.Unlock()
			time.Sleep(d)
			w.worker.mu.Lock()
			w.worker.owes = time.Time{}
			w.worker.mu.Unlock()
			time.Sleep(2 * probeEvery)
			synctest.Wait()
		}
		shown := func() int { return strings.Count(w.log.String(), "no thread of a worker gets the GIL") }
		hold(4 * time.Second)
		if n := shown(); n != 0 {
			t.Errorf("4 s: got %d entries, want none", n)
		}
		hold(29 * time.Second)
		if n := shown(); n != 1 || len(w.retired) != 0 {
			t.Errorf("29 s: got %d entries and %v, want one and nobody retired", n, w.retired)
		}
		hold(40 * time.Second)
		if n := shown(); n != 2 || len(w.retired) != 1 ||
			!strings.HasPrefix(w.retired[0], "1 no thread has got the GIL for 3") {
			t.Errorf("40 s: got %d entries and %v, want two and one retired", n, w.retired)
		}
		w.close()
	})
}

func TestPlaceOf(t *testing.T) {
	const own = `  File "/srv/app/views.py", line 7, in report` + "\n"
	for thread, want := range map[string]string{
		"gophersnake-2": own, "gophersnake-20": "  File \"/srv/app/third.py\", line 1, in third\n",
		"gophersnake-3": "", "nobody": "",
	} {
		if got := placeOf(stacksOfTwo, thread); got != want {
			t.Errorf("%s: got %q, want %q", thread, got, want)
		}
	}
	library := strings.ReplaceAll(stacksOfTwo, "/srv/app/views.py", "/usr/lib/python3.12/x.py")
	want := "  File \"/usr/lib/python3.12/socket.py\", line 9, in readinto\n"
	if got := placeOf(library, "gophersnake-2"); got != want {
		t.Errorf("library only: got %q, want %q", got, want)
	}
}
