// Package supervise keeps a number of workers alive: it starts them, hands the ready ones to the
// pool, replaces the dead, the old and the hung, brings in new generations, and ends them all when
// the server stops. It knows neither the reactor nor how a process is made; worker.go declares what
// it needs of both.
//
//	supervise.go  the goroutine that owns it all    member.go   one worker, one seat
//	life.go       from a start to a death           reload.go   new generations
//	recycle.go    replacing a worker that serves    scale.go    more or fewer of them
//	stop.go       drains, deadlines and the end     limits.go   every limit
//
// Invariant: while workers are replaced, by recycling or by a reload, the number of those that take
// requests does not fall: an old one drains in the same step in which its replacement, ready,
// begins to take requests. TestCapacityNeverFalls guards it.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ImportError ends Run when the app cannot be imported at the first start.
type ImportError struct{ Reason string } // Reason: the user's traceback, several lines

func (e *ImportError) Error() string { return "supervise: cannot import the app" }

// BootError ends Run when no worker ever became ready.
type BootError struct {
	Deaths int
	Last   string // how the last one ended
}

func (e *BootError) Error() string {
	return fmt.Sprintf("supervise: workers cannot start (%d tried); the last one %s",
		e.Deaths, e.Last)
}

// What a caller gets when the supervisor cannot do as told.
var (
	ErrStopping = errors.New("supervise: the server is stopping")
	ErrNoWorker = errors.New("supervise: no worker has that number")
	ErrTooMany  = errors.New("supervise: too many callers wait for a reload")
)

// Supervisor keeps workers alive. All fields below the line belong to the goroutine in Run; others
// reach it through the channels only. Its methods may be called from any goroutine.
type Supervisor struct {
	env    Env
	events chan event
	orders chan func(now time.Time) // what Run is to do for a caller
	stops  chan struct{}            // asks for a drain
	forces chan struct{}            // asks for a kill of whatever is left
	ready  chan struct{}            // closed at the first ready worker
	done   chan struct{}            // closed when Run has returned; missed may be read then
	missed bool                     // the graceful deadline passed with work unfinished

	// ---- owned by Run ----
	seats       []*seat
	alive       []*member    // in the order of their start, until they are reaped
	generation  int          // of the seats
	generations map[int]int  // how many of each generation live; retired ones are deleted
	reload      *reload      // nil while none runs
	reloaders   []chan error // callers that wait for the next reload to begin
	waits       bool         // they wait because there is a crowd, and the log says so
	lastGen     int
	lastID      int
	everReady   bool
	bootDeaths  int
	hopeless    bool
	hopeAt      time.Time // what the pool was told of it
	lastDeath   Exit      // the last one of a worker that was to serve
	checkAt     time.Time // when requests and memory are looked at next
	memoryAt    time.Time
	stopping    bool
	answered    bool // while stopping: no client is owed an answer any more
	stopBy      time.Time
	finishBy    time.Time // while stopping: when the ready drain, finished or not; then zero
	abortedAt   uint64    // the pool's count when the stop began
	failure     error
}

// New prepares a supervisor of n workers; nothing starts before Run.
func New(n int, env Env) *Supervisor {
	return &Supervisor{
		env:         env,
		events:      make(chan event),
		orders:      make(chan func(time.Time)),
		stops:       make(chan struct{}),
		forces:      make(chan struct{}),
		ready:       make(chan struct{}),
		done:        make(chan struct{}),
		seats:       newSeats(n),
		generation:  1,
		lastGen:     1,
		generations: map[int]int{1: 0},
	}
}

// Ready is closed when the first worker takes requests: the moment to open the doors.
func (s *Supervisor) Ready() <-chan struct{} { return s.ready }

// Run starts the workers and keeps them alive until Stop has ended them (nil), until ctx is
// cancelled (every worker is killed; the context's cause), or until it is clear that the app
// cannot be served: *ImportError or *BootError. No worker that can be killed outlives Run. It
// is called once.
func (s *Supervisor) Run(ctx context.Context) error {
	defer close(s.done)
	cancelled := ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		s.goOn(time.Now())
		if s.finished() {
			// What was cut off to be closed in time was unfinished too.
			s.missed = s.missed || s.stopping && s.env.Pool.Aborted() > s.abortedAt
			return s.failure
		}
		timer.Reset(s.untilNext(time.Now()))
		select {
		case ev := <-s.events:
			s.handle(ev, time.Now())
		case order := <-s.orders:
			order(time.Now())
		case <-timer.C:
			s.expire(time.Now())
		case <-s.stops:
			s.beginStop(time.Now())
		case <-s.forces:
			s.beginStop(time.Now())
			s.killAll(time.Now())
		case <-cancelled:
			cancelled = nil
			s.fail(context.Cause(ctx), time.Now())
		}
	}
}

// goOn does what is possible now, whatever has made it so.
func (s *Supervisor) goOn(now time.Time) {
	if !s.ending() {
		s.checkWorkers(now)
		s.beginReload(now)
		s.startDue(now)
	}
	s.retireGenerations()
	s.tellHope(now)
}

// ending reports that nothing is started any more.
func (s *Supervisor) ending() bool { return s.stopping || s.failure != nil }

// order makes Run call do; false when Run has ended.
func (s *Supervisor) order(do func(now time.Time)) bool {
	select {
	case s.orders <- do:
		return true
	case <-s.done:
		return false
	}
}

// await returns what Run answers, or why it will not.
func (s *Supervisor) await(ctx context.Context, reply <-chan error) error {
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
	}
	select {
	case err := <-reply: // it came just before the end
		return err
	default:
		return ErrStopping
	}
}

// Snapshot lists the workers that live, in the order of their start; none once Run has ended.
func (s *Supervisor) Snapshot() []WorkerInfo {
	reply := make(chan []WorkerInfo, 1)
	if !s.order(func(time.Time) { reply <- s.snapshot() }) {
		return nil
	}
	return <-reply
}

func (s *Supervisor) snapshot() []WorkerInfo {
	all := make([]WorkerInfo, 0, len(s.alive))
	for _, m := range s.alive {
		all = append(all, WorkerInfo{ID: m.worker.ID(), PID: m.worker.PID(),
			Generation: m.generation, State: m.state.String(), Started: m.startedAt,
			Ready: m.readyAt, Why: m.why})
	}
	return all
}
