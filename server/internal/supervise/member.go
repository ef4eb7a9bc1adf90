package supervise

import (
	"fmt"
	"slices"
	"time"
)

// state is where a worker is in its life.
type state int

const (
	starting state = iota // the process lives, the app is being imported
	warm                  // ready, waits for the rest of its generation
	ready                 // in the pool
	draining              // in the pool, without new requests
	stopping              // told to quit, or killed
	gone                  // reaped
)

func (st state) String() string {
	return [...]string{"starting", "warm", "ready", "draining", "stopping", "gone"}[st]
}

// mayMove lists the legal moves. A process can die in any state.
func mayMove(from, to state) bool {
	switch from {
	case starting:
		return to == warm || to == ready || to == stopping || to == gone
	case warm:
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
	worker     Worker
	generation int
	seat       *seat // where it is the member or the heir; nil once it is on its way out
	state      state
	startedAt  time.Time
	readyAt    time.Time // zero before ready
	due        time.Time // when its state has lasted too long; zero: never
	abortAt    time.Time // while draining: when its answers are cut off; zero: never, or done
	added      bool      // the pool knows it
	overdue    bool      // killed because it was not ready in time
	killed     bool      // SIGKILL was sent
	undead     bool      // SIGKILL did not help within KillWaitMax

	expires   time.Time    // when it is old enough to be replaced; zero: never
	servedMax uint64       // requests after which it is replaced; 0: never
	why       string       // why it is to be replaced, or was; "" when it is not
	urgent    bool         // hangs: not delayed by other replacements, drains RetireGrace
	asked     []chan error // callers of Recycle
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

// leave gives up the member's place.
func (m *member) leave() {
	switch st := m.seat; {
	case st == nil:
	case st.member == m:
		st.member = nil
	case st.heir == m:
		st.heir = nil
	}
	m.seat = nil
}

// answer tells the callers of Recycle how it went.
func (m *member) answer(err error) {
	answer(m.asked, err)
	m.asked = nil
}

// seat is one of the places to be filled; it outlives its members and remembers how the last
// ones fared.
type seat struct {
	member  *member   // nil while empty
	heir    *member   // starts while the member still serves
	startAt time.Time // before which nothing is started here
	quick   int       // quick deaths in a row
}

// succeed puts the heir in the place of the member, which is told to leave by the caller.
func (st *seat) succeed() (old *member) {
	old = st.member
	st.member, st.heir = st.heir, nil
	if old != nil {
		old.seat = nil
	}
	return old
}

// vacate empties the seat of a dead member and returns how long it stays empty.
func (st *seat) vacate(m *member, now time.Time) time.Duration {
	life := time.Duration(0)
	if !m.readyAt.IsZero() {
		life = now.Sub(m.readyAt)
	}
	m.leave()
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

// newSeats makes n empty seats.
func newSeats(n int) []*seat {
	seats := make([]*seat, n)
	for i := range seats {
		seats[i] = &seat{}
	}
	return seats
}

// forget takes a dead member out of the list of those alive.
func (s *Supervisor) forget(m *member) {
	s.alive = slices.DeleteFunc(s.alive, func(other *member) bool { return other == m })
	s.generations[m.generation]--
}

type what int

const (
	becameReady what = iota
	drained
	died
	finished // of no worker: the pool needs none any more
)

// event is what a watcher tells Run.
type event struct {
	m    *member // nil when finished
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

// watchFinish reports that the pool needs no worker any more.
func (s *Supervisor) watchFinish(done <-chan struct{}) {
	select {
	case <-done:
		s.tell(event{nil, finished})
	case <-s.done:
	}
}

func (s *Supervisor) tell(ev event) {
	select {
	case s.events <- ev:
	case <-s.done:
	}
}
