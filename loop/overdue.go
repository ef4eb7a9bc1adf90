package loop

import "time"

// Lateness is how late a request is.
type Lateness int

// A request becomes Slow, Late and Hung, in this order and each at most once. Only time that a
// thread runs it counts, until its answer begins; an interim response (RFC 9110 §15.2) begins none.
const (
	Slow Lateness = iota // it ran for Config.SlowRequest
	Late                 // it ran for Config.RequestTimeout, and its client has got 504
	Hung                 // Config.HungAfter after that its thread was not free
)

func (n Lateness) String() string { return [...]string{"slow", "late", "hung"}[n] }

// Overdue is a request that takes too long.
type Overdue struct {
	Lateness         Lateness
	Worker           Worker
	Lane             int // of the worker; with Slot and Generation it names the request
	Slot, Generation uint32
	Thread           int    // of the worker, from 0
	Method, Path     string // no query: it may hold secrets
	Client           string
	Queue            time.Duration // from the complete request until a thread had it
	GIL              time.Duration // of that and of App: its thread waited for the GIL for us
	App              time.Duration // since a thread has it
}

// hanging is a request that is late, until its thread is free.
type hanging struct {
	lane *lane
	what Overdue
	at   int64 // loop time at which it is hung
}

// firstLook is how long after a request was handed over its progress is worth a look.
func (cfg *Config) firstLook() time.Duration {
	if cfg.slowApplies() {
		return cfg.SlowRequest
	}
	return cfg.RequestTimeout
}

func (cfg *Config) slowApplies() bool {
	return cfg.SlowRequest > 0 &&
		(cfg.RequestTimeout == 0 || cfg.SlowRequest < cfg.RequestTimeout)
}

// checkProgress is called when the answer of a request may be overdue.
func (l *loop) checkProgress(c *client) {
	if !c.lane.bridge.Taken(c.slot) { // it lies in its slot: QueueTimeout is about that
		l.timing.set(c, timerApp, l.now)
		return
	}
	now := l.reactor.monotonic()
	ran := l.ran(c, now)
	timeout := l.cfg.RequestTimeout
	if timeout > 0 && ran >= timeout {
		l.appTimeout(c)
		return
	}
	next := timeout
	switch {
	case !l.cfg.slowApplies() || c.slow:
	case ran >= l.cfg.SlowRequest:
		c.slow = true
		l.tell(l.overdue(c, Slow))
	default:
		next = l.cfg.SlowRequest
	}
	if next > 0 {
		l.timing.setAgain(c, now+int64(next-ran))
	}
}

// ran is how long a thread has run the client's request: what the worker says, if it is possible.
func (l *loop) ran(c *client, now int64) time.Duration {
	taken := c.lane.bridge.Run(c.slot).TakenNS - l.reactor.beganNS
	return time.Duration(now - min(max(taken, c.since), now))
}

// appTimeout ends a request whose answer did not begin within RequestTimeout.
func (l *loop) appTimeout(c *client) {
	late := l.overdue(c, Late)
	l.tell(late)
	if l.cfg.HungAfter > 0 {
		l.hanging = append(l.hanging, hanging{c.lane, late, l.now + int64(l.cfg.HungAfter)})
	}
	l.abandon(c)
	l.refuse(c, 504, "the app took too long", "")
}

// findHung tells of requests whose threads did not come free. There are never more than slots.
func (l *loop) findHung() {
	left := l.hanging[:0]
	for _, h := range l.hanging {
		if h.lane.down || !h.lane.bridge.Holds(h.what.Slot, h.what.Generation) {
			continue
		}
		if l.now < h.at {
			left = append(left, h)
			continue
		}
		h.what.Lateness = Hung
		h.what.App += l.cfg.HungAfter
		l.tell(h.what)
	}
	clear(l.hanging[len(left):])
	l.hanging = left
}

func (l *loop) tell(o Overdue) {
	if l.cfg.Overdue != nil {
		l.cfg.Overdue(o)
		return
	}
	l.log.Warn("request is "+o.Lateness.String(), "client", o.Client, "worker", o.Worker.ID())
}

// overdue describes the request that the client waits for.
func (l *loop) overdue(c *client, n Lateness) Overdue {
	now := l.reactor.monotonic()
	run := c.lane.bridge.Run(c.slot)
	o := Overdue{
		Lateness: n, Worker: c.lane.member.worker, Lane: l.index, Slot: c.slot,
		Generation: c.gen, Thread: run.Thread, Client: c.addr, App: l.ran(c, now),
	}
	o.Queue = time.Duration(now-c.since) - o.App
	o.GIL = min(run.GIL, o.Queue+o.App)
	o.Method, o.Path = shownLine(c.lane.bridge.HeadOf(c.slot, nil, requestLineShownMax))
	return o
}
