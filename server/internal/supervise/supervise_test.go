package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeWorker is a process made of channels. Its owner is the test; the supervisor reaches it
// through the interface only.
type fakeWorker struct {
	id          int
	generation  int
	ready, done chan struct{}
	exit        Exit
	streams     uint64 // answers that Abort cuts off
	deaf        bool   // ignores Quit
	undead      bool   // ignores Kill
	quits       atomic.Int32
	kills       atomic.Int32
	idle        chan struct{} // what Drain returns; closed by the test
}

func (w *fakeWorker) ID() int                { return w.id }
func (w *fakeWorker) PID() int               { return 1000 + w.id }
func (w *fakeWorker) Ready() <-chan struct{} { return w.ready }
func (w *fakeWorker) Done() <-chan struct{}  { return w.done }
func (w *fakeWorker) Exit() Exit             { return w.exit }

func (w *fakeWorker) Quit() {
	w.quits.Add(1)
	if !w.deaf {
		w.die(Exit{})
	}
}

func (w *fakeWorker) Kill() {
	w.kills.Add(1)
	if !w.undead {
		w.die(Exit{Code: -1, Signal: 9})
	}
}

func (w *fakeWorker) die(exit Exit) {
	select {
	case <-w.done:
	default:
		w.exit = exit
		close(w.done)
	}
}

// bench is a supervisor among fakes: the workers it started and what the pool heard, in order.
type bench struct {
	t       *testing.T
	s       *Supervisor
	env     Env
	mu      sync.Mutex // guards the rest but result and cancel
	started []*fakeWorker
	starts  []time.Duration // since the beginning
	calls   []string
	retired []int
	in      int // workers that take requests
	served  map[int]uint64
	memory  map[int]int64 // by pid
	aborted uint64
	onStart func(*fakeWorker) error
	result  chan error
	cancel  context.CancelCauseFunc

	finished chan struct{} // closed, unless a test makes another
}

// Switch is one call, written in one entry: "add 3 drain 1".
func (b *bench) Switch(in, out []Worker) (<-chan struct{}, []<-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var words []string
	var idle []<-chan struct{}
	for _, w := range in {
		words = append(words, fmt.Sprint("add ", w.ID()))
	}
	for _, w := range out {
		words = append(words, fmt.Sprint("drain ", w.ID()))
		idle = append(idle, w.(*fakeWorker).idle)
	}
	if len(words) > 0 {
		b.calls = append(b.calls, strings.Join(words, " "))
	}
	b.in += len(in) - len(out)
	done := make(chan struct{})
	close(done)
	return done, idle
}

func (b *bench) Finished() <-chan struct{} { return b.finished }

func (b *bench) Remove(w Worker) { b.heard(fmt.Sprint("remove ", w.ID())) }

func (b *bench) Abort(w Worker) {
	b.heard(fmt.Sprint("abort ", w.ID()))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.aborted += w.(*fakeWorker).streams
}

func (b *bench) NoWorkers(why string, until time.Time) {
	if why == "" {
		b.heard("hope")
		return
	}
	b.heard(fmt.Sprintf("no hope for %v: %s", time.Until(until), why))
}

func (b *bench) Aborted() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.aborted
}

func (b *bench) Served(w Worker) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.served[w.ID()]
}

func (b *bench) heard(call string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, call)
}

// workers returns those started so far.
func (b *bench) workers() []*fakeWorker {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.started)
}

// last is the worker started last.
func (b *bench) last() *fakeWorker {
	all := b.workers()
	return all[len(all)-1]
}

// start is Env.Start.
func (b *bench) start(begin time.Time, id, generation int) (Worker, error) {
	w := &fakeWorker{id: id, generation: generation, ready: make(chan struct{}),
		done: make(chan struct{}), idle: make(chan struct{})}
	b.mu.Lock()
	b.started = append(b.started, w)
	b.starts = append(b.starts, time.Since(begin))
	onStart := b.onStart
	b.mu.Unlock()
	if onStart != nil {
		if err := onStart(w); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// next says what becomes of workers from now on.
func (b *bench) next(onStart func(*fakeWorker) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onStart = onStart
}

// newBench runs a supervisor of n workers inside the calling synctest bubble; change sets what
// is unusual in its surroundings.
func newBench(t *testing.T, n int, onStart func(*fakeWorker) error,
	change ...func(*Env)) *bench {
	b := &bench{t: t, onStart: onStart, result: make(chan error, 1), served: map[int]uint64{},
		memory: map[int]int64{}}
	b.finished = make(chan struct{})
	close(b.finished)
	begin := time.Now()
	b.env = Env{
		Pool: b, Log: slog.New(slog.DiscardHandler),
		StartTimeout: 60 * time.Second, GracefulTimeout: 25 * time.Second,
		Start:   func(id, gen int) (Worker, error) { return b.start(begin, id, gen) },
		Retired: func(gen int) { b.mu.Lock(); b.retired = append(b.retired, gen); b.mu.Unlock() },
		Memory:  func(pid int) int64 { b.mu.Lock(); defer b.mu.Unlock(); return b.memory[pid] },
		Random:  func(most int64) int64 { return most },
	}
	for _, set := range change {
		set(&b.env)
	}
	b.s = New(n, b.env)
	ctx, cancel := context.WithCancelCause(t.Context())
	b.cancel = cancel
	go func() { b.result <- b.s.Run(ctx) }()
	synctest.Wait()
	return b
}

func (b *bench) end() {
	b.cancel(errors.New("test over"))
	<-b.result
}

// stop asks for a stop and returns where its answer will arrive.
func (b *bench) stop(ctx context.Context) chan bool {
	missed := make(chan bool, 1)
	go func() { missed <- b.s.Stop(ctx) }()
	synctest.Wait()
	return missed
}

// ask runs an order of the supervisor's and returns where its answer will arrive.
func (b *bench) ask(order func() error) chan error {
	result := make(chan error, 1)
	go func() { result <- order() }()
	synctest.Wait()
	return result
}

func (b *bench) wantCalls(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.calls, want) {
		b.t.Fatalf("pool heard %q, want %q", b.calls, want)
	}
}

// fresh forgets what the pool has heard.
func (b *bench) fresh() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = nil
}

func (b *bench) wantRetired(want ...int) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.retired, want) {
		b.t.Fatalf("retired generations %v, want %v", b.retired, want)
	}
}

func readyAtOnce(w *fakeWorker) error { close(w.ready); return nil }

// newReadyBench is a bench whose n workers became ready in the order of their ids.
func newReadyBench(t *testing.T, n int, change ...func(*Env)) *bench {
	b := newBench(t, n, func(w *fakeWorker) error {
		if w.id > n {
			close(w.ready)
		}
		return nil
	}, change...)
	for i := range n {
		close(b.workers()[i].ready)
		synctest.Wait()
	}
	return b
}

func TestReadyWorkersJoinThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, nil)
		defer b.end()
		select {
		case <-b.s.Ready():
			t.Fatal("ready before any worker was")
		default:
		}
		if n := len(b.workers()); n != 1 {
			t.Fatalf("%d workers were started before the first was ready, want 1", n)
		}
		close(b.workers()[0].ready)
		<-b.s.Ready()
		synctest.Wait()
		if n := len(b.workers()); n != 3 {
			t.Fatalf("%d workers were started after the first was ready, want 3", n)
		}
		close(b.workers()[2].ready)
		synctest.Wait()
		close(b.workers()[1].ready)
		synctest.Wait()
		b.wantCalls("add 1", "add 3", "add 2")
	})
}

// Invariant 10 of the design: capacity is back within 500 ms of a death.
func TestDeadWorkerIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 2)
		defer b.end()
		died := time.Now()
		b.workers()[0].die(Exit{Signal: 11})
		synctest.Wait()
		b.wantCalls("add 1", "add 2", "remove 1", "add 3")
		if waited := time.Since(died); waited != 0 {
			t.Fatalf("replaced after %v, want at once", waited)
		}
	})
}

func TestBackoffOfASeatThatKeepsDying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healthy atomic.Bool
		healthy.Store(true)
		b := newBench(t, 1, func(w *fakeWorker) error {
			close(w.ready)
			if !healthy.Load() {
				w.die(Exit{Code: 1})
			}
			return nil
		})
		defer b.end()
		healthy.Store(false)
		b.workers()[0].die(Exit{Code: 1})
		time.Sleep(20 * time.Second)
		synctest.Wait()
		b.mu.Lock()
		var gaps []time.Duration
		for i := 1; i < len(b.starts); i++ {
			gaps = append(gaps, b.starts[i]-b.starts[i-1])
		}
		b.mu.Unlock()
		ms := time.Millisecond
		want := []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms,
			5000 * ms, 5000 * ms}
		if !slices.Equal(gaps, want) {
			t.Fatalf("gaps between starts %v, want %v", gaps, want)
		}

		healthy.Store(true)
		time.Sleep(BackoffMax + CalmLife)
		synctest.Wait()
		count := len(b.workers())
		b.workers()[count-1].die(Exit{Code: 1})
		synctest.Wait()
		if len(b.workers()) != count+1 {
			t.Fatal("a calm life did not clear the back-off")
		}
	})
}

func TestADeathNowAndThenCostsNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, readyAtOnce)
		defer b.end()
		for range 20 {
			time.Sleep(QuickLife)
			synctest.Wait()
			count := len(b.workers())
			b.workers()[count-1].die(Exit{Signal: 9})
			synctest.Wait()
			if len(b.workers()) != count+1 {
				t.Fatalf("worker %d was not replaced at once", count)
			}
		}
	})
}

func TestImportErrorEndsTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, nil)
		b.workers()[0].die(Exit{Code: 4, ImportFailed: true, Reason: "No module named 'x'"})
		err := <-b.result
		var imp *ImportError
		if !errors.As(err, &imp) || imp.Reason != "No module named 'x'" {
			t.Fatalf("got %v, want the import error", err)
		}
		if n := len(b.workers()); n != 1 {
			t.Errorf("%d workers were started, want 1: each prints the same traceback", n)
		}
		b.wantCalls()
	})
}

func TestImportErrorAfterReadyIsADeathLikeOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, nil)
		defer b.end()
		close(b.workers()[0].ready)
		synctest.Wait()
		b.workers()[1].die(Exit{Code: 4, ImportFailed: true})
		synctest.Wait()
		if len(b.workers()) != 3 {
			t.Fatalf("%d workers were started, want 3", len(b.workers()))
		}
	})
}

func TestCrashLoopBeforeReadyEndsTheStart(t *testing.T) {
	for name, onStart := range map[string]func(*fakeWorker) error{
		"dies":            func(w *fakeWorker) error { w.die(Exit{Code: 1}); return nil },
		"does not start":  func(*fakeWorker) error { return errors.New("exec format error") },
		"killed by OOM":   func(w *fakeWorker) error { w.die(Exit{Signal: 9}); return nil },
		"dies of Python":  func(w *fakeWorker) error { w.die(Exit{Reason: "fatal"}); return nil },
		"leaves politely": func(w *fakeWorker) error { w.die(Exit{}); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 2, onStart)
				var boot *BootError
				if err := <-b.result; !errors.As(err, &boot) || boot.Deaths != BootDeathsMax {
					t.Fatalf("got %v, want a boot error after %d deaths", err, BootDeathsMax)
				}
			})
		})
	}
}

func TestSlowStartIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, nil)
		var boot *BootError
		if err := <-b.result; !errors.As(err, &boot) {
			t.Fatalf("got %v, want a boot error", err)
		}
		want := "was not ready within 1m0s"
		if boot.Last != want || b.workers()[0].kills.Load() != 1 {
			t.Fatalf("got %q after %d kills, want %q after 1", boot.Last,
				b.workers()[0].kills.Load(), want)
		}
	})
}

func TestSlowReplacementIsKilledAndReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, func(w *fakeWorker) error {
			if w.id != 2 {
				close(w.ready)
			}
			return nil
		})
		defer b.end()
		b.workers()[0].die(Exit{Signal: 11})
		synctest.Wait()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		b.wantCalls("add 1", "remove 1", "add 3")
	})
}

func TestStopDrainsThenQuits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 2)
		missed := b.stop(t.Context())
		b.wantCalls("add 1", "add 2", "drain 1 drain 2")
		if b.workers()[0].quits.Load()+b.workers()[1].quits.Load() != 0 {
			t.Fatal("told to quit with requests in flight")
		}
		close(b.workers()[0].idle)
		synctest.Wait()
		if b.workers()[0].quits.Load() != 1 || b.workers()[1].quits.Load() != 0 {
			t.Fatal("the drained one quits, the other goes on")
		}
		time.Sleep(24 * time.Second)
		close(b.workers()[1].idle)
		if <-missed {
			t.Fatal("deadline missed, want met")
		}
		if err := <-b.result; err != nil {
			t.Fatalf("Run returned %v, want nil", err)
		}
		if len(b.workers()) != 2 {
			t.Fatal("a worker was replaced during the stop")
		}
	})
}

// The deadline was missed if a client was still owed an answer, and only then.
func TestStopKillsAtTheDeadline(t *testing.T) {
	for _, answered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) { testStopKills(t, answered) })
	}
}

func testStopKills(t *testing.T, answered bool) {
	b := newReadyBench(t, 2)
	if !answered {
		b.finished = make(chan struct{})
	}
	begin := time.Now()
	missed := b.stop(t.Context())
	close(b.workers()[0].idle)
	if got := <-missed; got == answered {
		t.Fatalf("answered %v: deadline missed %v", answered, got)
	}
	if took := time.Since(begin); took != 25*time.Second {
		t.Fatalf("took %v, want 25s", took)
	}
	if err := <-b.result; err != nil {
		t.Fatalf("Run returned %v, want nil", err)
	}
	if b.workers()[0].kills.Load() != 0 || b.workers()[1].kills.Load() != 1 {
		t.Fatalf("kills %d and %d, want 0 and 1",
			b.workers()[0].kills.Load(), b.workers()[1].kills.Load())
	}
}

// Requests that wait have no worker yet: none drains before the pool has finished.
func TestStopWaitsForThePool(t *testing.T) {
	for _, finishes := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newReadyBench(t, 2)
			b.finished = make(chan struct{})
			b.fresh()
			missed := b.stop(t.Context())
			time.Sleep(25*time.Second - AbortLead - 1)
			b.wantCalls()
			if finishes {
				close(b.workers()[0].idle)
				close(b.workers()[1].idle)
				close(b.finished)
				synctest.Wait()
				slices.Sort(b.calls) // they end in any order
				b.wantCalls("drain 1 drain 2", "remove 1", "remove 2")
			} else {
				time.Sleep(1)
				synctest.Wait()
				b.wantCalls("drain 1 drain 2", "abort 1", "abort 2")
			}
			if <-missed == finishes {
				t.Errorf("finishes %v: missed %v", finishes, !finishes)
			}
		})
	}
}

func TestStopForcedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, readyAtOnce)
		b.finished = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		missed := b.stop(ctx)
		time.Sleep(time.Second)
		cancel()
		if !<-missed {
			t.Fatal("deadline met, want missed")
		}
		if took := time.Since(begin); took != time.Second {
			t.Fatalf("took %v, want 1s", took)
		}
	})
}

func TestStopWhileImporting(t *testing.T) {
	for deaf, want := range map[bool]time.Duration{false: 0, true: StartingQuitMax} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, 2, func(w *fakeWorker) error { w.deaf = deaf; return nil })
			begin := time.Now()
			if <-b.stop(t.Context()) {
				t.Fatal("deadline missed, though no worker owed an answer")
			}
			if took := time.Since(begin); took != want {
				t.Fatalf("deaf %v: took %v, want %v", deaf, took, want)
			}
			if killed := b.workers()[0].kills.Load() == 1; killed != deaf {
				t.Fatalf("deaf %v: killed %v", deaf, killed)
			}
			b.wantCalls()
		})
	}
}

func TestReadyDuringStopIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, func(w *fakeWorker) error { w.deaf = true; return nil })
		missed := b.stop(t.Context())
		close(b.workers()[0].ready)
		<-missed
		b.wantCalls()
	})
}

func TestStopWithAnEmptySeatInBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, func(w *fakeWorker) error {
			close(w.ready)
			if w.id > 1 {
				w.die(Exit{Code: 1})
			}
			return nil
		})
		b.workers()[0].die(Exit{Code: 1})
		synctest.Wait()
		begin := time.Now()
		if <-b.stop(t.Context()) || time.Since(begin) != 0 {
			t.Fatal("a stop with no worker alive must end at once")
		}
	})
}

func TestDeathWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, readyAtOnce)
		missed := b.stop(t.Context())
		b.workers()[0].die(Exit{Signal: 11})
		if <-missed {
			t.Fatal("deadline missed, want met")
		}
		b.wantCalls("add 1", "drain 1", "remove 1")
	})
}

func TestProcessThatCannotDieIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 1, func(w *fakeWorker) error {
			w.undead = true
			close(w.ready)
			return nil
		})
		b.finished = make(chan struct{})
		begin := time.Now()
		if !<-b.stop(t.Context()) {
			t.Fatal("deadline met, want missed")
		}
		if took := time.Since(begin); took != 25*time.Second+KillWaitMax {
			t.Fatalf("took %v, want 25s and %v", took, KillWaitMax)
		}
	})
}

func TestCancelledRunKillsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newReadyBench(t, 3)
		cause := errors.New("reactor gone")
		b.cancel(cause)
		if err := <-b.result; !errors.Is(err, cause) {
			t.Fatalf("Run returned %v, want %v", err, cause)
		}
		for _, w := range b.workers() {
			if w.kills.Load() != 1 {
				t.Errorf("worker %d was killed %d times, want 1", w.id, w.kills.Load())
			}
		}
		if b.s.Stop(t.Context()) {
			t.Error("Stop after the end reports a missed deadline")
		}
	})
}

func TestMovesOfAWorker(t *testing.T) {
	legal := map[state][]state{
		starting: {warm, ready, stopping, gone},
		warm:     {ready, stopping, gone},
		ready:    {draining, stopping, gone},
		draining: {stopping, gone},
		stopping: {gone},
	}
	for from := starting; from <= gone; from++ {
		for to := starting; to <= gone; to++ {
			want := slices.Contains(legal[from], to)
			m := &member{worker: &fakeWorker{id: 7}, state: from}
			refused := func() (r any) {
				defer func() { r = recover() }()
				m.move(to)
				return nil
			}()
			if (refused == nil) != want {
				t.Errorf("%v to %v: refused with %v, want legal = %v", from, to, refused, want)
			}
		}
	}
}
