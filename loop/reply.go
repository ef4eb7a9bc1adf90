package loop

import (
	"golang.org/x/sys/unix"

	"gophersnake/pybridge"
)

// takeReplies delivers what a worker has answered, and lets the lane sleep when it is empty.
func (l *loop) takeReplies(ln *lane) {
	var r pybridge.Reply
	room := false
	for !ln.down {
		ok, err := ln.bridge.Next(&r)
		if err != nil {
			l.log.Error("worker killed: it broke the lane format", "worker", ln.member.worker.ID())
			ln.member.worker.Kill()
			l.laneDown(ln)
			return
		}
		if !ok {
			ln.bridge.FlushAcks()
			if ln.bridge.Sleep() {
				break
			}
			continue
		}
		room = l.takeReply(ln, &r) || room
	}
	if room && l.queue.len > 0 {
		l.pump()
	}
}

// takeReply delivers one reply; true when its slot is free now. The client is found by slot and
// generation, which the lane has checked (invariant 2).
func (l *loop) takeReply(ln *lane, r *pybridge.Reply) bool {
	c := ln.clients[r.Slot]
	last := r.Flags&pybridge.ReplyLast != 0
	if last {
		ln.clients[r.Slot] = nil
		ln.member.done()
	}
	if c == nil {
		ln.bridge.Ack(r.Thread)
		return last
	}
	c.begun = true
	l.deliver(c, ln, r)
	if last && c.state == stateRunning {
		c.lane = nil
		l.timing.clear(c)
		c.incoming.free()
		c.incoming = nil
		if r.Flags&(pybridge.ReplyClose|pybridge.ReplyAbort) != 0 {
			c.lastOne = true
		}
		c.broken = r.Flags&pybridge.ReplyAbort != 0
		l.answered(c)
	}
	return last
}

// deliver writes a reply's bytes and acknowledges them: at once, or when the client's drainer
// has room again.
func (l *loop) deliver(c *client, ln *lane, r *pybridge.Reply) {
	if len(r.Data) > 0 {
		l.send(c, r.Data)
	}
	if d := c.drainer; d != nil && r.Flags&pybridge.ReplyLast == 0 && d.full() {
		d.hold(ln, r.Thread)
		return
	}
	ln.bridge.Ack(r.Thread)
}

// send writes what the socket takes now; the rest goes to a drainer, in order. data is only
// borrowed.
func (l *loop) send(c *client, data []byte) {
	if c.drainer != nil {
		c.drainer.add(data)
		return
	}
	for len(data) > 0 {
		n, err := unix.Write(c.fd, data)
		if n > 0 {
			data = data[n:]
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			l.startDrainer(c, data)
			return
		default: // reset or closed by the client
			l.drop(c)
			return
		}
	}
}

// answered is called when the whole answer was sent or given to the drainer.
func (l *loop) answered(c *client) {
	if c.drainer != nil {
		c.state = stateDraining
		c.drainer.finish()
		return
	}
	if c.lastOne || l.reactor.closing.Load() || c.eof && c.rest == nil {
		l.linger(c)
		return
	}
	wasBusy := c.state != stateHead
	c.state = stateHead
	l.timing.set(c, timerIdle, l.now)
	if wasBusy && c.rest != nil {
		l.parse(c, c.rest.B)
	}
}
