package loop

import (
	"errors"

	"golang.org/x/sys/unix"

	"gophersnake/loop/http1"
	"gophersnake/pybridge"
)

// fill prepares l.request, which borrows req's and head's bytes. The body is the caller's.
func (l *loop) fill(c *client, req *http1.Request, head []byte) {
	q := &l.request
	*q = pybridge.Request{
		Head: head, Method: req.Method, Target: req.Target, Query: req.Query,
		RemoteAddr: q.RemoteAddr, RemotePort: c.port, Listener: c.listener,
		HTTP10: req.Minor == 0, KeepAlive: !c.lastOne, IsHead: req.IsHead,
		Headers: q.Headers[:0],
	}
	q.RemoteAddr = append(q.RemoteAddr[:0], c.addr...)
	q.Path = req.RawPath
	if req.PathEscaped {
		l.path = http1.AppendPath(l.path[:0], req.RawPath)
		q.Path = l.path
	}
	if req.Host != nil {
		q.Headers = append(q.Headers, pybridge.Header{Name: hostName, Value: req.Host})
	}
	for i := range req.Headers {
		h := &req.Headers[i]
		q.Headers = append(q.Headers, pybridge.Header{Name: h.Name, Value: h.Value})
	}
}

// Bytes that are never written to.
var (
	hostName     = []byte("Host")
	continueLine = []byte("HTTP/1.1 100 Continue\r\n\r\n")
)

// dispatch hands the new request l.request to a worker, or queues it behind those that wait.
func (l *loop) dispatch(c *client) {
	c.since = l.moment()
	best := l.pick()
	waits := best == nil || l.queue.len > 0 || best.member.inFlight.Load() >= best.threads
	if waits && !l.mayWait(c) {
		return
	}
	if l.queue.len > 0 || best == nil || !l.submit(c, best) {
		l.enqueue(c)
	}
}

// moment is when the events at hand came, near enough: the clock is read once a batch.
func (l *loop) moment() int64 {
	l.flushSoon()
	return l.batch
}

// submit puts l.request into a slot of the best lane, or of another one that takes it. False when
// none does now; true also when the request was refused.
func (l *loop) submit(c *client, best *lane) bool {
	if l.submitTo(best, c) {
		return true
	}
	// Its room for bodies may be used up while that of another is not.
	for _, ln := range l.lanes {
		if ln != best && ln.takes() && l.submitTo(ln, c) {
			return true
		}
	}
	return false
}

func (l *loop) submitTo(ln *lane, c *client) bool {
	slot, gen, err := ln.bridge.Submit(&l.request)
	if err != nil {
		return l.notTaken(ln, c, err)
	}
	l.handled++
	ln.inFlight++
	ln.member.inFlight.Add(1)
	ln.clients[slot], ln.placed[slot] = c, l.moment()
	c.lane, c.slot, c.gen = ln, slot, gen
	if c.eof {
		ln.bridge.MarkHalfClosed(slot)
	}
	c.state, c.begun, c.slow = stateRunning, false, false
	if in := c.incoming; in != nil {
		l.queue.remove(c)
		release(in.head)
		release(in.body)
		in.head, in.body = nil, nil
		if in.file == nil { // a file stays open: the request may move to another worker
			c.incoming = nil
		}
		c.book()
	}
	ln.unrung++
	l.lookSoon()
	switch {
	case l.request.Socket == 0:
		l.timing.set(c, timerApp, l.now)
	case !c.upgraded:
		l.handOver(c)
	}
	return true
}

// notTaken handles what a lane says instead of taking a request; true when that ends the request.
func (l *loop) notTaken(ln *lane, c *client, err error) bool {
	var errno unix.Errno
	switch {
	case errors.Is(err, pybridge.ErrFull):
		return false
	case errors.As(err, &errno): // a body's descriptor cannot be passed: the worker is dying
		l.log.Debug("worker takes no descriptor", "worker", ln.member.worker.ID(), "error", err)
		ln.draining = true
		ln.member.worker.Kill()
		return false
	}
	l.log.Error("cannot hand a request to a worker", "error", err)
	l.refuse(c, 500, "lane", "")
	return true
}

// pick chooses the lane of the least busy worker with room, so that a load spreads over workers
// before a second thread of one is used; among equals the first in the list, so that one worker's
// caches stay warm. A worker that stands still gets requests only when all do. Nil when no lane
// has room.
func (l *loop) pick() *lane {
	if len(l.lanes) == 1 {
		if only := l.lanes[0]; only.takes() {
			return only
		}
		return nil
	}
	var best, still *lane
	least, leastStill, moving := int64(0), int64(0), false
	for _, ln := range l.lanes {
		if !ln.takes() {
			continue
		}
		n := ln.member.inFlight.Load()
		if ln.still {
			if n <= ln.threads && (still == nil || n < leastStill) {
				still, leastStill = ln, n
			}
			continue
		}
		moving = true
		if n < ln.depth && (best == nil || n < least) {
			best, least = ln, n
		}
	}
	if best == nil && !moving {
		return still
	}
	return best
}

// resume hands a request on whose body is complete.
func (l *loop) resume(c *client) {
	if l.prepare(c) {
		l.dispatch(c)
	}
}

// prepare makes l.request of what was kept. False when the client was refused.
func (l *loop) prepare(c *client) bool {
	in := c.incoming
	if !l.reread(c, in.head.B) {
		return false
	}
	l.request.HasBody = in.hasBody
	if in.upgrade {
		l.request.Socket = c.fd
	}
	if in.body != nil {
		l.request.Body = in.body.B
	}
	l.addFile(c)
	return true
}

// addFile makes the file that c.incoming may hold the body of l.request.
func (l *loop) addFile(c *client) {
	if in := c.incoming; in != nil && in.file != nil {
		l.request.Body, l.request.BodyFile, l.request.BodyLen = nil, in.file, in.got
	}
}

// reread makes l.request of a head that was accepted before, without the body. The head is parsed
// again, because the parser's results do not outlive a callback. False when the client was refused.
func (l *loop) reread(c *client, head []byte) bool {
	var g http1.Guard
	n, err := g.Scan(head, &l.cfg.Limits)
	var req *http1.Request
	if err == nil && n == len(head) {
		req, err = l.parser.Parse(head, &g)
	}
	if req == nil || err != nil {
		// A worker has written over it, while it died or after it lost the request.
		l.stats.disagreement.Add(1)
		l.refuse(c, 502, "a kept head does not parse", "")
		return false
	}
	l.fill(c, req, head)
	return true
}

// answerOptions answers OPTIONS * (RFC 9110 §9.3.7) without any app.
func (l *loop) answerOptions(c *client, moreFollows bool) {
	b := append(l.scratch[:0], "HTTP/1.1 200 OK\r\nServer: gophersnake\r\nDate: "...)
	b = append(b, l.httpDate()...)
	b = append(b, "\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"+
		"Content-Length: 0\r\n"...)
	if c.lastOne {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	l.scratch = b
	l.stats.answered(200)
	if moreFollows && !c.lastOne {
		l.sendCorked(c, b)
	} else {
		l.send(c, b)
	}
	if c.state == stateHead {
		l.answered(c)
	}
}
