// Package openloop is a load generator: requests are due at a fixed rate, whatever the server
// does, and a latency counts from the time the request was due. A closed loop sends a client's
// next request only after the answer to the last one: while the server stalls it sends nothing, so
// that the stall is seen by one request a client instead of by all that would have come
// ("coordinated omission").
//
//	openloop.go  requests that are due      tally.go   what came out
//	pacer.go     waiting for their time     report.go  the same for people and programs
//	exchange.go  one request, one answer    urls.go    what to send
package openloop

import (
	"context"
	"errors"
	"sync"
	"time"
)

// The bounds of a plan.
const (
	ClientsMax = 50_000
	RateMax    = 1_000_000 // requests a second
)

// Plan is a load. With Rate 0 the loop is closed: each client sends as soon as it can, and
// latencies count from there. That is here for comparison only.
type Plan struct {
	Dial     Dialer
	Cycle    []Message // sent in turn
	Rate     float64   // requests a second, at most RateMax
	Duration time.Duration
	Drain    time.Duration // how long answers are awaited after the last request was due
	Clients  int           // connections at a time, at most ClientsMax
}

// Pacer waits for the times at which requests are due. One goroutine uses it.
type Pacer interface {
	Until(time.Time) error
	Close() error
}

func (p *Plan) check() error {
	switch {
	case len(p.Cycle) == 0:
		return errors.New("openloop: nothing to send")
	case p.Clients < 1 || p.Clients > ClientsMax:
		return errors.New("openloop: connections are from 1 to 50000")
	case p.Duration <= 0:
		return errors.New("openloop: no time to send in")
	case !(p.Rate >= 0 && p.Rate <= RateMax): // NaN is neither
		return errors.New("openloop: a rate is at most 1000000 requests a second")
	}
	return nil
}

// Run loads the server as planned. An error is the generator's own; what the server did wrong is
// in the tally. When ctx is cancelled it stops at once, and what is unanswered then does not count.
func (p *Plan) Run(ctx context.Context, pace Pacer) (*Tally, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	start := time.Now()
	end := start.Add(p.Duration)
	result := newTally(p.Rate, start, end)
	deadline := end.Add(p.Drain)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()

	// Indices of due requests: the times follow from them, so what waits here for a free client
	// loses nothing, and there are never more than a channel's worth.
	due := make(chan int64, p.Clients)
	var clients sync.WaitGroup
	for range p.Clients {
		clients.Go(func() {
			l := NewLink(p.Dial, deadline)
			defer l.Close()
			if p.Rate == 0 {
				p.sendClosed(ctx, l, end, result)
				return
			}
			for index := range due {
				at := p.dueAt(start, index)
				sent := time.Now()
				m := &p.Cycle[index%int64(len(p.Cycle))]
				_, failed := l.Do(ctx, m)
				if failed == nil || !interrupted(ctx) {
					result.add(m.Class, at, sent, time.Now(), failed)
				}
			}
		})
	}
	err := p.dispatch(ctx, pace, start, due, result)
	close(due)
	clients.Wait()
	result.elapsed = time.Since(start)
	return result, err
}

func interrupted(ctx context.Context) bool { return errors.Is(ctx.Err(), context.Canceled) }

func (p *Plan) dueAt(start time.Time, index int64) time.Time {
	return start.Add(time.Duration(float64(index) / p.Rate * float64(time.Second)))
}

// dispatch hands out the requests when they are due. Those that no client could take until the
// deadline were due all the same, so they are counted with the time they waited.
func (p *Plan) dispatch(
	ctx context.Context, pace Pacer, start time.Time, due chan<- int64, result *Tally,
) error {
	if p.Rate == 0 {
		return nil
	}
	total := int64(p.Rate * p.Duration.Seconds())
	for index := range total {
		at := p.dueAt(start, index)
		if time.Until(at) > 0 {
			if err := pace.Until(at); err != nil {
				return err
			}
			result.woke(time.Since(at))
		}
		select {
		case due <- index:
		case <-ctx.Done():
			p.abandon(ctx, start, index, total, result)
			return nil
		}
	}
	return nil
}

// abandon counts the requests from index on, which nobody will send.
func (p *Plan) abandon(
	ctx context.Context, start time.Time, index, total int64, result *Tally,
) {
	if interrupted(ctx) {
		return
	}
	now := time.Now()
	for ; index < total; index++ {
		m := &p.Cycle[index%int64(len(p.Cycle))]
		result.add(m.Class, p.dueAt(start, index), now, now, newFault(FaultTimeout, ctx.Err()))
	}
}

// sendClosed is one client of a closed loop.
func (p *Plan) sendClosed(ctx context.Context, l *Link, end time.Time, result *Tally) {
	for index := 0; ctx.Err() == nil && time.Now().Before(end); index++ {
		m := &p.Cycle[index%len(p.Cycle)]
		sent := time.Now()
		_, failed := l.Do(ctx, m)
		result.add(m.Class, sent, sent, time.Now(), failed)
		if failed != nil && failed.Kind == FaultConnect {
			return // refused at once: trying again at once would only burn the CPU
		}
	}
}
