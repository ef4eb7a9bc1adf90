package loop

import "time"

// timerKind is what a client's deadline is about. Deadlines of one kind have one duration, so a
// list in the order of setting is a list in the order of expiry, and setting costs two pointers.
type timerKind uint8

const (
	timerNone     timerKind = iota
	timerHead               // a head is not complete: 408 if it had begun
	timerIdle               // no request after an answer: silent close
	timerBody               // no body bytes: 408
	timerApp                // the answer does not begin: see overdue.go
	timerAgain              // and still not; each deadline of its own, set by setAgain
	timerLinger             // the client does not close its end
	timerFresh              // no request, and the server stops
	timerPromised           // no further request, and another server takes over
	timerKinds
)

// timer links a client into the list of its kind.
type timer struct {
	kind       timerKind
	at         int64 // loop time of the deadline
	next, prev *client
}

type timerList struct {
	duration    int64 // nanoseconds; 0: this kind never expires
	first, last *client
}

// timing is a loop's timing list: one list for each kind.
type timing struct {
	lists [timerKinds]timerList
}

func (t *timing) init(cfg *Config) {
	t.lists[timerHead].duration = int64(cfg.HeaderTimeout)
	t.lists[timerIdle].duration = int64(cfg.KeepAlive)
	t.lists[timerBody].duration = int64(cfg.BodyTimeout)
	t.lists[timerApp].duration = int64(cfg.firstLook())
	t.lists[timerLinger].duration = int64(lingerTime)
	t.lists[timerFresh].duration = int64(freshTime)
	t.lists[timerPromised].duration = int64(min(cfg.KeepAlive, promisedTime))
}

// setAgain is set for a deadline of its own, at a loop time. The list has to be walked past those
// that come later.
func (t *timing) setAgain(c *client, at int64) {
	t.clear(c)
	l := &t.lists[timerAgain]
	prev := l.last
	for prev != nil && prev.timer.at > at {
		prev = prev.timer.prev
	}
	next := l.first
	if prev != nil {
		next = prev.timer.next
	}
	c.timer = timer{kind: timerAgain, at: at, prev: prev, next: next}
	if prev != nil {
		prev.timer.next = c
	} else {
		l.first = c
	}
	if next != nil {
		next.timer.prev = c
	} else {
		l.last = c
	}
}

// set replaces the client's deadline. now is the time of the last tick, up to one tick ago: with
// one added, a deadline is met at most two ticks late and never early.
func (t *timing) set(c *client, kind timerKind, now int64) {
	t.clear(c)
	l := &t.lists[kind]
	if l.duration == 0 {
		return
	}
	c.timer = timer{kind: kind, at: now + l.duration + int64(clockTick), prev: l.last}
	if l.last != nil {
		l.last.timer.next = c
	} else {
		l.first = c
	}
	l.last = c
}

// clear removes the client's deadline, if it has one.
func (t *timing) clear(c *client) {
	if c.timer.kind == timerNone {
		return
	}
	l := &t.lists[c.timer.kind]
	next, prev := c.timer.next, c.timer.prev
	if prev != nil {
		prev.timer.next = next
	} else {
		l.first = next
	}
	if next != nil {
		next.timer.prev = prev
	} else {
		l.last = prev
	}
	c.timer = timer{}
}

// expired takes the next client whose deadline has passed, or nil.
func (t *timing) expired(now int64) (*client, timerKind) {
	for kind := range t.lists {
		if c := t.lists[kind].first; c != nil && c.timer.at <= now {
			k := c.timer.kind
			t.clear(c)
			return c, k
		}
	}
	return nil, timerNone
}

// clockTick is how exact deadlines are.
const clockTick = 100 * time.Millisecond

// every calls f again and again until the reactor ends.
func (r *Reactor) every(d time.Duration, f func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case <-t.C:
			f()
		}
	}
}

// tick lets every loop look at its timing list. A loop that has not looked since the last tick
// is busy and gets no second task.
func (r *Reactor) tick() {
	for _, l := range r.loops {
		if !l.tickPosted.Swap(true) {
			l.post(l.tick)
		}
	}
}

// monotonic is the time that all deadlines are measured in; a step of the wall clock does not
// change it.
func (r *Reactor) monotonic() int64 { return int64(time.Since(r.began)) }

// tick looks at the timing list and at the drainers that need room.
func (l *loop) tick() {
	l.tickPosted.Store(false)
	l.now = l.reactor.monotonic()
	l.sumUp()
	l.unburden()
	l.expireWaiting()
	l.findHung()
	l.expireDue()
	if len(l.closed[0])+len(l.closed[1]) > 0 {
		l.flushSoon()
	}
}

func (l *loop) expireDue() {
	for range expiriesPerTurnMax {
		c, kind := l.timing.expired(l.now)
		if c == nil {
			return
		}
		l.expire(c, kind)
	}
	l.expiring = true
	l.flushSoon()
}

func (l *loop) expire(c *client, kind timerKind) {
	defer l.recover(c)
	switch kind {
	case timerHead, timerIdle, timerFresh, timerPromised:
		begun := c.guard.Begun()
		switch {
		case c.unread() && !(begun && c.spared): // it came in this moment, or we are late
			c.spared = begun // once: bytes that trickle must not move the deadline of a head
			l.timing.set(c, kind, l.now)
		case begun:
			l.refuse(c, 408, "head not complete in time", "header-timeout")
		default:
			l.drop(c)
		}
	case timerBody:
		if c.unread() { // bodyPause judges what trickles
			l.timing.set(c, kind, l.now)
			return
		}
		l.refuse(c, 408, "body not complete in time", "body-timeout")
	case timerApp, timerAgain:
		l.checkProgress(c)
	default: // linger
		l.drop(c)
	}
}
