package loop

import (
	"context"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// SwitchWorkers starts handing requests to those of in and stops handing them to those of out.
// When every loop has done so, done is closed. For each of out there is a channel, in order, that
// is closed when it has no request in flight, or is dead.
//
// Invariant: each loop does both in one step, so a client that had an answer of a new version of
// the app never gets a later one of the old version, and there is no moment without a worker.
// TestSwitchIsOneStep guards it. Draining first would leave requests in the queue while
// the new lanes are enrolled; adding first would let answers of both versions alternate.
func (r *Reactor) SwitchWorkers(in, out []Worker) (done <-chan struct{},
	drained []<-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sw := &workerSwitch{done: make(chan struct{})}
	sw.leaving, drained = r.known(out)
	if r.ended {
		close(sw.done)
		return sw.done, drained
	}
	var coming []*member
	for _, w := range in {
		m := &member{worker: w, drained: make(chan struct{})}
		r.members[w] = m
		coming = append(coming, m)
	}
	sw.left.Store(int32(len(r.loops)))
	for _, l := range r.loops {
		if len(coming) == 0 {
			l.post(func() { l.switchLanes(nil, sw) })
			continue
		}
		r.helpers.Add(1)
		go func() {
			defer r.helpers.Done()
			lanes := l.enrolAll(coming)
			l.post(func() { l.switchLanes(lanes, sw) })
		}()
	}
	return sw.done, drained
}

// workerSwitch is one call of SwitchWorkers on its way through the loops.
type workerSwitch struct {
	leaving []*member
	left    atomic.Int32  // loops that still have to
	done    chan struct{} // closed by the last one
}

// known finds the members of workers, and for each worker the channel that its draining closes.
// The caller holds r.mu.
func (r *Reactor) known(workers []Worker) (found []*member, drained []<-chan struct{}) {
	for _, w := range workers {
		if m := r.members[w]; m != nil {
			found = append(found, m)
			drained = append(drained, m.drained)
			continue
		}
		none := make(chan struct{}) // dead already
		close(none)
		drained = append(drained, none)
	}
	return found, drained
}

func (l *loop) enrolAll(members []*member) []*lane {
	var lanes []*lane
	for _, m := range members {
		if ln := l.enrol(m); ln != nil {
			lanes = append(lanes, ln)
		}
	}
	return lanes
}

// switchLanes begins to use lanes and retires members.
func (l *loop) switchLanes(lanes []*lane, sw *workerSwitch) {
	if l.reactor.closing.Load() {
		l.placeAll()
	}
	for _, m := range sw.leaving {
		l.retire(m)
	}
	for _, ln := range lanes {
		l.attach(ln)
	}
	if sw.left.Add(-1) == 0 {
		for _, m := range sw.leaving {
			m.draining.Store(true)
			m.done(0)
		}
		close(sw.done)
	}
	l.pump()
	l.look()
	l.turnAway()
}

// Finished is closed when no client is owed an answer or can ask anything any more. It is of use
// after CloseDoors: until then the workers are needed, also for what waits in the queues.
func (r *Reactor) Finished() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.acceptors.Wait()
		r.Settle(context.Background()) // which ends with the loops, at the latest
	}()
	return done
}

// AbortWorker cuts off the answers of w that have begun: their threads stop at the next block and
// close what the app returned (PEP 3333: close() is always called), which a kill would prevent. A
// request whose answer has not begun goes on: it has nothing to close, and may still be in
// time.
func (r *Reactor) AbortWorker(w Worker) {
	r.mu.Lock()
	m := r.members[w]
	r.mu.Unlock()
	if m == nil {
		return
	}
	for _, l := range r.loops {
		l.post(func() {
			for _, ln := range l.lanes {
				if ln.member == m {
					l.abort(ln)
					return
				}
			}
		})
	}
}

func (l *loop) abort(ln *lane) {
	for _, c := range ln.clients {
		if c == nil || !c.begun && !c.upgraded {
			continue
		}
		// Counted first: whoever sees the worker drained sees the count too.
		l.reactor.aborted.Add(1)
		l.abortOne(c)
	}
}

func (l *loop) abortOne(c *client) {
	defer l.recover(c)
	if c.upgraded { // the app's thread sits in recv(), which a close of ours would not end
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		l.drop(c)
		return
	}
	l.abandon(c)
	l.cutOff(c)
}

// Aborted is how many answers AbortWorker has cut off so far.
func (r *Reactor) Aborted() uint64 { return r.aborted.Load() }

// Served is how many requests w has finished.
func (r *Reactor) Served(w Worker) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.members[w]; m != nil {
		return m.served.Load()
	}
	return 0
}
