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

// dispatch hands l.request to a worker, or queues it behind those that wait already.
func (l *loop) dispatch(c *client) {
	if l.queue.len == 0 && l.submit(c) {
		return
	}
	if !l.retain(c) {
		l.refuse(c, 503, "no memory for a request that waits for a thread", "max-buffers")
		return
	}
	if !l.queue.push(c) {
		l.refuse(c, 503, "too many requests wait for a thread", "queue")
		return
	}
	c.state = stateQueued
	l.timing.set(c, timerQueue, l.now)
}

// retain keeps l.request in c.incoming, unless it is there already. False when the buffers of
// all clients are used up.
func (l *loop) retain(c *client) bool {
	if c.incoming != nil && c.incoming.head != nil {
		return true
	}
	in := &incoming{head: getBuffer(l.request.Head), hasBody: l.request.HasBody,
		upgrade: l.request.Socket != 0}
	if len(l.request.Body) > 0 {
		in.body = getBuffer(l.request.Body)
		in.got = int64(len(l.request.Body))
	}
	c.incoming = in
	return c.book()
}

// submit puts l.request into a slot of the best lane that takes it. False when none does now; true
// also when the request was refused.
func (l *loop) submit(c *client) bool {
	best := l.pick()
	if best == nil {
		return false
	}
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
	ln.inFlight++
	ln.member.inFlight.Add(1)
	ln.clients[slot] = c
	c.lane, c.slot, c.gen = ln, slot, gen
	if c.eof {
		ln.bridge.MarkHalfClosed(slot)
	}
	c.state, c.begun = stateRunning, false
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
	l.timing.set(c, timerApp, l.now)
	ln.touched = true
	l.flushSoon()
	if l.request.Socket != 0 {
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

// pick chooses the lane of the least busy worker with room; among equals the first in the list,
// so that one worker's caches stay warm. Nil when no lane has room.
func (l *loop) pick() *lane {
	var best *lane
	least := int64(0)
	for _, ln := range l.lanes {
		if !ln.takes() {
			continue
		}
		if n := ln.member.inFlight.Load(); best == nil || n < least {
			best, least = ln, n
		}
	}
	return best
}

// pump submits queued requests in order while there is room. A request that fits nowhere yet
// keeps its place and its deadline.
func (l *loop) pump() {
	for l.queue.len > 0 && l.pick() != nil {
		c := l.queue.first
		if !l.advance(c) {
			return
		}
	}
}

// advance hands the first of the queue on; true when it has left the queue.
func (l *loop) advance(c *client) (left bool) {
	defer l.recover(c)
	left = true // also when it panics
	return !l.prepare(c) || l.submit(c)
}

// resume hands a kept request on: its body is complete, or its worker has died.
func (l *loop) resume(c *client) {
	if l.prepare(c) {
		l.dispatch(c)
	}
}

// prepare makes l.request of what was kept. The head is parsed again, because the parser's results
// do not outlive a callback. False when the client was refused.
func (l *loop) prepare(c *client) bool {
	in := c.incoming
	var g http1.Guard
	n, err := g.Scan(in.head.B, &l.cfg.Limits)
	var req *http1.Request
	if err == nil && n == len(in.head.B) {
		req, err = l.parser.Parse(in.head.B, &g)
	}
	if req == nil || err != nil {
		// It was accepted before: a dying worker has written over it.
		l.stats.disagreement.Add(1)
		l.refuse(c, 502, "a kept head does not parse", "")
		return false
	}
	l.fill(c, req, in.head.B)
	l.request.HasBody = in.hasBody
	if in.upgrade {
		l.request.Socket = c.fd
	}
	if in.file != nil {
		l.request.BodyFile, l.request.BodyLen = in.file, in.got
	} else if in.body != nil {
		l.request.Body = in.body.B
	}
	return true
}

// answerOptions answers OPTIONS * (RFC 9110 §9.3.7) without any app.
func (l *loop) answerOptions(c *client) {
	b := append(l.scratch[:0], "HTTP/1.1 200 OK\r\nServer: gophersnake\r\nDate: "...)
	b = append(b, l.httpDate()...)
	b = append(b, "\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"+
		"Content-Length: 0\r\n"...)
	if c.lastOne {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	l.scratch = b
	l.send(c, b)
	if c.state == stateHead {
		l.answered(c)
	}
}
