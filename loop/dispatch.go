package loop

import (
	"errors"

	"github.com/valyala/bytebufferpool"

	"gophersnake/loop/http1"
	"gophersnake/pybridge"
)

// queue holds clients whose complete request waits for a lane with room, first come first
// served, linked through the clients themselves.
type queue struct {
	first, last *queued
	len, max    int
	byClient    map[*client]*queued
}

type queued struct {
	c          *client
	next, prev *queued
}

func (q *queue) push(c *client) bool {
	if q.len >= q.max {
		return false
	}
	if q.byClient == nil {
		q.byClient = make(map[*client]*queued)
	}
	e := &queued{c: c, prev: q.last}
	if q.last != nil {
		q.last.next = e
	} else {
		q.first = e
	}
	q.last = e
	q.byClient[c] = e
	q.len++
	return true
}

// remove takes a client out; it does nothing when the client is not queued.
func (q *queue) remove(c *client) {
	e := q.byClient[c]
	if e == nil {
		return
	}
	delete(q.byClient, c)
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		q.first = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		q.last = e.prev
	}
	q.len--
}

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

var hostName = []byte("Host") // never written to

// dispatch hands l.request to a worker, or queues it.
func (l *loop) dispatch(c *client) {
	if l.queue.len == 0 {
		switch err := l.submit(c); {
		case err == nil:
			return
		case !errors.Is(err, pybridge.ErrFull):
			l.log.Error("cannot hand a request to a worker", "error", err)
			l.refuse(c, 500, "lane", "")
			return
		}
	}
	l.retain(c)
	if !l.queue.push(c) {
		l.refuse(c, 503, "too many requests wait for a thread", "queue")
		return
	}
	c.state = stateQueued
	l.timing.set(c, timerQueue, l.now)
}

// retain keeps l.request in c.incoming, unless it is there already.
func (l *loop) retain(c *client) {
	if c.incoming != nil && c.incoming.head != nil {
		return
	}
	in := &incoming{head: bytebufferpool.Get(), hasBody: l.request.HasBody}
	_, _ = in.head.Write(l.request.Head)
	if len(l.request.Body) > 0 {
		in.body = bytebufferpool.Get()
		_, _ = in.body.Write(l.request.Body)
		in.got = int64(len(l.request.Body))
	}
	c.incoming = in
}

// submit puts l.request into a slot of the best lane: ErrFull when there is none.
func (l *loop) submit(c *client) error {
	ln := l.pick()
	if ln == nil {
		return pybridge.ErrFull
	}
	slot, gen, err := ln.bridge.Submit(&l.request)
	if err != nil {
		return err
	}
	ln.member.inFlight.Add(1)
	ln.clients[slot] = c
	c.lane, c.slot, c.gen = ln, slot, gen
	c.state, c.begun = stateRunning, false
	if in := c.incoming; in != nil { // a file stays open: the request may move to another worker
		release(in.head)
		release(in.body)
		in.head, in.body = nil, nil
		if in.file == nil {
			c.incoming = nil
		}
	}
	l.timing.set(c, timerApp, l.now)
	ln.touched = true
	l.flushSoon()
	return nil
}

// pick chooses the lane of the least busy worker with room; among equals the one that was
// used last, whose caches are warm. Nil when no lane has room.
func (l *loop) pick() *lane {
	var best *lane
	least := int64(0)
	for i, ln := range l.lanes {
		if ln.draining || ln.down || !ln.bridge.HasRoom() {
			continue
		}
		if n := ln.member.inFlight.Load(); best == nil || n < least {
			best, least = l.lanes[i], n
		}
	}
	return best
}

// pump submits queued requests while there is room.
func (l *loop) pump() {
	for l.queue.len > 0 && l.pick() != nil {
		c := l.queue.first.c
		l.queue.remove(c)
		l.timing.clear(c)
		before := l.queue.len
		l.resumeFirst(c)
		if l.queue.len > before { // it went back: no room for this one yet
			return
		}
	}
}

// resumeFirst resumes the request that was first in the queue; it goes back to its end only when
// a lane refused it for its size.
func (l *loop) resumeFirst(c *client) {
	waiting := l.queue
	l.queue = queue{max: 1}
	l.resume(c)
	back := l.queue.len > 0
	l.queue = waiting
	if back && !l.queue.push(c) {
		l.refuse(c, 503, "too many requests wait for a thread", "queue")
	}
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
