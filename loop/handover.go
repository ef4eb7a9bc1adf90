package loop

import (
	"context"
	"fmt"
	"time"
)

// HandOver is CloseDoors for a server whose listeners another process has open too. Clients that
// wait in the kernel are left to that process. Clients that were promised another request on their
// connection have promisedTime for it; its answer says that it is the last: closing under a
// request that is on the way would lose it. Settle returns when there are none; the workers must
// stay until then.
func (r *Reactor) HandOver() {
	r.patient.Store(true)
	r.CloseDoors()
}

// Settle returns when no client can ask anything any more, or when ctx ends. It is of use after
// HandOver.
func (r *Reactor) Settle(ctx context.Context) {
	check := time.NewTicker(settleEvery)
	defer check.Stop()
	for r.clients.Load() > r.lingering.Load() {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
		}
	}
}

// settleEvery is how often Settle looks.
const settleEvery = 10 * time.Millisecond

// Alive returns when every loop has run a task that it was given now. A loop that is stuck, or
// has ended, is named by the error when ctx ends.
func (r *Reactor) Alive(ctx context.Context) error {
	answers := make([]<-chan struct{}, len(r.loops))
	for i, l := range r.loops {
		answer := make(chan struct{})
		answers[i] = answer
		l.post(func() { close(answer) })
	}
	return silent(ctx, answers)
}

// silent names the first loop that has not answered when ctx ends.
func silent(ctx context.Context, answers []<-chan struct{}) error {
	for i, answer := range answers {
		select {
		case <-answer:
		case <-ctx.Done():
			// It may be we who are late: only a loop that is still silent is to blame.
			select {
			case <-answer:
				continue
			default:
			}
			return fmt.Errorf("loop: loop %d does not answer: %w", i, ctx.Err())
		}
	}
	return nil
}
