package loop

import (
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"

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
	served   atomic.Uint64
	retiring atomic.Bool // no loop may hand it more
	removed  atomic.Bool // dead
	draining atomic.Bool // every loop has stopped handing it requests
	once     sync.Once
	drained  chan struct{}
}

// done counts n requests that are over.
func (m *member) done(n int64) {
	if m.inFlight.Add(-n) == 0 && m.draining.Load() {
		m.once.Do(func() { close(m.drained) })
	}
}

// lane is one loop's link to one worker, with the clients that wait for its replies.
type lane struct {
	member   *member
	bridge   *pybridge.Lane
	bell     gnet.Conn // the doorbell's end in the loop, from its opening on
	clients  []*client // by slot
	placed   []int64   // by slot: loop time at which its request was put there
	threads  int64     // of the worker
	inFlight int64     // requests in its slots, those of vanished clients too
	unrung   int       // requests in its slots that were not rung for
	draining bool      // takes no more requests
	down     bool      // the worker is gone; bridge must not be used

	// How the worker fares, as of the last look; see steal.go.
	depth   int64  // how many requests it may have in its slots
	still   bool   // requests wait and it answers nothing
	stillAt int64  // loop time since when
	seen    uint64 // requests it had served
}

// takes reports whether a request without a large body can be submitted.
func (ln *lane) takes() bool { return !ln.draining && !ln.down && ln.bridge.HasRoom() }

// ring wakes the worker, if it sleeps, for what was put into its slots.
func (ln *lane) ring() {
	ln.unrung = 0
	ln.bridge.Ring()
}

func (ln *lane) done() {
	ln.inFlight--
	ln.member.done(1)
}

// AddWorker starts handing requests to w.
func (r *Reactor) AddWorker(w Worker) { r.SwitchWorkers([]Worker{w}, nil) }

// enrol puts the lane's doorbell into the loop, so that a reply wakes the loop itself. It runs
// outside the loop, because enrolling waits for it. Nil when it fails: the worker is killed then,
// or has ended already.
func (l *loop) enrol(m *member) *lane {
	bridge := m.worker.Lane(l.index)
	doorbell := bridge.Doorbell()
	if doorbell == nil { // it has ended already
		return nil
	}
	ln := newLane(m, bridge)
	var enrolled gnet.Conn
	bell, err := bellConn(doorbell)
	if err == nil {
		enrolled, err = l.enroll(bell, ln)
	}
	if err != nil {
		l.log.Error("cannot link a worker to a loop; it is killed", "worker", m.worker.ID(),
			"error", err)
		bridge.Release()
		m.worker.Kill()
		return nil
	}
	bridge.SetDoorbellFD(enrolled.Fd())
	return ln
}

// newLane makes a lane whose worker has some requests ahead, depthFirst at least, until its pace is
// known.
func newLane(m *member, bridge *pybridge.Lane) *lane {
	return &lane{member: m, bridge: bridge, clients: make([]*client, bridge.Slots()),
		placed: make([]int64, bridge.Slots()), threads: int64(bridge.Threads()),
		depth: max(depthFirst, int64(bridge.Threads())+1)}
}

// attach begins to use a lane.
func (l *loop) attach(ln *lane) {
	if ln.down {
		return
	}
	ln.draining = ln.member.retiring.Load()
	l.lanes = append(l.lanes, ln)
	if ln.member.removed.Load() { // and there may be an outage by now
		l.laneDown(ln)
		return
	}
	l.reactor.noWorkers.Store(nil)
	l.takeReplies(ln)
}

// bellConn makes a net.Conn of a lane's doorbell.
func bellConn(f *os.File) (net.Conn, error) {
	defer func() { _ = f.Close() }()
	return net.FileConn(f)
}

// DrainWorker stops handing requests to w; the channel is closed when none is in flight, or w is
// dead.
func (r *Reactor) DrainWorker(w Worker) <-chan struct{} {
	_, drained := r.SwitchWorkers(nil, []Worker{w})
	return drained[0]
}

// retire stops handing this loop's requests to m.
func (l *loop) retire(m *member) {
	m.retiring.Store(true)
	for _, ln := range l.lanes {
		if ln.member == m {
			ln.draining = true
		}
	}
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
	m.removed.Store(true)
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

// laneDown ends a lane whose worker has died or must: replies that were complete are delivered,
// requests that no thread had begun move to another worker, the others fail (invariant 10).
func (l *loop) laneDown(ln *lane) {
	if ln.down {
		return
	}
	ln.draining = true // what follows may submit pipelined requests, but not here
	// A worker whose doorbell has closed may still run, and is of no use any more; one that was told
	// to quit may be in its exit handlers.
	if !ln.member.retiring.Load() {
		ln.member.worker.Kill()
	}
	l.takeLastReplies(ln)
	var moving []*client
	for _, c := range ln.clients {
		if c == nil {
			continue
		}
		if slot := c.slot; l.takeBack(c) {
			l.rescue(c, ln, slot)
			moving = append(moving, c)
			continue
		}
		ln.clients[c.slot], c.lane = nil, nil
		l.fail(c)
	}
	ln.down = true
	ln.member.done(ln.inFlight)
	ln.inFlight = 0
	for i := range l.lanes {
		if l.lanes[i] == ln {
			l.lanes = append(l.lanes[:i], l.lanes[i+1:]...)
			break
		}
	}
	ln.bridge.Release()
	if ln.bell != nil {
		_ = ln.bell.EventLoop().Close(ln.bell)
	}
	for _, c := range moving {
		l.move(c)
	}
}

// takeLastReplies delivers what the worker had published before it died, at most a ring full.
func (l *loop) takeLastReplies(ln *lane) {
	var r pybridge.Reply
	for range ln.bridge.Replies() {
		ok, err := ln.bridge.Next(&r)
		if !ok || err != nil {
			return
		}
		l.takeReply(ln, &r)
	}
}

// rescue copies a request that no thread had begun out of its slot.
func (l *loop) rescue(c *client, ln *lane, slot uint32) {
	head, body, hasBody := ln.bridge.Recover(slot, nil)
	if c.incoming == nil {
		c.incoming = &incoming{}
	}
	in := c.incoming
	in.head, in.hasBody, in.upgrade = getBuffer(head), hasBody, c.upgraded
	if in.file == nil && len(body) > 0 {
		in.body = getBuffer(body)
		in.got = int64(len(body))
	}
	c.book()
	c.state = stateQueued
}

// move hands a rescued request to another worker, or queues it. It was admitted before: that the
// queue is full does not matter.
func (l *loop) move(c *client) {
	defer l.recover(c)
	if c.state != stateQueued || c.incoming.queued || !l.prepare(c) {
		return
	}
	l.stats.moved.Add(1)
	if best := l.pick(); best == nil || !l.submit(c, best) {
		l.enqueue(c)
	}
}

// fail ends a request whose worker died: 502 when nothing was sent, else the client sees
// that its answer is not whole.
func (l *loop) fail(c *client) {
	defer l.recover(c)
	if c.upgraded { // whatever it speaks with the app, it is not HTTP
		l.drop(c)
		return
	}
	if !c.begun {
		l.refuse(c, 502, "the worker died", "")
		return
	}
	l.cutOff(c)
}

// cutOff ends an answer that will never be whole.
func (l *loop) cutOff(c *client) {
	l.timing.clear(c)
	c.freeIncoming()
	c.lastOne, c.broken = true, true
	l.answered(c)
}
