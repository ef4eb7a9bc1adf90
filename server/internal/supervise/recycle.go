package supervise

import (
	"context"
	"fmt"
	"time"
)

// Recycle replaces one worker, ready replacement first, and returns when that one serves and the
// old one drains; why is for the log. ErrNoWorker when the worker is not one that serves or is
// about to.
func (s *Supervisor) Recycle(id int, why string) error {
	reply := make(chan error, 1)
	s.order(func(time.Time) {
		m := s.serving(id)
		switch {
		case s.ending():
			reply <- ErrStopping
		case m == nil:
			reply <- ErrNoWorker
		default:
			m.why = orElse(m.why, why)
			m.asked = append(m.asked, reply)
		}
	})
	return s.await(context.Background(), reply)
}

// Retire replaces a worker that hangs, without waiting for anything: its replacement is started
// at once, and when that one serves, the hung worker gets RetireGrace for its other requests and
// is then killed. It never blocks. A worker that is on its way out already gets the same
// deadline; one that is not there any more is ignored.
func (s *Supervisor) Retire(id int, why string) {
	go s.order(func(now time.Time) {
		if m := s.serving(id); m != nil && !s.ending() {
			if !m.urgent {
				s.env.Log.Warn("worker hangs and is replaced", "worker", id, "pid",
					m.worker.PID(), "why", why)
			}
			m.why, m.urgent = orElse(m.why, why), true
			return
		}
		for _, m := range s.alive {
			if m.worker.ID() == id && m.state == draining {
				m.why, m.urgent = orElse(m.why, why), true
				s.hurry(m, now.Add(RetireGrace), now)
			}
		}
	})
}

// serving finds a worker that takes requests or is about to. Those of a generation that waits for
// its turn do not count.
func (s *Supervisor) serving(id int) *member {
	for _, st := range s.seats {
		if m := st.member; m != nil && m.worker.ID() == id {
			return m
		}
	}
	return nil
}

// plan decides when a worker that has become ready will have worked long enough.
func (s *Supervisor) plan(m *member) {
	r := &s.env.Recycling
	if r.Requests > 0 {
		m.servedMax = uint64(r.Requests) + uint64(s.random(int64(r.RequestsJitter)))
	}
	if r.Lifetime > 0 {
		jitter := s.random(int64(r.Lifetime) / LifetimeJitterShare)
		m.expires = m.readyAt.Add(r.Lifetime + time.Duration(jitter))
	}
}

func (s *Supervisor) random(most int64) int64 {
	if most <= 0 || s.env.Random == nil {
		return 0
	}
	return s.env.Random(most)
}

// checkWorkers notes which workers have worked long enough. Ages are looked at whenever Run is
// awake, and it wakes for each; requests and memory when their time has come.
func (s *Supervisor) checkWorkers(now time.Time) {
	count := s.env.Recycling.Requests > 0 && !now.Before(s.checkAt)
	weigh := s.env.Recycling.MemoryBytes > 0 && !now.Before(s.memoryAt)
	if count {
		s.checkAt = now.Add(RequestsCheckEvery)
	}
	if weigh {
		s.memoryAt = now.Add(MemoryCheckEvery)
	}
	for _, st := range s.seats {
		if m := st.member; m != nil && m.state == ready && m.why == "" {
			m.why = s.worn(m, count, weigh, now)
		}
	}
}

// worn says why a worker has worked long enough; "" when it has not.
func (s *Supervisor) worn(m *member, count, weigh bool, now time.Time) string {
	if !m.expires.IsZero() && !now.Before(m.expires) {
		return fmt.Sprintf("served for %v", now.Sub(m.readyAt).Round(time.Millisecond))
	}
	if count {
		if served := s.env.Pool.Served(m.worker); served >= m.servedMax {
			return fmt.Sprintf("answered %d requests", served)
		}
	}
	if weigh {
		if bytes := s.env.Memory(m.worker.PID()); bytes > s.env.Recycling.MemoryBytes {
			return fmt.Sprintf("holds %d MiB", bytes>>20)
		}
	}
	return ""
}

// startHeirs starts replacements of workers that are to be replaced. Routine ones wait for each
// other and for a reload, which replaces all; a worker that hangs waits for nothing.
func (s *Supervisor) startHeirs(now time.Time) {
	free := max(1, len(s.seats)/RecyclesShare)
	for _, st := range s.seats {
		if st.heir != nil {
			free--
		}
	}
	for _, st := range s.seats {
		m := st.member
		if s.ending() || !wantsHeir(st) || now.Before(st.startAt) {
			continue
		}
		if !m.urgent {
			if free <= 0 || s.reload != nil || s.crowded() {
				continue
			}
			free--
		}
		if st.heir = s.start(st, s.generation, now); st.heir == nil {
			s.heirDied(m, s.lastDeath)
		}
	}
}

func wantsHeir(st *seat) bool {
	m := st.member
	return m != nil && m.state == ready && m.why != "" && st.heir == nil
}

// heirDied is called when a replacement did not start: the worker stays, and another is tried
// after a while, unless only callers had asked for it.
func (s *Supervisor) heirDied(m *member, exit Exit) {
	if len(m.asked) == 0 {
		return
	}
	m.answer(recycleError(m, exit))
	if !m.urgent {
		m.why = "" // a routine cause comes back by itself
	}
}
