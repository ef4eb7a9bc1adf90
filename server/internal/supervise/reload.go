package supervise

import (
	"context"
	"fmt"
	"time"

	"gophersnake/server/internal/logs"
)

// ReloadError says why a new generation came to nothing. The old one serves on.
type ReloadError struct {
	Last      string // how the worker ended that decided it
	Traceback string // the user's, several lines, when the app cannot be imported
}

func (e *ReloadError) Error() string {
	text := "supervise: the new workers do not start, the old ones serve on: " + e.Last
	if e.Traceback != "" {
		text += "\n" + e.Traceback
	}
	return text
}

// reload is a new generation on its way. Its workers become ready beside the old ones, which
// serve meanwhile; then all change places in one step.
type reload struct {
	generation int
	seats      []*seat
	led        bool // its first worker is ready
	deaths     int
	began      time.Time
	callers    []chan error
}

// Reload brings in a new generation of workers, which import the app anew. It returns nil when
// they serve and the old ones drain. The error is a *ReloadError when the new ones do not start,
// ErrStopping, or the end of ctx, which leaves the reload running. While one runs, all further
// callers together get one more after it: what they want loaded may be newer.
func (s *Supervisor) Reload(ctx context.Context) error {
	reply := make(chan error, 1)
	s.order(func(time.Time) {
		switch {
		case s.ending():
			reply <- ErrStopping
		case len(s.reloaders) >= ReloadsWaitingMax:
			reply <- ErrTooMany
		default:
			s.reloaders = append(s.reloaders, reply)
		}
	})
	return s.await(ctx, reply)
}

// beginReload begins the reload that callers wait for, as soon as one may.
func (s *Supervisor) beginReload(now time.Time) {
	if len(s.reloaders) == 0 || s.reload != nil || !s.everReady {
		return
	}
	if s.crowded() {
		if !s.waits {
			s.env.Log.Info("the reload waits: many workers still drain from earlier ones")
		}
		s.waits = true
		return
	}
	s.waits = false
	s.lastGen++
	s.generations[s.lastGen] = 0
	s.reload = &reload{generation: s.lastGen, seats: newSeats(len(s.seats)), began: now,
		callers: s.reloaders}
	s.reloaders = nil
	s.env.Log.Info("reloading", "generation", s.lastGen, "workers", len(s.seats))
}

// crowded reports that too many replaced workers have not gone yet.
func (s *Supervisor) crowded() bool {
	leaving := 0
	for _, m := range s.alive {
		if m.seat == nil {
			leaving++
		}
	}
	return leaving >= LeavingFactorMax*len(s.seats)
}

// reloadReady is called when a worker of the new generation is warm.
func (s *Supervisor) reloadReady(now time.Time) {
	s.reload.led = true
	for _, st := range s.reload.seats {
		if st.member == nil || st.member.state != warm {
			return
		}
	}
	s.takeOver(now)
}

// takeOver lets the new generation in and drains the old one.
func (s *Supervisor) takeOver(now time.Time) {
	r := s.reload
	s.reload = nil
	var in, out []*member
	for _, st := range s.seats {
		for _, m := range []*member{st.member, st.heir} {
			switch {
			case m == nil:
			case m.state == ready:
				m.leave()
				m.why = orElse(m.why, "replaced by a reload")
				out = append(out, m)
			default:
				s.end(m, now)
			}
		}
	}
	for _, st := range r.seats {
		in = append(in, st.member)
	}
	s.seats, s.generation = r.seats, r.generation
	s.switchOver(in, out, now, func() {
		s.env.Log.Info("reloaded", "generation", r.generation, "workers", len(in),
			"took", time.Since(r.began).Round(time.Millisecond))
		answer(r.callers, nil)
	})
}

// reloadDeath decides whether the death of a new worker ends the reload. The first one decides
// alone; later ones can have died of something else and get a few tries.
func (s *Supervisor) reloadDeath(exit Exit, overdue bool, now time.Time) (ended bool) {
	r := s.reload
	r.deaths++
	if r.led && !overdue && !exit.ImportFailed && r.deaths < BootDeathsMax {
		return false
	}
	failure := &ReloadError{Last: exit.line()}
	if exit.ImportFailed {
		failure.Traceback = exit.Reason
	}
	fields := []any{"generation", r.generation, "reason", failure.Last}
	if failure.Traceback != "" {
		fields = append(fields, "traceback", logs.Block(failure.Traceback))
	}
	s.env.Log.Error("reload failed: the old workers serve on", fields...)
	s.endReload(failure, now)
	return true
}

// endReload gives the new generation up.
func (s *Supervisor) endReload(why error, now time.Time) {
	r := s.reload
	if r == nil {
		return
	}
	s.reload = nil
	for _, st := range r.seats {
		if st.member != nil {
			s.end(st.member, now)
		}
	}
	answer(r.callers, why)
}

// retireGenerations tells of generations that have no worker and get no more.
func (s *Supervisor) retireGenerations() {
	for generation, alive := range s.generations {
		current := generation == s.generation ||
			s.reload != nil && generation == s.reload.generation
		if alive > 0 || current && !s.finished() {
			continue
		}
		delete(s.generations, generation)
		if s.env.Retired != nil {
			s.env.Retired(generation)
		}
	}
}

func orElse(text, other string) string {
	if text != "" {
		return text
	}
	return other
}

// recycleError says why a worker was not replaced.
func recycleError(m *member, exit Exit) error {
	return fmt.Errorf("supervise: worker %d stays, its replacement did not start: %s",
		m.worker.ID(), exit.line())
}
