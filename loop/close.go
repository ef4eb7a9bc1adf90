package loop

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"golang.org/x/sys/unix"

	"gophersnake/loop/http1"
)

// refuse answers with an error of our own and ends the client; nothing it sent or sends is
// parsed any more (invariant 9). The reason and the limit are for the log only.
func (l *loop) refuse(c *client, status int, reason, limit string) {
	l.refuseFor(c, status, reason, limit, http1.RetrySeconds)
}

// refuseFor is refuse; the client of a 503 is asked to come again after so many seconds.
func (l *loop) refuseFor(c *client, status int, reason, limit string, seconds int) {
	l.stats.refusal(status, limit)
	if limit != "" {
		l.reached(limit, reason, c)
	} else if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("refused", "status", status, "reason", reason, "client", c.addr)
	}
	l.timing.clear(c)
	l.queue.remove(c)
	c.freeIncoming()
	c.keep(nil)
	c.lastOne = true
	l.scratch = http1.AppendError(l.scratch[:0], status, l.httpDate(), seconds)
	l.send(c, l.scratch)
	if c.state != stateClosed {
		l.answered(c)
	}
}

// linger ends a client that has its last answer: our side is closed, and what the client still
// sends is read and dropped for a bounded while (RFC 9112 §9.6).
func (l *loop) linger(c *client) {
	c.keep(nil)
	if c.broken && c.http10 {
		// Without chunks a reset is the only way to say that the body is not whole.
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		l.drop(c)
		return
	}
	if c.upgraded && !c.broken {
		// The worker may have a descriptor too, for an app that does not use it or never began: to
		// close ours would not end the connection.
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	}
	if c.eof || unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		l.drop(c)
		return
	}
	c.state, c.dropped = stateLinger, 0
	l.reactor.lingering.Add(1)
	l.timing.set(c, timerLinger, l.now)
}

// drop closes a client now, whatever it is doing. Its queued request never runs; a running one
// is told (invariant 2 keeps its late replies from anybody else).
func (l *loop) drop(c *client) {
	if c.state == stateClosed {
		return
	}
	if c.corked != nil {
		_, _ = sendNow(c.fd, c.corked.B) // what the socket does not take is lost
	}
	conn, fd := c.conn, c.fd
	defer func() { // also when forget panics
		if conn != nil {
			_ = conn.EventLoop().Close(conn) // calls OnClose, which finds the client closed
		} else if fd >= 0 {
			_ = unix.Close(fd)
		}
	}()
	l.forget(c)
}

// forget ends all that refers to a client; its socket is the caller's.
func (l *loop) forget(c *client) {
	if c.state == stateLinger {
		l.reactor.lingering.Add(-1)
	}
	c.state, c.conn, c.fd = stateClosed, nil, -1
	delete(l.clients, c)
	l.reactor.clients.Add(-1)
	l.timing.clear(c)
	l.queue.remove(c)
	if c.lane != nil {
		l.abandon(c)
	}
	if d := c.drainer; d != nil {
		c.drainer = nil
		l.endDrainer(d)
	}
	c.freeIncoming()
	if c.corked != nil {
		release(c.corked)
		c.corked = nil
		c.book()
	}
	c.keep(nil)
}

// abandon leaves a slot whose answer nobody waits for.
func (l *loop) abandon(c *client) {
	ln := c.lane
	if c.drainer != nil {
		l.letGo(c.drainer)
	}
	if l.takeBack(c) {
		if l.queue.len > 0 { // there is room now, and no reply will tell
			l.flushSoon()
		}
		return
	}
	ln.clients[c.slot], c.lane = nil, nil
	if !ln.down {
		ln.bridge.MarkGone(c.slot)
	}
}

// takeBack takes the client's request out of its slot: false when a thread has begun it.
func (l *loop) takeBack(c *client) bool {
	ln := c.lane
	if ln.down || !ln.bridge.Cancel(c.slot, c.gen) {
		return false
	}
	ln.clients[c.slot], c.lane = nil, nil
	l.timing.clear(c)
	ln.done()
	return true
}

// vanished reports whether a client that had closed its sending side has closed the other one too:
// while it waits, nobody reads from its socket.
func (c *client) vanished() bool {
	if c.conn != nil {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(c.fd)}} // errors and hang-ups are always reported
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
}

// hungUp is called when gnet closes a connection, which it does as soon as the client closes its
// sending side. If an answer is still owed, a duplicate of the descriptor lives on until it is sent
// (RFC 9112 §9.6: a half-closed client still reads).
func (l *loop) hungUp(c *client, err error) {
	if c.state == stateClosed || c.conn == nil { // ours already
		return
	}
	fd := c.fd
	c.conn, c.fd = nil, -1
	owed := c.state == stateQueued || c.state == stateRunning || c.state == stateDraining
	if owed && errors.Is(err, io.EOF) {
		if dup, err := duplicate(fd); err == nil {
			c.fd, c.eof = dup, true
			if c.lane != nil {
				c.lane.bridge.MarkHalfClosed(c.slot)
			}
			return
		}
	}
	l.forget(c)
}

// unread reports whether the kernel holds bytes of the client that gnet has not read yet.
func (c *client) unread() bool {
	n, err := unix.IoctlGetInt(c.fd, unix.TIOCINQ)
	return err == nil && n > 0
}

// closeIdle closes the clients that wait for nothing. One that has not asked anything yet gets a
// moment: its request may be on the way, and a reset would be its first answer.
func (l *loop) closeIdle() {
	for c := range l.clients {
		if c.state != stateHead || c.guard.Begun() || c.rest != nil || c.unread() {
			continue
		}
		switch {
		case !c.asked:
			l.timing.set(c, timerFresh, l.now)
		case l.reactor.patient.Load():
			l.timing.set(c, timerPromised, l.now)
		default:
			l.drop(c)
		}
	}
}

// closeAll closes every client and lane.
func (l *loop) closeAll() {
	if l.lookTimer != nil {
		l.lookTimer.Stop()
	}
	for c := range l.clients {
		l.drop(c)
	}
	for len(l.lanes) > 0 {
		l.laneDown(l.lanes[0])
	}
}
