package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"gophersnake/server/internal/logs"
)

// startDue fills the places whose time has come. Until a worker was ready only the first seat is
// filled: an app that cannot be imported then fails once, with one traceback; the first import has
// the CPUs to itself; and its .pyc files are there for the others.
func (s *Supervisor) startDue(now time.Time) {
	s.fill(s.seats, s.generation, s.everReady, now)
	if r := s.reload; r != nil {
		s.fill(r.seats, r.generation, r.led, now)
	}
	s.startHeirs(now)
}

// fill starts a worker in each empty seat; only in the first one while none has led the way.
func (s *Supervisor) fill(seats []*seat, generation int, led bool, now time.Time) {
	for i, st := range seats {
		if s.ending() || i > 0 && !led {
			return
		}
		if st.member == nil && !now.Before(st.startAt) {
			if m := s.start(st, generation, now); m != nil {
				st.member = m
			}
			if s.reload == nil && generation != s.generation {
				return // that start ended the reload
			}
		}
	}
}

// start makes a worker for a seat; nil when that failed, which the seat remembers.
func (s *Supervisor) start(st *seat, generation int, now time.Time) *member {
	s.lastID++
	w, err := s.env.Start(s.lastID, generation)
	if err == nil {
		m := &member{worker: w, generation: generation, seat: st, startedAt: now,
			due: now.Add(s.env.StartTimeout)}
		s.alive = append(s.alive, m)
		s.generations[generation]++
		go s.watch(m)
		return m
	}
	exit := Exit{Code: -1, Reason: err.Error()}
	wait := st.retry(now)
	switch {
	case generation != s.generation:
		s.reloadDeath(exit, false, now)
	case !s.everReady:
		s.bootDeath(exit, false, now)
	}
	s.lastDeath = exit
	s.env.Log.Error("worker does not start", "worker", s.lastID, "error", err, "retry_in", wait)
	return nil
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
			m.abortAt = time.Time{}
			m.worker.Quit()
		}
	case died:
		s.bury(m, now)
	case finished:
		s.answered = true
		s.drainAll(now)
	}
}

func (s *Supervisor) becomeReady(m *member, now time.Time) {
	if m.state != starting {
		return // it became ready after it was told to go: it is ending already
	}
	m.readyAt, m.due = now, time.Time{}
	s.plan(m)
	s.env.Log.Debug("worker ready", "worker", m.worker.ID(), "pid", m.worker.PID(),
		"generation", m.generation, "after", now.Sub(m.startedAt).Round(time.Millisecond))
	switch {
	case m.generation != s.generation:
		m.move(warm)
		s.reloadReady(now)
	case m.seat.heir == m:
		old := m.seat.succeed()
		s.switchOver([]*member{m}, []*member{old}, now, nil)
	default:
		s.switchOver([]*member{m}, nil, now, nil)
		if !s.everReady {
			s.everReady = true
			close(s.ready)
		}
	}
}

// switchOver lets the ready members in and drains the old ones, in one step. Once it is done, the
// callers of Recycle hear of it, and then is called, beside Run; nil for nothing.
func (s *Supervisor) switchOver(in, out []*member, now time.Time, then func()) {
	come, leave := make([]Worker, len(in)), make([]Worker, len(out))
	for i, m := range in {
		m.move(ready)
		m.added = true
		come[i] = m.worker
	}
	var asked []chan error
	for i, m := range out {
		leave[i] = m.worker
		asked = append(asked, m.asked...)
		m.asked = nil
	}
	done, idle := s.env.Pool.Switch(come, leave)
	for i, empty := range idle {
		s.drain(out[i], empty, now)
	}
	if len(asked) == 0 && then == nil {
		return
	}
	go func() {
		select {
		case <-done:
		case <-s.done:
		}
		answer(asked, nil)
		if then != nil {
			then()
		}
	}()
}

// answer tells callers how it went. It does not block: each has room for its one answer.
func answer(callers []chan error, err error) {
	for _, reply := range callers {
		reply <- err
	}
}

// bury takes a dead worker out and decides when its seat is filled again.
func (s *Supervisor) bury(m *member, now time.Time) {
	before, st := m.state, m.seat
	m.move(gone)
	s.forget(m)
	if m.added {
		s.env.Pool.Remove(m.worker)
	}
	m.answer(nil) // whoever wanted it replaced gets that
	if s.ending() {
		return
	}
	exit := m.worker.Exit()
	if m.overdue {
		exit = Exit{Code: -1, Reason: fmt.Sprintf("was not ready within %v", s.env.StartTimeout)}
	}
	wait := time.Duration(0)
	switch {
	case st == nil: // it has been replaced
	case m.generation != s.generation:
		wait = st.vacate(m, now)
		if s.reloadDeath(exit, m.overdue, now) {
			return // which has said it all
		}
	case st.heir == m:
		wait = st.vacate(m, now)
		s.heirDied(st.member, exit)
	case st.heir != nil:
		st.succeed()
	default:
		s.lastDeath = exit
		if !s.everReady {
			s.bootDeath(exit, m.overdue, now)
			if s.failure != nil {
				return
			}
		}
		wait = st.vacate(m, now)
	}
	s.logDeath(m, before, st != nil, exit, wait)
}

// logDeath writes the one line of a worker's end.
func (s *Supervisor) logDeath(m *member, before state, replaced bool, exit Exit,
	wait time.Duration) {
	level := slog.LevelError
	if before == stopping && !m.overdue {
		level = slog.LevelInfo
	}
	fields := []any{"worker", m.worker.ID(), "pid", m.worker.PID(), "reason", exit.String()}
	if m.why != "" {
		fields = append(fields, "why", m.why)
	}
	if replaced {
		fields = append(fields, "replaced_in", wait)
	}
	if exit.ImportFailed {
		fields = append(fields, "traceback", logs.Block(exit.Reason))
	}
	s.env.Log.Log(context.Background(), level, "worker ended", fields...)
}

// bootDeath decides whether a death before any worker was ever ready ends the start. An import
// error or a start beyond its deadline would only repeat itself; other deaths get a few tries.
func (s *Supervisor) bootDeath(exit Exit, overdue bool, now time.Time) {
	s.bootDeaths++
	switch {
	case exit.ImportFailed:
		s.fail(&ImportError{Reason: exit.Reason}, now)
	case overdue || s.bootDeaths >= BootDeathsMax:
		s.fail(&BootError{Deaths: s.bootDeaths, Last: exit.String()}, now)
	}
}

// tellHope tells the pool when every seat is in a crash loop and nobody takes requests, and when
// that has ended; the log hears it once.
func (s *Supervisor) tellHope(now time.Time) {
	until, hopeless := s.noHope()
	began, over := hopeless && !s.hopeless, s.hopeless && !hopeless
	if began || hopeless && until.After(s.hopeAt) {
		s.env.Pool.NoWorkers(s.lastDeath.line(), until)
		s.hopeAt = until
	}
	s.hopeless = hopeless
	if began {
		s.env.Log.Error("crash loop: no worker is left, clients get 503 until one is ready",
			"last_worker", s.lastDeath.line(), "next_start_in", max(0, until.Sub(now)))
	}
	if over {
		s.env.Pool.NoWorkers("", time.Time{})
		s.env.Log.Info("crash loop over")
	}
}

// noHope reports whether a crash loop has left nobody to take requests, and when the next worker
// is started; zero when all have been.
func (s *Supervisor) noHope() (until time.Time, hopeless bool) {
	if s.ending() || !s.everReady {
		return until, false
	}
	for _, st := range s.seats {
		m := st.member
		if st.quick < HopelessDeaths || m != nil && m.state == ready {
			return until, false
		}
		if m == nil && (until.IsZero() || st.startAt.Before(until)) {
			until = st.startAt
		}
	}
	return until, true
}
