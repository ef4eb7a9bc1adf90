package loop

import "time"

// retrySecondsMax is the longest wait that a client of a server without workers is asked for.
const retrySecondsMax = 60

// outage is a time without any worker.
type outage struct {
	why   string
	until time.Time // when a worker may be ready; zero: nobody knows
}

// seconds is what the client of a 503 is told.
func (o *outage) seconds() int {
	left := time.Until(o.until) + time.Second - 1 // rounded up
	return int(min(max(left/time.Second, 1), retrySecondsMax))
}

// NoWorkers says that no worker serves and none is expected before until, because of why: from now
// on requests get 503 with a Retry-After instead of waiting for --queue-timeout, also those that
// wait already. It is over when a worker is added, or with no reason given. A loop that still has a
// worker goes on.
func (r *Reactor) NoWorkers(why string, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if why == "" {
		r.noWorkers.Store(nil)
		return
	}
	r.noWorkers.Store(&outage{why, until})
	for _, l := range r.loops {
		l.post(l.turnAway)
	}
}

// outage says why nobody will serve what waits in this loop; nil while workers do or are about to.
func (l *loop) outage() *outage {
	r := l.reactor
	switch {
	case l.hasWorkers():
		return nil
	case r.closing.Load() && !r.patient.Load(): // those that drain take nothing more
		return &outage{why: "the server stops"}
	}
	return r.noWorkers.Load()
}

// turnAway answers what waits for workers that will not come.
func (l *loop) turnAway() {
	out := l.outage()
	if out == nil {
		return
	}
	for n := l.queue.len; n > 0 && l.queue.first != nil; n-- {
		l.turnAwayOne(l.queue.first, out)
	}
}

func (l *loop) turnAwayOne(c *client, out *outage) {
	defer l.recover(c)
	l.refuseFor(c, 503, out.why, limitWorkers, out.seconds())
}

// hasWorkers reports whether a worker takes requests, now or when it has room.
func (l *loop) hasWorkers() bool {
	for _, ln := range l.lanes {
		if !ln.draining && !ln.down {
			return true
		}
	}
	return false
}
