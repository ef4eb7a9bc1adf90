package loop

import (
	"os"

	"github.com/valyala/bytebufferpool"

	"gophersnake/loop/http1"
)

// lingerBytesMax is how much a client may still send after our last byte before it is cut off:
// closing with unread input would turn into a reset that destroys the answer (RFC 9112 §9.6).
const lingerBytesMax = 256 << 10

// bodyRateMin is the least a body must bring on average, in bytes a second, once it took longer
// than one BodyTimeout.
const bodyRateMin = 256

// received takes the bytes that gnet read for a client. They are dead when it returns.
func (l *loop) received(c *client, data []byte) {
	switch c.state {
	case stateHead:
		if c.rest != nil {
			_, _ = c.rest.Write(data)
			data = c.rest.B
		}
		l.parse(c, data)
	case stateBody:
		if rest := l.bodyBytes(c, data); c.state == stateHead {
			l.parse(c, rest)
		} else {
			l.keepRest(c, rest)
		}
	case stateQueued, stateRunning, stateDraining:
		if c.rest != nil && len(c.rest.B)+len(data) > PipelineBytesMax {
			l.log.Info("client closed: it sent too much ahead", "limit", "pipelined bytes",
				"bytes", PipelineBytesMax)
			l.drop(c)
			return
		}
		if c.rest == nil {
			c.rest = bytebufferpool.Get()
		}
		_, _ = c.rest.Write(data)
	case stateLinger:
		if c.dropped += len(data); c.dropped > lingerBytesMax {
			l.drop(c)
		}
	}
}

// keepRest keeps unparsed bytes while the client is busy; after a refusal nothing is kept
// (invariant 9).
func (l *loop) keepRest(c *client, rest []byte) {
	if c.state == stateLinger || c.state == stateClosed || c.lastOne {
		rest = nil
	}
	c.keep(rest)
}

// parse takes heads from data until the client is busy with one or needs more bytes. data may be
// c.rest's bytes.
func (l *loop) parse(c *client, data []byte) {
	for c.state == stateHead {
		n, err := c.guard.Scan(data, &l.cfg.Limits)
		if err != nil {
			l.refuse(c, err.Status, err.Reason, err.Limit)
			break
		}
		if n == 0 {
			l.awaitHead(c, data)
			return
		}
		data = l.head(c, data, n)
	}
	l.keepRest(c, data)
}

// awaitHead keeps an unfinished head.
func (l *loop) awaitHead(c *client, data []byte) {
	if c.eof { // half-closed: the rest will never come
		l.drop(c)
		return
	}
	if c.timer.kind != timerHead && c.guard.Begun() {
		l.timing.set(c, timerHead, l.now)
	}
	c.keep(data)
}

// head handles the accepted head data[:n] and returns the bytes after the request.
func (l *loop) head(c *client, data []byte, n int) []byte {
	req, err := l.parser.Parse(data[:n], &c.guard)
	if err != nil {
		if err == http1.ErrDisagreement {
			l.stats.disagreement++
		}
		l.refuse(c, err.Status, err.Reason, err.Limit)
		return nil
	}
	c.guard.Reset()
	l.timing.clear(c)
	c.http10 = req.Minor == 0
	c.lastOne = !req.KeepAlive || l.cfg.KeepAlive == 0 || l.reactor.closing.Load()
	rest := data[n:]
	switch {
	case req.Asterisk && !req.Chunked && req.ContentLength <= 0:
		l.answerOptions(c)
		return rest
	case req.Asterisk:
		l.refuse(c, 400, "OPTIONS * with a body", "")
		return nil
	case !req.Chunked && req.ContentLength <= 0:
		l.fill(c, req, data[:n])
		l.request.HasBody = req.ContentLength == 0
		l.dispatch(c)
		return rest
	case !req.Chunked && req.ContentLength <= int64(min(len(rest), BodyMemoryBytesMax)):
		l.fill(c, req, data[:n])
		l.request.HasBody, l.request.Body = true, rest[:req.ContentLength]
		l.dispatch(c)
		return rest[req.ContentLength:]
	}
	return l.awaitBody(c, req, data[:n], rest)
}

// awaitBody keeps the head and begins to take the body.
func (l *loop) awaitBody(c *client, req *http1.Request, head, rest []byte) []byte {
	in := &incoming{
		head: bytebufferpool.Get(), hasBody: true,
		isChunk: req.Chunked, left: req.ContentLength, began: l.now,
	}
	_, _ = in.head.Write(head)
	c.incoming = in
	c.state = stateBody
	// RFC 9110 §10.1.1: with a part of the body already here, the client does not wait.
	if req.ExpectContinue && len(rest) == 0 {
		l.send(c, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
		if c.state != stateBody {
			return nil
		}
	}
	if !req.Chunked && req.ContentLength > BodyMemoryBytesMax && !l.spill(c) {
		return nil
	}
	l.timing.set(c, timerBody, l.now)
	return l.bodyBytes(c, rest)
}

// bodyBytes stores body bytes and hands the request on when they are complete. It returns what
// follows the body.
func (l *loop) bodyBytes(c *client, data []byte) []byte {
	in := c.incoming
	done := false
	for len(data) > 0 && !done {
		var n int
		var piece []byte
		if in.isChunk {
			var err *http1.Error
			if n, piece, done, err = in.chunked.Next(data, &l.cfg.Limits); err != nil {
				l.refuse(c, err.Status, err.Reason, err.Limit)
				return nil
			}
		} else {
			n = int(min(in.left, int64(len(data))))
			piece = data[:n]
			in.left -= int64(n)
			done = in.left == 0
		}
		if !l.store(c, piece) {
			return nil
		}
		data = data[n:]
	}
	if !done {
		l.bodyPause(c)
		return nil
	}
	l.timing.clear(c)
	l.resume(c)
	return data
}

// bodyPause waits for more of a body, if the client was quick enough so far.
func (l *loop) bodyPause(c *client) {
	took := l.now - c.incoming.began
	if most := int64(l.cfg.BodyTimeout); most > 0 && took > most &&
		c.incoming.got < took/int64(1e9)*bodyRateMin {
		l.refuse(c, 408, "body comes too slowly", "body-timeout")
		return
	}
	l.timing.set(c, timerBody, l.now)
}

// store appends body bytes to memory or, beyond BodyMemoryBytesMax, to a file. False when the
// client was refused.
func (l *loop) store(c *client, piece []byte) bool {
	in := c.incoming
	in.got += int64(len(piece))
	if in.file == nil && in.got > BodyMemoryBytesMax && !l.spill(c) {
		return false
	}
	if in.file != nil {
		if _, err := in.file.Write(piece); err != nil {
			l.log.Warn("cannot store a request body", "error", err, "dir", l.tempDir())
			l.refuse(c, 507, "request body storage", "")
			return false
		}
		return true
	}
	if len(piece) > 0 {
		if in.body == nil {
			in.body = bytebufferpool.Get()
		}
		_, _ = in.body.Write(piece)
	}
	return true
}

func (l *loop) tempDir() string {
	if l.cfg.TempDir != "" {
		return l.cfg.TempDir
	}
	return os.TempDir()
}

// spill moves a body to a temporary file that has no name. False when the client was refused.
func (l *loop) spill(c *client) bool {
	in := c.incoming
	f, err := os.CreateTemp(l.tempDir(), "gophersnake-body-")
	if err == nil {
		err = os.Remove(f.Name())
		in.file = f
	}
	if err == nil && in.body != nil {
		_, err = f.Write(in.body.B)
		release(in.body)
		in.body = nil
	}
	if err != nil {
		l.log.Warn("cannot store a request body", "error", err, "dir", l.tempDir())
		l.refuse(c, 507, "request body storage", "")
		return false
	}
	return true
}

// resume hands a kept request on: its body is complete, or a lane has room now. The head is
// parsed again, because the parser's results do not outlive a callback.
func (l *loop) resume(c *client) {
	in := c.incoming
	var g http1.Guard
	_, err := g.Scan(in.head.B, &l.cfg.Limits)
	var req *http1.Request
	if err == nil {
		req, err = l.parser.Parse(in.head.B, &g)
	}
	if err != nil { // cannot be: it was accepted before
		l.stats.disagreement++
		l.refuse(c, 400, err.Reason, "")
		return
	}
	l.fill(c, req, in.head.B)
	l.request.HasBody = in.hasBody
	if in.file != nil {
		l.request.BodyFile, l.request.BodyLen = in.file, in.got
	} else if in.body != nil {
		l.request.Body = in.body.B
	}
	l.dispatch(c)
}
