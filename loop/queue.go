package loop

import "sync/atomic"

// queue holds clients whose complete request waits for a lane with room, oldest first, linked
// through what is kept of their requests. Its bound is the reactor's: see mayWait.
type queue struct {
	first, last *client
	len         int
	all         *atomic.Int64 // clients in the queues of all loops
}

// push adds a client that has c.incoming. A request that comes back from a worker is older than
// those that wait already, and goes before them.
func (q *queue) push(c *client) {
	prev := q.last
	for prev != nil && prev.since > c.since {
		prev = prev.incoming.prev
	}
	next := q.first
	if prev != nil {
		next = prev.incoming.next
	}
	c.incoming.queued, c.incoming.prev, c.incoming.next = true, prev, next
	if prev != nil {
		prev.incoming.next = c
	} else {
		q.first = c
	}
	if next != nil {
		next.incoming.prev = c
	} else {
		q.last = c
	}
	q.len++
	q.all.Add(1)
}

// remove takes a client out; it does nothing when the client is not queued.
func (q *queue) remove(c *client) {
	in := c.incoming
	if in == nil || !in.queued {
		return
	}
	if in.prev != nil {
		in.prev.incoming.next = in.next
	} else {
		q.first = in.next
	}
	if in.next != nil {
		in.next.incoming.prev = in.prev
	} else {
		q.last = in.prev
	}
	in.queued, in.next, in.prev = false, nil, nil
	q.len--
	q.all.Add(-1)
}

// enqueue lets a request wait in the loop for a lane with room.
func (l *loop) enqueue(c *client) {
	if out := l.outage(); out != nil {
		l.refuseFor(c, 503, out.why, limitWorkers, out.seconds())
		return
	}
	if !l.retain(c) {
		l.refuse(c, 503, "no memory for a request that waits for a thread", "max-buffers")
		return
	}
	l.timing.clear(c)
	l.queue.push(c)
	c.state = stateQueued
	l.lookSoon()
}

// retain keeps l.request in c.incoming, unless it is there already. False when the buffers of
// all clients are used up.
func (l *loop) retain(c *client) bool {
	in := c.incoming
	if in != nil && in.head != nil {
		return true
	}
	if in == nil {
		in = &incoming{}
		c.incoming = in
	}
	in.head, in.hasBody = getBuffer(l.request.Head), l.request.HasBody
	in.upgrade = l.request.Socket != 0
	if len(l.request.Body) > 0 {
		in.body = getBuffer(l.request.Body)
		in.got = int64(len(l.request.Body))
	}
	return c.book()
}

// mayWait refuses a new request that would have to wait while QueueMax others do, here, in the
// other loops or in the slots of workers whose threads are all busy. False when it has. Loops that
// look in the same moment may admit one more each.
func (l *loop) mayWait(c *client) bool {
	waiting := l.reactor.queued.Load()
	for _, ln := range l.lanes {
		waiting += max(ln.member.inFlight.Load()-ln.threads, 0)
	}
	if waiting >= int64(l.cfg.QueueMax) {
		l.refuse(c, 503, "too many requests wait for a thread", "queue")
		return false
	}
	if waiting++; waiting > l.stats.waitingMost.Load() {
		l.stats.waitingMost.Store(waiting)
	}
	return true
}

// pump submits queued requests in order while there is room. A request that fits nowhere yet
// keeps its place and its deadline.
func (l *loop) pump() {
	for l.queue.len > 0 {
		best := l.pick()
		if best == nil || !l.advance(l.queue.first, best) {
			return
		}
	}
}

// placeAll hands out what waits in the queue, however far ahead that gets the workers: they are
// about to drain, and take nothing afterwards.
func (l *loop) placeAll() {
	for l.queue.len > 0 {
		var best *lane
		for _, ln := range l.lanes {
			if ln.takes() && (best == nil ||
				ln.member.inFlight.Load() < best.member.inFlight.Load()) {
				best = ln
			}
		}
		if best == nil || !l.advance(l.queue.first, best) {
			return
		}
	}
}

// advance hands the first of the queue on; true when it has left the queue.
func (l *loop) advance(c *client, best *lane) (left bool) {
	defer l.recover(c)
	left = true // also when it panics
	if c.vanished() {
		l.drop(c)
		return true
	}
	return !l.prepare(c) || l.submit(c, best)
}

// expireWaiting refuses requests that no thread has begun within QueueTimeout, be they in the queue
// or in a slot.
func (l *loop) expireWaiting() {
	if l.cfg.QueueTimeout == 0 {
		return
	}
	before := l.now - int64(l.cfg.QueueTimeout)
	left := expiriesPerTurnMax
	for c := l.queue.first; c != nil && c.since < before && left > 0; c = l.queue.first {
		l.tooLate(c)
		left--
	}
	for _, ln := range l.lanes {
		if ln.inFlight == 0 {
			continue
		}
		for _, c := range ln.clients {
			if c != nil && c.since < before && !c.begun && left > 0 &&
				!ln.bridge.Taken(c.slot) && l.takeBack(c) {
				l.tooLate(c)
				left--
			}
		}
	}
}

func (l *loop) tooLate(c *client) {
	defer l.recover(c)
	l.refuse(c, 503, "no thread was free in time", "queue-timeout")
}
