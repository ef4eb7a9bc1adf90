package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The open-loop generator. Requests are due at a fixed rate, whatever the server does, and a
// latency counts from the time the request was due. A closed loop sends a client's next request
// only after the answer to the last one: while the server stalls it sends nothing, so that the
// stall is seen by one request a client instead of by all that would have come ("coordinated
// omission").

const (
	latencyMicrosMax = 120_000_000 // the histogram's upper end
	latencyDigits    = 3           // that are kept of a latency

	nanosPerMicro = 1000
)

// plan is a load. With Rate 0 the loop is closed: each client sends as soon as it can, and
// latencies count from there. That is here for comparison only.
type plan struct {
	dial     dialer
	cycle    []message // sent in turn
	rate     float64   // requests a second
	duration time.Duration
	drain    time.Duration // how long answers are awaited after the last request was due
	clients  int           // connections, at most
}

// pacer waits for the times at which requests are due.
type pacer interface {
	until(time.Time) error
	close() error
}

// tally is what came out. Its owner is the goroutine that called run; the clients add to it
// under the lock.
type tally struct {
	mu      sync.Mutex
	all     *hdrhistogram.Histogram // of latencies in microseconds
	lag     *hdrhistogram.Histogram // from due to sent: waits for a free connection, and our own
	classes map[string]*hdrhistogram.Histogram
	faults  map[string]int64
	done    int64         // good answers
	due     int64         // requests that the rate asked for
	elapsed time.Duration // from the first request due to the last answer
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMicrosMax, latencyDigits)
}

func newTally() *tally {
	return &tally{
		all:     newHistogram(),
		lag:     newHistogram(),
		classes: map[string]*hdrhistogram.Histogram{},
		faults:  map[string]int64{},
	}
}

func record(h *hdrhistogram.Histogram, took time.Duration) {
	micros := min(max(took.Nanoseconds()/nanosPerMicro, 1), latencyMicrosMax)
	// The value is in range, the only thing that RecordValue refuses.
	_ = h.RecordValue(micros)
}

// add counts one request that was due, then sent, then over.
func (t *tally) add(class string, due, sent, over time.Time, failed *fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if failed != nil {
		t.faults[failed.kind]++
		if failed.kind != faultTimeout {
			return
		}
	} else {
		t.done++
	}
	if t.classes[class] == nil {
		t.classes[class] = newHistogram()
	}
	record(t.all, over.Sub(due))
	record(t.classes[class], over.Sub(due))
	record(t.lag, sent.Sub(due))
}

// run loads the server as planned. An error is the generator's own; what the server did wrong
// is in the tally.
func (p *plan) run(ctx context.Context, pace pacer) (*tally, error) {
	if len(p.cycle) == 0 || p.clients < 1 || p.duration <= 0 {
		return nil, errors.New("openloop: nothing to send, nobody to send it, or no time")
	}
	result := newTally()
	start := time.Now()
	end := start.Add(p.duration)
	deadline := end.Add(p.drain)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()

	// Indices of due requests: the times follow from them, so what waits here for a free client
	// loses nothing, and there are never more than a channel's worth.
	due := make(chan int64, p.clients)
	var clients sync.WaitGroup
	for range p.clients {
		clients.Go(func() {
			l := newLink(p.dial, deadline)
			defer l.close()
			if p.rate == 0 {
				p.sendClosed(ctx, l, end, result)
				return
			}
			for index := range due {
				at := p.dueAt(start, index)
				sent := time.Now()
				m := &p.cycle[index%int64(len(p.cycle))]
				_, failed := l.do(ctx, m)
				result.add(m.class, at, sent, time.Now(), failed)
			}
		})
	}
	err := p.dispatch(ctx, pace, start, due, result)
	close(due)
	clients.Wait()
	result.elapsed = time.Since(start)
	return result, err
}

func (p *plan) dueAt(start time.Time, index int64) time.Time {
	return start.Add(time.Duration(float64(index) / p.rate * float64(time.Second)))
}

// dispatch hands out the requests when they are due. Those that no client could take until the
// deadline were due all the same, so they are counted with the time they waited.
func (p *plan) dispatch(
	ctx context.Context, pace pacer, start time.Time, due chan<- int64, result *tally,
) error {
	if p.rate == 0 {
		return nil
	}
	total := int64(p.rate * p.duration.Seconds())
	result.due = total
	for index := range total {
		at := p.dueAt(start, index)
		if time.Until(at) > 0 {
			if err := pace.until(at); err != nil {
				return err
			}
		}
		select {
		case due <- index:
		case <-ctx.Done():
			now := time.Now()
			for late := index; late < total; late++ {
				m := &p.cycle[late%int64(len(p.cycle))]
				at := p.dueAt(start, late)
				result.add(m.class, at, now, now, newFault(faultTimeout, ctx.Err()))
			}
			return nil
		}
	}
	return nil
}

// sendClosed is one client of a closed loop.
func (p *plan) sendClosed(ctx context.Context, l *link, end time.Time, result *tally) {
	for index := 0; ctx.Err() == nil && time.Now().Before(end); index++ {
		m := &p.cycle[index%len(p.cycle)]
		sent := time.Now()
		_, failed := l.do(ctx, m)
		result.add(m.class, sent, sent, time.Now(), failed)
		if failed != nil && failed.kind == faultConnect {
			return // refused at once: trying again at once would only burn the CPU
		}
	}
}
