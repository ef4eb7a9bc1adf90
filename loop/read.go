package loop

import (
	"os"

	"github.com/valyala/bytebufferpool"

	"gophersnake/loop/http1"
)

// received takes the bytes that gnet read for a client. They are dead when it returns.
func (l *loop) received(c *client, data []byte) {
	switch c.state {
	case stateHead:
		if c.rest != nil {
			c.append(data)
			data = c.unparsed()
		}
		l.parse(c, data)
	case stateBody:
		if rest := l.bodyBytes(c, data); c.state == stateHead {
			l.parse(c, rest)
		} else {
			l.keepRest(c, rest)
		}
	case stateQueued, stateRunning, stateDraining:
		l.receivedAhead(c, data)
	case stateLinger:
		if c.dropped += uint32(len(data)); c.dropped > lingerBytesMax {
			l.drop(c)
		}
	}
}

// receivedAhead keeps what a client sends before it has its answer.
func (l *loop) receivedAhead(c *client, data []byte) {
	if c.lastOne { // nothing after the last request is ever parsed
		return
	}
	if len(c.unparsed())+len(data) > l.cfg.PipelineBytesMax {
		l.tooFarAhead(c, "max-pipelined")
		return
	}
	c.append(data)
	if !c.book() {
		l.tooFarAhead(c, "max-buffers")
	}
}

// tooFarAhead ends a client that pipelines too much: gnet cannot pause reading. The request at hand
// is answered as the last one; what came behind it is not parsed.
func (l *loop) tooFarAhead(c *client, limit string) {
	l.reached(limit, "no request after this one is read", c)
	c.lastOne = true
	c.keep(nil)
}

// keepRest keeps unparsed bytes while the client is busy; after a refusal nothing is kept
// (invariant 9).
func (l *loop) keepRest(c *client, rest []byte) {
	switch {
	case c.state == stateLinger || c.state == stateClosed || c.lastOne:
		c.keep(nil)
	case len(rest) > l.cfg.PipelineBytesMax:
		l.tooFarAhead(c, "max-pipelined")
	case !c.keep(rest):
		l.tooFarAhead(c, "max-buffers")
	}
}

// parse takes heads from data until the client is busy with one or needs more bytes. data may be
// what c.unparsed returned.
func (l *loop) parse(c *client, data []byte) {
	l.parseHeads(c, data)
	if c.state != stateRunning && c.state != stateQueued {
		l.push(c) // no answer will follow soon
	}
}

func (l *loop) parseHeads(c *client, data []byte) {
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
	if !c.keep(data) {
		l.refuse(c, 503, "no memory for unfinished heads", "max-buffers")
	}
}

// head handles the accepted head data[:n] and returns the bytes after the request.
func (l *loop) head(c *client, data []byte, n int) []byte {
	req, err := l.parser.Parse(data[:n], &c.guard)
	if err != nil {
		if err == http1.ErrDisagreement {
			l.stats.disagreement.Add(1)
		}
		l.refuse(c, err.Status, err.Reason, err.Limit)
		return nil
	}
	c.guard.Reset()
	l.timing.clear(c)
	c.asked, c.spared = true, false
	c.http10 = req.Minor == 0
	c.lastOne = !req.KeepAlive || l.cfg.KeepAlive == 0 || l.reactor.closing.Load()
	rest := data[n:]
	switch {
	case req.Asterisk && !req.Chunked && req.ContentLength <= 0:
		l.answerOptions(c, len(rest) > 0)
		return rest
	case req.Asterisk:
		l.refuse(c, 400, "OPTIONS * with a body", "")
		return nil
	case l.cfg.WebSocket && wantsWebSocket(req):
		l.upgrade(c, req, data[:n], rest)
		return nil
	case !req.Chunked && req.ContentLength <= 0:
		l.fill(c, req, data[:n])
		l.request.HasBody = req.ContentLength == 0
		l.dispatch(c)
		return rest
	case !req.Chunked && req.ContentLength <= int64(min(len(rest), bodyMemoryBytesMax)):
		l.fill(c, req, data[:n])
		l.request.HasBody, l.request.Body = true, rest[:req.ContentLength]
		l.dispatch(c)
		return rest[req.ContentLength:]
	}
	return l.awaitBody(c, req, data[:n], rest)
}

// awaitBody keeps the head and begins to take the body.
func (l *loop) awaitBody(c *client, req *http1.Request, head, rest []byte) []byte {
	c.incoming = &incoming{
		head: getBuffer(head), hasBody: true,
		isChunk: req.Chunked, left: req.ContentLength, began: l.now,
	}
	c.state = stateBody
	if !c.book() {
		l.refuse(c, 503, "no memory for unfinished requests", "max-buffers")
		return nil
	}
	// RFC 9110 §10.1.1: with a part of the body already here, the client does not wait.
	if req.ExpectContinue && len(rest) == 0 {
		l.send(c, continueLine)
		if c.state != stateBody {
			return nil
		}
	}
	if !req.Chunked && req.ContentLength > bodyMemoryBytesMax && !l.spill(c) {
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
	if c.eof { // half-closed: the rest will never come
		l.drop(c)
		return
	}
	took := l.now - c.incoming.began - int64(clockTick) // it began up to a tick later
	const second = int64(1e9)
	if most := int64(l.cfg.BodyTimeout); most > 0 && took > most &&
		c.incoming.got < took/1e3*bodyBytesPerSecondMin/(second/1e3) {
		l.refuse(c, 408, "body comes too slowly", "body-timeout")
		return
	}
	l.timing.set(c, timerBody, l.now)
}

// store appends body bytes to memory or, beyond bodyMemoryBytesMax or when the buffers of all
// clients are used up, to a file. False when the client was refused.
func (l *loop) store(c *client, piece []byte) bool {
	in := c.incoming
	in.got += int64(len(piece))
	if in.file == nil && in.got > bodyMemoryBytesMax && !l.spill(c) {
		return false
	}
	if in.file != nil {
		return l.spool(c, piece)
	}
	if len(piece) == 0 {
		return true
	}
	if in.body == nil {
		in.body = bytebufferpool.Get()
	}
	_, _ = in.body.Write(piece)
	return c.book() || l.spill(c)
}

// spill moves a body to a temporary file. False when the client was refused.
func (l *loop) spill(c *client) bool {
	in := c.incoming
	f, err := l.tempFile()
	if err != nil {
		l.noStorage(c, err)
		return false
	}
	in.file = f
	if in.body == nil {
		return true
	}
	body := in.body
	in.body = nil
	ok := l.spool(c, body.B)
	release(body)
	if ok {
		c.book()
	}
	return ok
}

// spool appends to the body's file. False when the client was refused.
func (l *loop) spool(c *client, piece []byte) bool {
	in := c.incoming
	if !l.reactor.spool.take(int64(len(piece))) {
		l.refuse(c, 503, "temporary files are used up", "max-spool")
		l.reactor.makeRoom()
		return false
	}
	in.spooled += int64(len(piece))
	if _, err := in.file.Write(piece); err != nil {
		l.noStorage(c, err)
		return false
	}
	return true
}

func (l *loop) noStorage(c *client, err error) {
	l.log.Warn("cannot store a request body", "error", err, "dir", l.tempDir())
	l.refuse(c, 507, "request body storage", "")
}

func (l *loop) tempDir() string {
	if l.cfg.TempDir != "" {
		return l.cfg.TempDir
	}
	return os.TempDir()
}

// tempFile makes a file that has no name and vanishes when it is closed.
func (l *loop) tempFile() (*os.File, error) {
	f, err := os.CreateTemp(l.tempDir(), "gophersnake-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
