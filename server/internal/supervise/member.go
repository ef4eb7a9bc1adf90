package supervise

import (
	"fmt"
	"time"
)

// Limits of the supervisor.
const (
	// BootDeathsMax deaths before any worker was ever ready end the start.
	BootDeathsMax = 5

	// A death before ready, or sooner than QuickLife after it, makes the seat wait before the
	// next start: not at all the first time, then BackoffMin, doubled up to BackoffMax. A life
	// of CalmLife makes the seat forget.
	QuickLife  = 1 * time.Second
	CalmLife   = 10 * time.Second
	BackoffMin = 100 * time.Millisecond
	BackoffMax = 5 * time.Second

	// StartingQuitMax is how long a worker that is still importing may take to quit.
	StartingQuitMax = 1 * time.Second

	// KillWaitMax is how long a killed process may take to vanish before Run ends without it:
	// one that sleeps in the kernel does not hear SIGKILL.
	KillWaitMax = 5 * time.Second

	idleWaitMax = time.Hour // with nothing due, the select wakes once in this time
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

// state is where a worker is in its life.
type state int

const (
	starting state = iota // the process lives, the app is being imported
	ready                 // in the pool
	draining              // in the pool, without new requests
	stopping              // told to quit, or killed
	gone                  // reaped
)

func (st state) String() string {
	return [...]string{"starting", "ready", "draining", "stopping", "gone"}[st]
}

// mayMove lists the legal moves. A process can die in any state.
func mayMove(from, to state) bool {
	switch from {
	case starting:
		return to == ready || to == stopping || to == gone
	case ready:
		return to == draining || to == stopping || to == gone
	case draining:
		return to == stopping || to == gone
	case stopping:
		return to == gone
	}
	return false
}

// member is one worker process with what the supervisor knows about it.
type member struct {
	worker    Worker
	seat      *seat
	state     state
	startedAt time.Time
	readyAt   time.Time // zero before ready
	due       time.Time // when its state has lasted too long; zero: never
	added     bool      // the pool knows it
	overdue   bool      // killed because it was not ready in time
	killed    bool      // SIGKILL was sent
	undead    bool      // SIGKILL did not help within KillWaitMax
}

// move changes the state. An illegal move is a mistake in this package that would lose a
// worker silently, so it stops the program with both names.
func (m *member) move(to state) {
	if !mayMove(m.state, to) {
		panic(fmt.Sprintf("supervise: worker %d cannot go from %v to %v",
			m.worker.ID(), m.state, to))
	}
	m.state = to
}

// seat is one of the n places to be filled; it outlives its members and remembers how the
// last ones fared.
type seat struct {
	member  *member   // nil while empty
	startAt time.Time // when an empty seat is filled; zero: at once
	quick   int       // quick deaths in a row
}

// vacate empties the seat of a dead member and returns how long it stays empty.
func (st *seat) vacate(m *member, now time.Time) time.Duration {
	life := time.Duration(0)
	if !m.readyAt.IsZero() {
		life = now.Sub(m.readyAt)
	}
	st.member = nil
	if life >= CalmLife {
		st.quick = 0
	}
	if life >= QuickLife {
		st.startAt = now
		return 0
	}
	return st.retry(now)
}

// retry plans the next start after a quick death or a start that failed.
func (st *seat) retry(now time.Time) time.Duration {
	wait := time.Duration(0)
	if st.quick > 0 {
		// The shift is bounded, so that a long crash loop cannot overflow it.
		wait = min(BackoffMax, BackoffMin<<min(st.quick-1, 10))
	}
	st.quick++
	st.startAt = now.Add(wait)
	return wait
}

type what int

const (
	becameReady what = iota
	drained
	died
)

// event is what a watcher tells Run.
type event struct {
	m    *member
	what what
}

// watch reports a worker's ready and its death, in that order, and ends with it or with Run.
func (s *Supervisor) watch(m *member) {
	select {
	case <-m.worker.Ready():
		s.tell(event{m, becameReady})
	case <-m.worker.Done():
	case <-s.done:
	}
	select {
	case <-m.worker.Done():
		s.tell(event{m, died})
	case <-s.done:
	}
}

// watchDrain reports that a worker has answered its last request, unless it dies first.
func (s *Supervisor) watchDrain(m *member, empty <-chan struct{}) {
	select {
	case <-empty:
		s.tell(event{m, drained})
	case <-m.worker.Done():
	case <-s.done:
	}
}

func (s *Supervisor) tell(ev event) {
	select {
	case s.events <- ev:
	case <-s.done:
	}
}
