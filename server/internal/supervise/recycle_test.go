package supervise

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// why finds the reason that a worker leaves for, "" when it does not.
func (b *bench) why(id int) string {
	for _, info := range b.s.Snapshot() {
		if info.ID == id {
			return info.Why
		}
	}
	return ""
}

// Each cause replaces worker 1 of two, by a warm one.
func TestRecycling(t *testing.T) {
	for name, c := range map[string]struct {
		set   func(*Env)
		cause func(*bench)
		after time.Duration // within which nothing happens without the cause
		why   string
	}{
		"requests, jitter": {
			func(e *Env) { e.Recycling = Recycling{Requests: 100, RequestsJitter: 10} },
			func(b *bench) { b.served[1] = 110 }, RequestsCheckEvery, "answered 110 requests"},
		"memory": {
			func(e *Env) { e.Recycling = Recycling{MemoryBytes: 64 << 20} },
			func(b *bench) { b.memory[1001] = 64<<20 + 1 }, MemoryCheckEvery, "holds 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newReadyBench(t, 2, c.set)
				defer b.end()
				b.mu.Lock()
				b.served[1], b.memory[1001] = 109, 64<<20
				b.mu.Unlock()
				time.Sleep(10 * c.after)
				synctest.Wait()
				b.wantCalls("add 1", "add 2")
				b.mu.Lock()
				c.cause(b)
				b.mu.Unlock()
				time.Sleep(c.after)
				synctest.Wait()
				b.wantCalls("add 1", "add 2", "add 3 drain 1")
				if why := b.why(1); why != c.why {
					t.Errorf("why: got %q, want %q", why, c.why)
				}
				if b.workers()[0].quits.Load() != 0 {
					t.Error("told to quit with requests in flight")
				}
				close(b.workers()[0].idle)
				synctest.Wait()
				b.wantCalls("add 1", "add 2", "add 3 drain 1", "remove 1")
			})
		})
	}
}

// Workers that started together do not all leave together.
func TestLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jitter := int64(0)
		b := newBench(t, 2, func(w *fakeWorker) error { close(w.ready); close(w.idle); return nil },
			func(e *Env) {
				e.Recycling.Lifetime = 100 * time.Second
				e.Random = func(most int64) int64 { jitter += most / 2; return jitter }
			})
		defer b.end()
		for _, step := range []struct {
			sleep time.Duration
			want  int
		}{{105*time.Second - 1, 2}, {1, 3}, {5*time.Second - 1, 3}, {1, 4}} {
			time.Sleep(step.sleep)
			synctest.Wait()
			if n := len(b.workers()); n != step.want {
				t.Fatalf("%d workers were started, want %d", n, step.want)
			}
		}
	})
}

// Routine replacements wait for each other: the app must not be imported by all at once.
func TestRoutineReplacementsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 2 * RecyclesShare
		b := newReadyBench(t, n, func(e *Env) { e.Recycling.Requests = 1 })
		defer b.end()
		b.next(nil)
		b.mu.Lock()
		for id := 1; id <= n; id++ {
			b.served[id] = 1
		}
		b.mu.Unlock()
		for turn := 1; turn <= RecyclesShare; turn++ {
			time.Sleep(RequestsCheckEvery)
			synctest.Wait()
			all := b.workers()
			if len(all) != n+2*turn {
				t.Fatalf("turn %d: %d workers were started, want %d", turn, len(all), n+2*turn)
			}
			for _, w := range all[len(all)-2:] {
				close(w.ready)
			}
			synctest.Wait()
		}
	})
}

func TestRecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 2)
		defer b.end()
		b.next(nil)
		answer := b.ask(func() error { return b.s.Recycle(2, "told to") })
		b.wantNone(answer, "the replacement is not ready")
		close(b.last().ready)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		b.wantCalls("add 1", "add 2", "add 3 drain 2")
		for _, id := range []int{2, 9} {
			if err := b.s.Recycle(id, ""); !errors.Is(err, ErrNoWorker) {
				t.Errorf("worker %d: got %v, want %v", id, err, ErrNoWorker)
			}
		}
	})
}

// Without a replacement nobody leaves.
func TestReplacementThatDies(t *testing.T) {
	for name, onStart := range map[string]func(*fakeWorker) error{
		"dies": func(w *fakeWorker) error {
			w.die(Exit{Code: 1, Reason: "oops"})
			return nil
		},
		"does not start": func(*fakeWorker) error { return errors.New("oops") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newReadyBench(t, 1)
				defer b.end()
				b.next(onStart)
				err := <-b.ask(func() error { return b.s.Recycle(1, "told to") })
				if err == nil || !strings.Contains(err.Error(), "oops") {
					t.Fatalf("got %v, want why the replacement did not start", err)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				b.wantCalls("add 1")
				if n := len(b.workers()); n != 2 {
					t.Fatalf("%d were started, want 2: nobody asked for another try", n)
				}
			})
		})
	}
}

// A routine cause does not go away: the replacement is tried again, less and less often.
func TestReplacementIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1, func(e *Env) { e.Recycling.Lifetime = time.Second })
		defer b.end()
		b.next(func(w *fakeWorker) error {
			if w.id < 5 {
				w.die(Exit{Code: 1})
				return nil
			}
			close(w.ready)
			return nil
		})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		if !slices.Contains(b.calls, "add 5 drain 1") {
			t.Fatalf("pool heard %q, want worker 5 in the place of 1", b.calls)
		}
		ms := time.Millisecond
		if got := b.starts[4] - b.starts[1]; got != 300*ms {
			t.Fatalf("four tries took %v, want 300ms", got)
		}
	})
}

// A worker that dies while its replacement starts has it already.
func TestDeathBeforeItsReplacementIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1)
		defer b.end()
		b.next(nil)
		answer := b.ask(func() error { return b.s.Recycle(1, "told to") })
		b.workers()[0].die(Exit{Signal: 11})
		synctest.Wait()
		close(b.last().ready)
		synctest.Wait()
		b.wantCalls("add 1", "remove 1", "add 2")
		if err := <-answer; err != nil || len(b.workers()) != 2 {
			t.Fatalf("got %v and %d workers, want nil and 2", err, len(b.workers()))
		}
	})
}

// A worker that hangs is replaced first and gets RetireGrace for its other requests.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 2)
		defer b.end()
		b.next(nil)
		for range 3 { // it is told more than once
			b.s.Retire(1, "hangs")
		}
		b.s.Retire(7, "is not there")
		synctest.Wait()
		if n := len(b.workers()); n != 3 {
			t.Fatalf("%d workers were started, want 3", n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if b.workers()[0].kills.Load() != 0 {
			t.Fatal("killed before its replacement was ready")
		}
		begin := time.Now()
		close(b.last().ready)
		<-b.workers()[0].done
		if took := time.Since(begin); took != RetireGrace {
			t.Fatalf("killed after %v, want %v", took, RetireGrace)
		}
		synctest.Wait()
		b.wantCalls("add 1", "add 2", "add 3 drain 1", "abort 1", "remove 1")
	})
}

// A worker that hangs while it drains has only RetireGrace left, or less.
func TestRetireWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1)
		defer b.end()
		if err := <-b.reload(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		begin := time.Now()
		b.s.Retire(1, "hangs")
		<-b.workers()[0].done
		if took := time.Since(begin); took != RetireGrace {
			t.Fatalf("killed after %v, want %v", took, RetireGrace)
		}
	})
}

// A stop cuts off begun answers AbortLead before the kill, and says so in the end.
func TestAbortBeforeTheKill(t *testing.T) {
	for streams, want := range map[uint64]bool{0: false, 1: true} {
		synctest.Test(t, func(t *testing.T) {
			b := newReadyBench(t, 1)
			b.workers()[0].streams = streams
			missed := b.stop(t.Context())
			time.Sleep(25*time.Second - AbortLead)
			synctest.Wait()
			b.wantCalls("add 1", "drain 1", "abort 1")
			close(b.workers()[0].idle)
			if <-missed != want {
				t.Errorf("%d streams cut off: missed %v, want %v", streams, !want, want)
			}
			if b.workers()[0].kills.Load() != 0 {
				t.Error("killed, though it had drained")
			}
		})
	}
}

// A crash loop with nobody left is told once, with its reason, and when it is over.
func TestCrashLoopIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 2)
		defer b.end()
		var broken atomic.Bool
		broken.Store(true)
		b.next(func(w *fakeWorker) error {
			if broken.Load() {
				w.die(Exit{ImportFailed: true, Reason: "Traceback\nNameError: x\n"})
				return nil
			}
			close(w.ready)
			return nil
		})
		b.fresh()
		b.workers()[0].die(Exit{Signal: 9})
		time.Sleep(time.Second)
		synctest.Wait()
		told := func(what string) (n int) {
			b.mu.Lock()
			defer b.mu.Unlock()
			for _, call := range b.calls {
				if strings.HasPrefix(call, what) {
					n++
				}
			}
			return n
		}
		if told("no hope") != 0 {
			t.Fatal("given up with a worker that serves")
		}
		b.workers()[1].die(Exit{Signal: 9})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if told("no hope for ") == 0 || told("no hope") != told("no hope for ") {
			t.Fatalf("pool heard %q, want that there is no hope", b.calls)
		}
		if !strings.HasSuffix(b.calls[len(b.calls)-1], "imported: NameError: x") {
			t.Fatalf("pool heard %q last, want the reason", b.calls[len(b.calls)-1])
		}
		if told("hope") != 0 {
			t.Fatal("hope, though nothing was ready")
		}
		broken.Store(false)
		time.Sleep(BackoffMax)
		synctest.Wait()
		if told("hope") != 1 {
			t.Fatalf("pool heard %q, want hope once", b.calls)
		}
	})
}
