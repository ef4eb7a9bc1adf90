package supervise

import (
	"context"
	"time"
)

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

// beginStop ends those that take no requests, which owe nobody an answer: they get a moment to
// leave by themselves. The ready ones go on until the pool has finished, since requests may wait
// that no worker has yet, but not to the very end: they need some time to close what they began
// and to leave.
func (s *Supervisor) beginStop(now time.Time) {
	if s.ending() {
		return
	}
	s.stopping = true
	s.stopBy = now.Add(s.env.GracefulTimeout)
	s.abortedAt = s.env.Pool.Aborted()
	s.endReload(ErrStopping, now)
	answer(s.reloaders, ErrStopping)
	s.reloaders = nil
	for _, m := range s.alive {
		m.answer(ErrStopping)
		switch m.state {
		case starting, warm:
			s.end(m, now)
		case draining, stopping:
			s.hurry(m, s.stopBy, now)
		}
	}
	s.finishBy = s.stopBy.Add(-abortLead(s.env.GracefulTimeout))
	go s.watchFinish(s.env.Pool.Finished())
}

// drainAll drains the ready workers of a server that stops, once.
func (s *Supervisor) drainAll(now time.Time) {
	if s.finishBy.IsZero() {
		return
	}
	late := !now.Before(s.finishBy)
	s.finishBy = time.Time{}
	var out []*member
	for _, m := range s.alive {
		if m.state == ready {
			out = append(out, m)
		}
	}
	s.switchOver(nil, out, now, nil)
	for _, m := range out {
		s.hurry(m, s.stopBy, now)
		if late {
			m.abortAt = now
		}
	}
}

// abortLead is how long before a deadline answers are cut off when there was so much time.
func abortLead(grace time.Duration) time.Duration { return min(AbortLead, grace/2) }

// drain lets a member that gets no new requests finish those it has.
func (s *Supervisor) drain(m *member, empty <-chan struct{}, now time.Time) {
	m.move(draining)
	grace := s.env.GracefulTimeout
	if m.urgent {
		grace = min(grace, RetireGrace)
	}
	s.hurry(m, now.Add(grace), now)
	go s.watchDrain(m, empty)
}

// hurry sets the deadline of a member on its way out, unless it has a nearer one.
func (s *Supervisor) hurry(m *member, due, now time.Time) {
	if m.killed || !m.due.IsZero() && m.due.Before(due) {
		return
	}
	m.due = due
	if m.state == draining {
		m.abortAt = due.Add(-abortLead(due.Sub(now)))
	}
}

// end tells a member to quit that takes no requests.
func (s *Supervisor) end(m *member, now time.Time) {
	m.leave()
	if m.state == stopping { // killed
		return
	}
	m.due = now.Add(StartingQuitMax)
	if s.stopping {
		m.due = earlier(m.due, s.stopBy)
	}
	m.move(stopping)
	m.worker.Quit()
}

// fail ends Run with err once every worker is gone.
func (s *Supervisor) fail(err error, now time.Time) {
	if s.failure == nil {
		s.failure = err
	}
	s.endReload(ErrStopping, now)
	s.killAll(now)
}

// expire acts on every deadline that has passed.
func (s *Supervisor) expire(now time.Time) {
	if !s.finishBy.IsZero() && !now.Before(s.finishBy) {
		s.drainAll(now)
	}
	for _, m := range s.alive {
		if !m.abortAt.IsZero() && !now.Before(m.abortAt) {
			m.abortAt = time.Time{}
			s.env.Pool.Abort(m.worker)
		}
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
// thread of the app's own never ends, owes nobody anything; nor does one with a request that
// hangs, whose client has had its 504.
func (s *Supervisor) kill(m *member, now time.Time) {
	if s.stopping && !s.answered && (m.state == ready || m.state == draining) {
		s.missed = true
	}
	if m.state != stopping {
		m.move(stopping)
	}
	m.killed, m.due, m.abortAt = true, now.Add(KillWaitMax), time.Time{}
	m.worker.Kill()
}

func (s *Supervisor) killAll(now time.Time) {
	for _, m := range s.alive {
		if !m.killed {
			s.kill(m, now)
		}
	}
}

// finished reports that nothing is left to wait for. In normal life it never is.
func (s *Supervisor) finished() bool {
	if !s.ending() {
		return false
	}
	for _, m := range s.alive {
		if !m.undead {
			return false
		}
	}
	return true
}

// untilNext is the time to the nearest deadline, start or look at the workers.
func (s *Supervisor) untilNext(now time.Time) time.Duration {
	next := now.Add(idleWaitMax)
	sooner := func(at time.Time) {
		if !at.IsZero() {
			next = earlier(next, at)
		}
	}
	sooner(s.finishBy)
	for _, m := range s.alive {
		sooner(m.due)
		sooner(m.abortAt)
		if m.state == ready && m.why == "" && !s.ending() {
			sooner(m.expires)
		}
	}
	if !s.ending() {
		s.nextStarts(sooner, now)
		sooner(s.checkAt)
		sooner(s.memoryAt)
	}
	return max(0, next.Sub(now))
}

// nextStarts tells when seats may be filled. What waits for another worker's news has no time.
func (s *Supervisor) nextStarts(sooner func(time.Time), now time.Time) {
	empty := func(seats []*seat, led bool) {
		for i, st := range seats {
			if st.member == nil && (i == 0 || led) {
				sooner(st.startAt)
			}
		}
	}
	empty(s.seats, s.everReady)
	if s.reload != nil {
		empty(s.reload.seats, s.reload.led)
	}
	for _, st := range s.seats {
		if wantsHeir(st) && st.startAt.After(now) {
			sooner(st.startAt)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
