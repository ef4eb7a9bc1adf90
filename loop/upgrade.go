package loop

import (
	"bytes"

	"gophersnake/loop/http1"
)

// wantsWebSocket reports whether a request asks to become a WebSocket (RFC 6455 §4.1): a GET of
// HTTP/1.1 without a body, with Upgrade: websocket and the Connection option that makes it count
// (RFC 9110 §7.8).
func wantsWebSocket(req *http1.Request) bool {
	if string(req.Method) != "GET" || req.Minor != 1 || req.Chunked || req.ContentLength > 0 {
		return false
	}
	upgrade, option := false, false
	for i := range req.Headers {
		h := &req.Headers[i]
		switch {
		case bytes.EqualFold(h.Name, []byte("Upgrade")):
			upgrade = upgrade || bytes.EqualFold(h.Value, []byte("websocket"))
		case bytes.EqualFold(h.Name, []byte("Connection")):
			option = option || hasOption(h.Value, []byte("upgrade"))
		}
	}
	return upgrade && option
}

func hasOption(list, option []byte) bool {
	for item := range bytes.SplitSeq(list, []byte(",")) {
		if bytes.EqualFold(bytes.Trim(item, " \t"), option) {
			return true
		}
	}
	return false
}

// upgrade hands a request to a worker together with the client's own socket. Whatever becomes of
// it, it is the client's last one here.
func (l *loop) upgrade(c *client, req *http1.Request, head, rest []byte) {
	c.lastOne = true
	if len(rest) > 0 { // nothing may follow before the 101
		l.refuse(c, 400, "bytes behind an upgrade request", "")
		return
	}
	l.push(c) // the worker writes to the socket itself
	switch {
	case c.state == stateClosed:
		return
	case c.drainer != nil:
		l.refuse(c, 503, "an upgrade request behind answers that the client does not take", "")
		return
	}
	l.fill(c, req, head)
	l.request.Socket = c.fd
	l.dispatch(c)
}

// handOver makes gnet let go of a connection that a worker has, so that nobody but the app reads
// from it. The loop keeps a duplicate, for the answer of an app that does not take the socket. The
// client has no deadline: it may last.
func (l *loop) handOver(c *client) {
	fd, err := duplicate(c.fd)
	if err != nil {
		l.log.Warn("upgraded client closed: no descriptor for it", "error", err)
		l.drop(c)
		return
	}
	conn := c.conn
	c.conn, c.fd, c.eof, c.upgraded = nil, fd, true, true
	if conn != nil { // else the client had closed its side while it was queued
		_ = conn.EventLoop().Close(conn)
	}
}
