package loop

import "time"

// A lane has more slots than its worker has threads, so that a worker that answers quickly finds
// its next request without a word from the loop. What lies in a slot behind a long request waits
// for that one worker, while others may be idle; so
//
//   - a worker gets only so many requests ahead as it has lately answered in two looks
//     (lane.depth); the others wait in the loop's queue, which all workers share;
//   - a worker that answers nothing while a request waits for it (lane.still) gets no more;
//   - a request that has waited staleTime moves to a worker that has a thread free, or, if its own
//     worker stands still or drains, to any that moves. Oldest first.
//
// A look costs a few microseconds and comes only while requests are in flight and there is more
// than one worker to choose from. As many requests ahead as there are threads would need none of
// this, and would take away the batches that make short requests fast.
const (
	lookEvery = 5 * time.Millisecond

	// depthFirst is how many requests a worker may have in its slots before the first look.
	depthFirst = 64

	// staleTime is how long a request may lie in a slot before it may move.
	staleTime = 5 * time.Millisecond

	// stillTime is when a worker that stands still though it should have a thread free gets
	// another request: only that tells whether all of its threads are held up.
	stillTime = 100 * time.Millisecond

	// relocationsMax bounds the requests that one look moves.
	relocationsMax = 256
)

// lookSoon makes the loop look at its lanes in a moment, if there is something to choose.
func (l *loop) lookSoon() {
	if l.lookArmed || len(l.lanes) < 2 {
		return
	}
	l.lookArmed = true
	if l.lookTimer == nil {
		l.lookTimer = time.AfterFunc(lookEvery, func() { l.post(l.look) })
		return
	}
	l.lookTimer.Reset(lookEvery)
}

// look judges the workers and lets requests move.
func (l *loop) look() {
	l.lookArmed = false
	now := l.reactor.monotonic()
	waits := l.queue.len > 0
	l.stale = false
	for _, ln := range l.lanes {
		if oldest := ln.judge(now); oldest != nil {
			waits = true
			l.stale = l.stale || ln.draining || !ln.fresh(oldest.slot, now)
		}
	}
	l.relocate(now)
	l.pump()
	if waits {
		l.lookSoon()
	}
}

// judge updates what the loop thinks of a worker, and returns the client that has waited longest
// for one of its threads, or nil.
func (ln *lane) judge(now int64) (oldest *client) {
	served := ln.member.served.Load()
	done := int64(served - ln.seen)
	ln.seen = served
	ln.depth = max(ln.threads+1+2*done, ln.depth*3/4)
	oldest = ln.oldest()
	inFlight := ln.member.inFlight.Load()
	switch {
	case done > 0 || inFlight == 0:
		ln.still = false
	case !ln.still && oldest != nil && now-ln.placed[oldest.slot] >= int64(staleTime):
		ln.still, ln.stillAt = true, now
	case ln.still && inFlight < ln.threads && now-ln.stillAt >= int64(stillTime):
		ln.still = false
	}
	return oldest
}

// oldest is the client whose request has waited longest for a thread of the worker, or nil. A
// client whose own socket went with its request stays: the worker could not give the socket back.
func (ln *lane) oldest() *client {
	for {
		slot, ok := ln.bridge.Oldest()
		if !ok {
			return nil
		}
		if c := ln.clients[slot]; c != nil && !c.upgraded && !ln.bridge.Taken(slot) {
			return c
		}
		ln.bridge.Pass()
	}
}

// relieve lets the requests of others move to a worker that has just answered, where the last look
// saw some that had waited long.
func (l *loop) relieve(idle *lane) {
	if idle.takes() && idle.member.inFlight.Load() < idle.threads {
		l.relocate(l.reactor.monotonic())
	}
}

// relocate moves requests to workers that will serve them sooner.
func (l *loop) relocate(now int64) {
	for range relocationsMax {
		to := l.pick()
		if to == nil {
			return
		}
		from, c := l.stalest(to, now)
		if c == nil {
			return
		}
		l.transfer(c, from, to)
	}
}

// stalest finds the oldest request that is better off at another lane.
func (l *loop) stalest(to *lane, now int64) (from *lane, found *client) {
	idle := to.member.inFlight.Load() < to.threads
	stopping := l.reactor.closing.Load()
	for _, ln := range l.lanes {
		// Workers that stop one after the other would pass all their requests to the last one.
		leaves := ln.draining && !stopping
		if ln == to || ln.down || !leaves && (to.still || !ln.still && !idle) {
			continue
		}
		slot, ok := ln.bridge.Oldest()
		if !ok || !leaves && ln.fresh(slot, now) {
			continue
		}
		c := ln.oldest()
		if c == nil || !leaves && ln.fresh(c.slot, now) {
			continue
		}
		if found == nil || c.since < found.since {
			from, found = ln, c
		}
	}
	return from, found
}

// fresh reports whether the slot's request was put there a moment ago.
func (ln *lane) fresh(slot uint32, now int64) bool {
	return ln.clients[slot] != nil && now-ln.placed[slot] < int64(staleTime)
}

// transfer moves a request that waits in a slot of a living worker to another lane. What of it lay
// in the slot is borrowed from there until the other lane has its copy.
func (l *loop) transfer(c *client, from, to *lane) {
	defer l.recover(c)
	slot := c.slot
	if !l.takeBack(c) {
		from.bridge.Pass() // a thread has just begun it
		return
	}
	if c.vanished() {
		l.drop(c)
		return
	}
	head, body, hasBody := from.bridge.Recover(slot, l.moving[:0])
	l.moving = head
	if !l.reread(c, head) {
		return
	}
	l.request.HasBody, l.request.Body = hasBody, body
	l.addFile(c)
	if l.submit(c, to) {
		l.stats.stolen.Add(1)
		return
	}
	l.enqueue(c)
}
