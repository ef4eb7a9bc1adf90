package supervise

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// reload asks for a reload and returns where its answer will arrive.
func (b *bench) reload() chan error {
	return b.ask(func() error { return b.s.Reload(b.t.Context()) })
}

func (b *bench) wantNone(answer chan error, when string) {
	b.t.Helper()
	select {
	case err := <-answer:
		b.t.Fatalf("%s: got an answer already: %v", when, err)
	default:
	}
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, func(w *fakeWorker) error {
			if w.generation == 1 {
				close(w.ready)
			}
			return nil
		})
		defer b.end()
		b.fresh()
		answer := b.reload()
		if n := len(b.workers()); n != 4 || b.last().generation != 2 {
			t.Fatalf("%d workers, the last of generation %d; want 4, 2: the first new one leads",
				n, b.last().generation)
		}
		close(b.workers()[3].ready)
		synctest.Wait()
		if n := len(b.workers()); n != 6 {
			t.Fatalf("%d workers were started, want 6", n)
		}
		close(b.workers()[5].ready)
		synctest.Wait()
		b.wantCalls()
		b.wantNone(answer, "one is not ready")
		close(b.workers()[4].ready)
		synctest.Wait()
		b.wantCalls("add 4 add 5 add 6 drain 1 drain 2 drain 3")
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		b.wantRetired()
		for _, w := range b.workers()[:3] {
			close(w.idle)
		}
		synctest.Wait()
		b.wantRetired(1)
		if n := len(b.s.Snapshot()); n != 3 {
			t.Fatalf("%d workers are left, want 3", n)
		}
	})
}

// An old worker that dies during a reload is replaced by one of its own generation, and what was
// on its way for the old one is not waited for.
func TestDeathOfAnOldWorkerDuringAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, func(w *fakeWorker) error {
			if w.id <= 2 {
				close(w.ready)
			}
			return nil
		})
		defer b.end()
		answer := b.reload()
		b.fresh()
		b.workers()[0].die(Exit{Signal: 9})
		synctest.Wait()
		if w := b.last(); w.id != 4 || w.generation != 1 {
			t.Fatalf("worker %d of generation %d was started, want 4 of 1", w.id, w.generation)
		}
		close(b.workers()[2].ready)
		synctest.Wait()
		close(b.last().ready)
		synctest.Wait()
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		b.wantCalls("remove 1", "add 3 add 5 drain 2")
		if b.workers()[3].quits.Load() != 1 {
			t.Fatal("the old generation's replacement was not told to quit")
		}
	})
}

func TestReloadOfABrokenVersion(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(*fakeWorker) error
		after   time.Duration
		want    string
	}{
		"import error": {func(w *fakeWorker) error {
			w.die(Exit{ImportFailed: true, Reason: "Traceback\nNameError: x"})
			return nil
		}, 0, "the app could not be imported: NameError: x\nTraceback\nNameError: x"},
		"exits": {func(w *fakeWorker) error { w.die(Exit{Code: 3}); return nil }, 0,
			"exited with status 3"},
		"hangs": {func(*fakeWorker) error { return nil }, time.Minute,
			"was not ready within 1m0s"},
		"does not start": {func(*fakeWorker) error { return errors.New("no memory") }, 0,
			"no memory"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken atomic.Bool
				b := newBench(t, 2, func(w *fakeWorker) error {
					if broken.Load() {
						return c.breakIt(w)
					}
					close(w.ready)
					return nil
				})
				defer b.end()
				broken.Store(true)
				begin := time.Now()
				err := <-b.reload()
				var failed *ReloadError
				if !errors.As(err, &failed) || !strings.HasSuffix(err.Error(), c.want) {
					t.Fatalf("got %q, want a reload error that ends in %q", err, c.want)
				}
				if took := time.Since(begin); took != c.after {
					t.Errorf("took %v, want %v", took, c.after)
				}
				synctest.Wait()
				b.wantCalls("add 1", "add 2")
				b.wantRetired(2)
				if n := len(b.workers()); n != 3 {
					t.Errorf("%d workers were started, want 3", n)
				}
				broken.Store(false)
				if err := <-b.reload(); err != nil {
					t.Fatalf("a good version after it: %v", err)
				}
				if b.last().generation != 3 {
					t.Errorf("generation %d, want 3", b.last().generation)
				}
			})
		})
	}
}

// Once the first new worker was ready, others may die a few times.
func TestReloadOutlivesAFewDeaths(t *testing.T) {
	for deaths, good := range map[int]bool{BootDeathsMax - 1: true, BootDeathsMax: false} {
		synctest.Test(t, func(t *testing.T) {
			left := deaths
			b := newBench(t, 2, func(w *fakeWorker) error {
				if w.id > 3 && left > 0 {
					left--
					w.die(Exit{Signal: 9})
					return nil
				}
				close(w.ready)
				return nil
			})
			defer b.end()
			if err := <-b.reload(); (err == nil) != good {
				t.Fatalf("%d deaths: got %v, want success %v", deaths, err, good)
			}
		})
	}
}

func TestReloadsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1)
		defer b.end()
		b.next(nil)
		first := b.reload()
		second, third := b.reload(), b.reload()
		if n := len(b.workers()); n != 2 {
			t.Fatalf("%d workers were started, want 2: one reload at a time", n)
		}
		close(b.last().ready)
		synctest.Wait()
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		b.wantNone(second, "its reload has begun")
		close(b.last().ready)
		synctest.Wait()
		if err := errors.Join(<-second, <-third); err != nil {
			t.Fatal(err)
		}
		if n := len(b.workers()); n != 3 {
			t.Fatalf("%d workers were started, want 3: the two that waited get one reload", n)
		}
	})
}

func TestReloadWaitsForTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, nil)
		defer b.end()
		answer := b.reload()
		b.wantNone(answer, "no worker was ready")
		close(b.last().ready)
		synctest.Wait()
		close(b.last().ready)
		synctest.Wait()
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
	})
}

// Each old worker is a process with the app in memory: reloads wait while many are left.
func TestReloadWaitsForOldWorkersToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, readyAtOnce)
		defer b.end()
		for range LeavingFactorMax {
			if err := <-b.reload(); err != nil {
				t.Fatal(err)
			}
		}
		answer := b.reload()
		b.wantNone(answer, "the old ones still drain")
		close(b.workers()[0].idle)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
	})
}

func TestReloadWhileStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1)
		b.next(nil)
		running, waiting := b.reload(), b.reload()
		missed := b.stop(t.Context())
		late := b.reload()
		for what, answer := range map[string]chan error{
			"running": running, "waiting": waiting, "late": late,
		} {
			if err := <-answer; !errors.Is(err, ErrStopping) {
				t.Errorf("%s: got %v, want %v", what, err, ErrStopping)
			}
		}
		close(b.workers()[0].idle)
		if <-missed {
			t.Error("deadline missed, want met")
		}
		b.mu.Lock()
		slices.Sort(b.retired) // no order is promised
		b.mu.Unlock()
		b.wantRetired(1, 2)
		if err := b.s.Reload(t.Context()); !errors.Is(err, ErrStopping) {
			t.Errorf("after the end: got %v, want %v", err, ErrStopping)
		}
	})
}

func TestReloadIsNotWaitedForLongerThanAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 1)
		defer b.end()
		b.next(nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.s.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want the deadline", err)
		}
		b.fresh()
		close(b.last().ready)
		synctest.Wait()
		b.wantCalls("add 2 drain 1")
	})
}

// Invariant: the number of workers that take requests does not fall while they are replaced.
func TestCapacityNeverFalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4
		b := newBench(t, n, func(w *fakeWorker) error {
			close(w.idle)
			go func() { time.Sleep(time.Duration(w.id%3+1) * time.Second); close(w.ready) }()
			return nil
		}, func(e *Env) { e.Recycling.Lifetime = 7 * time.Second })
		time.Sleep(10 * time.Second)
		least := n
		for i := range 200 {
			time.Sleep(500 * time.Millisecond)
			if i%20 == 0 {
				go b.s.Reload(t.Context())
			}
			synctest.Wait()
			b.mu.Lock()
			least = min(least, b.in)
			b.mu.Unlock()
		}
		b.end()
		if least < n || len(b.workers()) < 10*n {
			t.Fatalf("at least %d of %d took requests, with %d started", least, n,
				len(b.workers()))
		}
	})
}
