package supervise

import (
	"context"
	"fmt"
	"time"
)

// Scale changes the number of workers to n, at least 1. New ones are started, the last ones drain;
// it does not wait for either.
func (s *Supervisor) Scale(n int) error {
	return s.scale(func() int { return n })
}

// Grow changes the number of workers by delta.
func (s *Supervisor) Grow(delta int) error {
	return s.scale(func() int { return len(s.seats) + delta })
}

// Size is how many workers there are to be; 0 once Run has ended.
func (s *Supervisor) Size() int {
	reply := make(chan int, 1)
	if !s.order(func(time.Time) { reply <- len(s.seats) }) {
		return 0
	}
	return <-reply
}

// scale makes Run compute the number and take it on.
func (s *Supervisor) scale(number func() int) error {
	reply := make(chan error, 1)
	s.order(func(now time.Time) {
		n := number()
		switch {
		case s.ending():
			reply <- ErrStopping
		case n < 1:
			reply <- fmt.Errorf("supervise: cannot go to %d workers; at least 1 is needed", n)
		case s.env.WorkersMax > 0 && n > s.env.WorkersMax:
			reply <- fmt.Errorf("supervise: cannot go to %d workers; at most %d are possible", n,
				s.env.WorkersMax)
		default:
			s.resize(n, now)
			reply <- nil
		}
	})
	return s.await(context.Background(), reply)
}

func (s *Supervisor) resize(n int, now time.Time) {
	s.env.Log.Info("number of workers changes", "from", len(s.seats), "to", n)
	s.seats = s.resized(s.seats, n, now)
	if r := s.reload; r != nil {
		r.seats = s.resized(r.seats, n, now)
		if r.led {
			s.reloadReady(now) // what it waited for may not be wanted any more
		}
	}
}

// resized adds empty seats, or empties the last ones.
func (s *Supervisor) resized(seats []*seat, n int, now time.Time) []*seat {
	for len(seats) < n {
		seats = append(seats, &seat{})
	}
	for _, st := range seats[n:] {
		for _, m := range []*member{st.heir, st.member} {
			switch {
			case m == nil:
			case m.state == ready:
				m.leave()
				m.why = orElse(m.why, "fewer workers are wanted")
				s.switchOver(nil, []*member{m}, now, nil)
			default:
				s.end(m, now)
			}
		}
	}
	return seats[:n:n]
}
