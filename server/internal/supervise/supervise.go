// Package supervise keeps a fixed number of workers alive: it starts them, hands the ready ones
// to the pool, replaces the dead, and ends them all when the server stops. It knows neither the
// reactor nor how a process is made; it declares below what it needs of both.
package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// Worker is one Python process as the supervisor sees it. Every method may be called from any
// goroutine and none of them blocks.
type Worker interface {
	ID() int
	PID() int
	Ready() <-chan struct{} // closed when the app is imported and the threads wait
	Done() <-chan struct{}  // closed when the process is gone and reaped
	Exit() Exit             // valid after Done
	Quit()                  // asks it to finish and exit; a second call does nothing
	Kill()                  // SIGKILL; harmless when the process is gone
}

// Exit says how a worker ended.
type Exit struct {
	Code         int    // exit status; -1 when a signal ended it
	Signal       int    // number of the signal that ended it, or 0
	ImportFailed bool   // the app could not be imported; Reason holds the user's traceback
	Reason       string // for people; may have several lines when ImportFailed
}

func (e Exit) String() string {
	switch {
	case e.ImportFailed:
		return "the app could not be imported"
	case e.Reason != "":
		return e.Reason
	case e.Signal != 0:
		return fmt.Sprintf("ended by signal %d", e.Signal)
	}
	return fmt.Sprintf("exited with status %d", e.Code)
}

// Pool is where ready workers take requests: the reactor. Its methods do not block.
type Pool interface {
	Add(Worker)                   // starts handing requests to it
	Drain(Worker) <-chan struct{} // no new requests; closed when none is in flight
	Remove(Worker)                // after death: fails its requests in flight
}

// Env is what the supervisor needs from outside; it is read only.
type Env struct {
	// Start makes a worker process and returns without waiting for it to be ready. Ids count
	// from 1 and are never used twice, so that an old worker and its replacement can coexist.
	// Generations count from 1; each reload makes a new one.
	Start func(id, generation int) (Worker, error)
	Pool  Pool
	Log   *slog.Logger

	StartTimeout    time.Duration // from Start to Ready; then the worker is killed
	GracefulTimeout time.Duration // from Stop to the last exit; then what is left is killed
}

// Supervisor keeps n workers alive. All fields below the line belong to the goroutine in Run;
// others reach it through the channels only.
type Supervisor struct {
	env    Env
	events chan event
	stops  chan struct{} // asks for a drain
	forces chan struct{} // asks for a kill of whatever is left
	ready  chan struct{} // closed at the first ready worker
	done   chan struct{} // closed when Run has returned; missed may be read from then on
	missed bool          // the graceful deadline passed with work unfinished

	// ---- owned by Run ----
	seats      []*seat
	lastID     int
	everReady  bool
	bootDeaths int
	stopping   bool
	stopBy     time.Time
	failure    error
}

// New prepares a supervisor of n workers; nothing starts before Run.
func New(n int, env Env) *Supervisor {
	s := &Supervisor{
		env:    env,
		events: make(chan event),
		stops:  make(chan struct{}),
		forces: make(chan struct{}),
		ready:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	for range n {
		s.seats = append(s.seats, &seat{})
	}
	return s
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
		s.startDue(time.Now())
		if s.finished() {
			return s.failure
		}
		timer.Reset(s.untilNext(time.Now()))
		select {
		case ev := <-s.events:
			s.handle(ev, time.Now())
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

// Stop drains every worker within GracefulTimeout, lets it quit, and kills what is left at the
// deadline. It returns when Run does and says whether the deadline was missed. When ctx ends
// first, everything is killed at once, which counts as missed if work was unfinished.
func (s *Supervisor) Stop(ctx context.Context) (missed bool) {
	select {
	case s.stops <- struct{}{}:
	case <-s.done:
		return s.missed
	case <-ctx.Done():
	}
	select {
	case <-s.done:
		return s.missed
	case <-ctx.Done():
	}
	select {
	case s.forces <- struct{}{}:
		<-s.done
	case <-s.done:
	}
	return s.missed
}

// handle applies what a watcher saw.
func (s *Supervisor) handle(ev event, now time.Time) {
	m := ev.m
	switch ev.what {
	case becameReady:
		s.becomeReady(m, now)
	case drained:
		if m.state == draining {
			m.move(stopping)
			m.worker.Quit()
		}
	case died:
		s.bury(m, now)
	}
}

func (s *Supervisor) becomeReady(m *member, now time.Time) {
	if m.state != starting {
		return // it became ready after it was told to go: it is ending already
	}
	m.move(ready)
	m.readyAt, m.due = now, time.Time{}
	s.env.Pool.Add(m.worker)
	m.added = true
	s.env.Log.Debug("worker ready", "worker", m.worker.ID(), "pid", m.worker.PID(),
		"after", now.Sub(m.startedAt).Round(time.Millisecond))
	if !s.everReady {
		s.everReady = true
		close(s.ready)
	}
}

// bury takes a dead worker out and decides when its seat is filled again.
func (s *Supervisor) bury(m *member, now time.Time) {
	expected := m.state == stopping
	m.move(gone)
	if m.added {
		s.env.Pool.Remove(m.worker)
	}
	if s.stopping || s.failure != nil {
		return
	}
	exit := m.worker.Exit()
	if m.overdue {
		exit = Exit{Code: -1, Reason: fmt.Sprintf("was not ready within %v", s.env.StartTimeout)}
	}
	if !s.everReady {
		s.bootDeath(m, exit, now)
		if s.failure != nil {
			return
		}
	}
	wait := m.seat.vacate(m, now)
	level := slog.LevelError
	if expected && !m.overdue {
		level = slog.LevelInfo
	}
	fields := []any{"worker", m.worker.ID(), "pid", m.worker.PID(), "reason", exit.String(),
		"replaced_in", wait}
	if exit.ImportFailed {
		fields = append(fields, "traceback", exit.Reason)
	}
	s.env.Log.Log(context.Background(), level, "worker ended", fields...)
}

// bootDeath decides whether a death before any worker was ever ready ends the start. An import
// error or a start beyond its deadline would only repeat itself; other deaths get a few tries.
func (s *Supervisor) bootDeath(m *member, exit Exit, now time.Time) {
	s.bootDeaths++
	switch {
	case exit.ImportFailed:
		s.fail(&ImportError{Reason: exit.Reason}, now)
	case m.overdue || s.bootDeaths >= BootDeathsMax:
		s.fail(&BootError{Deaths: s.bootDeaths, Last: exit.String()}, now)
	}
}

// fail ends Run with err once every worker is gone.
func (s *Supervisor) fail(err error, now time.Time) {
	if s.failure == nil {
		s.failure = err
	}
	s.killAll(now)
}

// startDue fills the empty seats whose time has come. Until a worker was ready only the first
// seat is: an app that cannot be imported then fails once, with one traceback; the first
// import has the CPUs to itself; and its .pyc files are there for the others.
func (s *Supervisor) startDue(now time.Time) {
	for i, seat := range s.seats {
		if s.stopping || s.failure != nil || i > 0 && !s.everReady {
			return
		}
		if seat.member == nil && !now.Before(seat.startAt) {
			s.start(seat, now)
		}
	}
}

func (s *Supervisor) start(seat *seat, now time.Time) {
	s.lastID++
	w, err := s.env.Start(s.lastID, 1)
	if err == nil {
		m := &member{worker: w, seat: seat, startedAt: now, due: now.Add(s.env.StartTimeout)}
		seat.member = m
		go s.watch(m)
		return
	}
	if !s.everReady {
		s.bootDeath(&member{}, Exit{Code: -1, Reason: err.Error()}, now)
	}
	wait := seat.retry(now)
	s.env.Log.Error("worker does not start", "worker", s.lastID, "error", err, "retry_in", wait)
}

// beginStop drains the ready and ends those that are still importing, which owe nobody an
// answer: they get a moment to leave by themselves.
func (s *Supervisor) beginStop(now time.Time) {
	if s.stopping || s.failure != nil {
		return
	}
	s.stopping = true
	s.stopBy = now.Add(s.env.GracefulTimeout)
	for _, m := range s.members() {
		switch m.state {
		case starting:
			m.move(stopping)
			m.due = earlier(s.stopBy, now.Add(StartingQuitMax))
			m.worker.Quit()
		case ready:
			m.move(draining)
			m.due = s.stopBy
			go s.watchDrain(m, s.env.Pool.Drain(m.worker))
		}
	}
}

// expire acts on every deadline that has passed.
func (s *Supervisor) expire(now time.Time) {
	for _, m := range s.members() {
		if m.due.IsZero() || now.Before(m.due) {
			continue
		}
		if m.killed {
			s.env.Log.Error("worker does not die; it is left behind",
				"worker", m.worker.ID(), "pid", m.worker.PID(), "waited", KillWaitMax)
			m.due = time.Time{}
			m.undead = true
			continue
		}
		m.overdue = m.state == starting
		s.env.Log.Error("worker killed at its deadline", "worker", m.worker.ID(),
			"pid", m.worker.PID(), "while", m.state.String())
		s.kill(m, now)
	}
}

// kill ends one worker the hard way. A worker killed during a stop while it still had requests
// had work unfinished: the deadline is missed. One that has drained and cannot leave, because a
// thread of the app's own never ends, owes nobody anything.
func (s *Supervisor) kill(m *member, now time.Time) {
	if s.stopping && (m.state == ready || m.state == draining) {
		s.missed = true
	}
	if m.state != stopping {
		m.move(stopping)
	}
	m.killed, m.due = true, now.Add(KillWaitMax)
	m.worker.Kill()
}

func (s *Supervisor) killAll(now time.Time) {
	for _, m := range s.members() {
		if !m.killed {
			s.kill(m, now)
		}
	}
}

// finished reports that nothing is left to wait for. In normal life it never is.
func (s *Supervisor) finished() bool {
	if !s.stopping && s.failure == nil {
		return false
	}
	for _, m := range s.members() {
		if !m.undead {
			return false
		}
	}
	return true
}

// untilNext is the time to the nearest deadline or start.
func (s *Supervisor) untilNext(now time.Time) time.Duration {
	next := now.Add(idleWaitMax)
	for i, seat := range s.seats {
		m := seat.member
		switch {
		case m != nil && !m.due.IsZero():
			next = earlier(next, m.due)
		case m == nil && !s.stopping && s.failure == nil && (i == 0 || s.everReady):
			next = earlier(next, seat.startAt)
		}
	}
	return max(0, next.Sub(now))
}

func (s *Supervisor) members() []*member {
	alive := make([]*member, 0, len(s.seats))
	for _, seat := range s.seats {
		if m := seat.member; m != nil && m.state != gone {
			alive = append(alive, m)
		}
	}
	return alive
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
