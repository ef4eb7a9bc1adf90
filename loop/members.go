package loop

import (
	"sync"
	"sync/atomic"

	"gophersnake/pybridge"
)

// Worker is a Python process as the reactor sees it.
type Worker interface {
	ID() int
	Lane(loop int) *pybridge.Lane
	Kill()
}

// member is a worker that takes requests.
type member struct {
	worker   Worker
	inFlight atomic.Int64 // requests in its slots, over all loops
	draining atomic.Bool  // every loop has stopped handing it requests
	once     sync.Once
	drained  chan struct{}
}

// done counts a request that is over.
func (m *member) done() {
	if m.inFlight.Add(-1) == 0 && m.draining.Load() {
		m.once.Do(func() { close(m.drained) })
	}
}

// lane is one loop's link to one worker, with the clients that wait for its replies.
type lane struct {
	member   *member
	bridge   *pybridge.Lane
	clients  []*client // by slot
	touched  bool      // has requests that were not rung for
	draining bool      // takes no more requests
	down     bool      // the worker is gone; bridge must not be used
}

// AddWorker starts handing requests to w.
func (r *Reactor) AddWorker(w Worker) {
	m := &member{worker: w, drained: make(chan struct{})}
	r.mu.Lock()
	r.members[w] = m
	r.mu.Unlock()
	for _, l := range r.loops {
		go l.join(m)
	}
}

// join enrols the lane's doorbell in the loop, so that a reply wakes the loop itself. It runs
// outside the loop, because enrolling waits for it.
func (l *loop) join(m *member) {
	bridge := m.worker.Lane(l.index)
	ln := &lane{member: m, bridge: bridge, clients: make([]*client, bridge.Slots())}
	bell, err := bellConn(bridge)
	if err == nil {
		conn, enrolErr := l.client.EnrollContext(bell, ln)
		if err = enrolErr; err == nil {
			bridge.SetDoorbellFD(conn.Fd())
		}
	}
	if err != nil {
		l.log.Error("cannot link a worker to a loop; it is killed", "worker", m.worker.ID(),
			"error", err)
		m.worker.Kill()
		return
	}
	l.post(func() {
		if ln.down {
			return
		}
		l.lanes = append(l.lanes, ln)
		l.takeReplies(ln)
		l.pump()
	})
}

// DrainWorker stops handing requests to w; the channel is closed when none is in flight.
func (r *Reactor) DrainWorker(w Worker) <-chan struct{} {
	r.mu.Lock()
	m := r.members[w]
	r.mu.Unlock()
	if m == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	left := new(atomic.Int32)
	left.Store(int32(len(r.loops)))
	for _, l := range r.loops {
		l.post(func() {
			for _, ln := range l.lanes {
				if ln.member == m {
					ln.draining = true
				}
			}
			if left.Add(-1) > 0 {
				return
			}
			m.draining.Store(true)
			m.inFlight.Add(1) // done() looks at the count once more
			m.done()
		})
	}
	return m.drained
}

// RemoveWorker ends the use of a worker that is dead.
func (r *Reactor) RemoveWorker(w Worker) {
	r.mu.Lock()
	m := r.members[w]
	delete(r.members, w)
	r.mu.Unlock()
	if m == nil {
		return
	}
	for _, l := range r.loops {
		l.post(func() {
			for _, ln := range l.lanes {
				if ln.member == m {
					l.laneDown(ln)
					return
				}
			}
		})
	}
}

// laneDown ends a lane whose worker has died: replies that were complete are delivered, requests
// that no thread had begun move to another worker, the others fail (invariant 10).
func (l *loop) laneDown(ln *lane) {
	if ln.down {
		return
	}
	l.takeLastReplies(ln)
	var moving []*client
	for slot, c := range ln.clients {
		if c == nil {
			continue
		}
		ln.clients[slot] = nil
		ln.member.done()
		c.lane = nil
		if ln.bridge.Cancel(c.slot, c.gen) && l.rescue(c, ln) {
			moving = append(moving, c)
			continue
		}
		l.fail(c)
	}
	ln.down = true
	for i := range l.lanes {
		if l.lanes[i] == ln {
			l.lanes = append(l.lanes[:i], l.lanes[i+1:]...)
			break
		}
	}
	ln.bridge.Release()
	for _, c := range moving {
		l.resume(c)
	}
}

// takeLastReplies delivers what the worker had published before it died.
func (l *loop) takeLastReplies(ln *lane) {
	var r pybridge.Reply
	for {
		ok, err := ln.bridge.Next(&r)
		if !ok || err != nil {
			return
		}
		l.takeReply(ln, &r)
	}
}

// rescue copies a request that no thread had begun out of its slot. The bytes are parsed anew, since a dying
// worker may have written anywhere.
func (l *loop) rescue(c *client, ln *lane) bool {
	head, body, hasBody := ln.bridge.Recover(c.slot)
	in := c.incoming
	if in == nil {
		in = &incoming{}
		c.incoming = in
	}
	in.head, in.hasBody = getBuffer(head), hasBody
	if in.file == nil && len(body) > 0 {
		in.body = getBuffer(body)
		in.got = int64(len(body))
	}
	l.timing.clear(c)
	c.state = stateQueued
	return true
}

// fail ends a request whose worker died: 502 when nothing was sent, else the client sees
// that its answer is not whole.
func (l *loop) fail(c *client) {
	if !c.begun {
		l.refuse(c, 502, "the worker died", "")
		return
	}
	l.timing.clear(c)
	c.lastOne, c.broken = true, true
	l.answered(c)
}

// appTimeout ends a request whose app took longer than RequestTimeout.
func (l *loop) appTimeout(c *client) {
	l.log.Warn("request took longer than --timeout", "client", c.addr,
		"worker", c.lane.member.worker.ID())
	begun := c.begun
	l.abandon(c)
	if begun {
		c.lastOne, c.broken = true, true
		l.answered(c)
		return
	}
	l.refuse(c, 504, "the app took too long", "timeout")
}
