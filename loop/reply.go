package loop

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"gophersnake/pybridge"
)

// takeReplies delivers what a worker has answered, and lets the lane sleep when it is empty.
func (l *loop) takeReplies(ln *lane) {
	var r pybridge.Reply
	room, bytes := false, 0
	for n := 0; !ln.down; n++ {
		if ln.unrung >= ringAhead {
			ln.ring()
		}
		if n == turnRepliesMax || bytes > turnBytesMax {
			ln.bridge.FlushAcks()
			l.flushSoon()
			break
		}
		ok, err := ln.bridge.Next(&r)
		if err != nil {
			l.broken(ln)
			return
		}
		if !ok {
			ln.bridge.FlushAcks()
			if ln.bridge.Sleep() {
				break
			}
			continue
		}
		bytes += len(r.Data)
		room = l.takeReply(ln, &r) || room
	}
	switch {
	case room && l.queue.len > 0:
		l.pump()
	case room && l.stale:
		l.relieve(ln)
	}
}

// broken ends a worker whose lane cannot be trusted any more (invariant 4).
func (l *loop) broken(ln *lane) {
	l.stats.corrupt.Add(1)
	l.log.Error("worker killed: it broke the lane format", "worker", ln.member.worker.ID())
	ln.member.worker.Kill()
	l.laneDown(ln)
}

// takeReply delivers one reply; true when its slot is free now. The client is found by slot and
// generation, which the lane has checked (invariant 2).
func (l *loop) takeReply(ln *lane, r *pybridge.Reply) bool {
	l.handled++
	c := ln.clients[r.Slot]
	last := r.Flags&pybridge.ReplyLast != 0
	ended := last || r.Flags&pybridge.ReplyEnd != 0
	if ended { // the client may go on, also while the app still closes what it returned
		ln.clients[r.Slot] = nil
	}
	if last {
		ln.still = false
		ln.member.served.Add(1)
		ln.done()
	}
	if c == nil && r.File != nil {
		_ = r.File.Close()
	}
	if c == nil || !l.deliver(c, ln, r, ended) {
		ln.bridge.Ack(r.Thread)
	}
	return last
}

// deliver sends a reply's bytes to the client. True when they must not be acknowledged yet: the
// thread has to wait until the client's drainer has room again.
func (l *loop) deliver(c *client, ln *lane, r *pybridge.Reply, ended bool) (held bool) {
	defer l.recover(c)
	if ended {
		c.lane = nil // the slot is no longer the client's
	}
	// RequestTimeout is for an answer to begin: a stream may take its time, a 103 is no answer.
	if !c.begun && r.Flags&pybridge.ReplyInterim == 0 {
		c.begun = true
		l.stats.answered(r.Status)
		l.waited(c, ln, r.Slot)
		l.timing.clear(c)
	}
	if r.File != nil {
		l.sendFile(c, r.File, r.FileOff, r.FileLen)
	} else if len(r.Data) > 0 && ended && c.moreFollows() {
		l.sendCorked(c, r.Data)
	} else if len(r.Data) > 0 {
		l.send(c, r.Data)
	}
	d := c.drainer
	if ended {
		if d != nil { // its bytes are copied: the thread may serve others meanwhile
			l.letGo(d)
		}
		if c.state == stateRunning {
			l.complete(c, r.Flags)
		}
		return false
	}
	if d == nil || !d.full() {
		return false
	}
	l.hold(d, ln, r.Thread)
	return true
}

// complete ends a request whose answer was sent or given to the drainer.
func (l *loop) complete(c *client, flags uint32) {
	l.timing.clear(c)
	c.freeIncoming()
	if flags&(pybridge.ReplyClose|pybridge.ReplyAbort) != 0 {
		c.lastOne = true
	}
	c.broken = flags&pybridge.ReplyAbort != 0
	l.answered(c)
}

// send writes what was collected for a client and then data, which is only borrowed.
func (l *loop) send(c *client, data []byte) {
	if c.corked != nil && len(data) <= c.corkRoom() {
		_, _ = c.corked.Write(data)
		l.push(c)
		return
	}
	l.push(c)
	if c.state != stateClosed {
		l.write(c, data)
	}
}

// write writes what the socket takes now; the rest goes to a drainer, in order.
func (l *loop) write(c *client, data []byte) {
	if c.drainer != nil {
		c.drainer.add(data)
		return
	}
	for len(data) > 0 {
		n, err := sendNow(c.fd, data)
		data = data[n:]
		switch err {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			l.startDrainer(c, data)
			return
		default: // reset or closed by the client
			l.drop(c)
			return
		}
	}
}

// sendNow is send(2) on a socket that does not block, without a word to Go's scheduler: n bytes
// were taken.
func sendNow(fd int, data []byte) (n int, errno unix.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// answered is called when the whole answer was sent or given to the drainer.
func (l *loop) answered(c *client) {
	closing := l.reactor.closing.Load()
	last := c.lastOne || closing && !l.reactor.patient.Load() || c.eof && c.rest == nil
	if last {
		l.push(c)
	}
	switch {
	case c.state == stateClosed: // by the push
		return
	case c.drainer != nil:
		c.state = stateDraining
		return
	case last:
		l.linger(c)
		return
	}
	wasBusy := c.state != stateHead
	c.state = stateHead
	if closing {
		l.timing.set(c, timerPromised, l.now)
	} else {
		l.timing.set(c, timerIdle, l.now)
	}
	if wasBusy && c.rest != nil {
		l.parse(c, c.unparsed())
	}
}
