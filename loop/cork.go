package loop

import (
	"time"

	"github.com/valyala/bytebufferpool"
)

// Answers to pipelined requests. A client has one request in a lane at a time (invariant 8), but
// when the next one is here already, its answer will follow the one at hand closely, and most of
// what an answer costs is to send it. So answers are collected and leave in one write: with the last
// of them, before they are more than corkedBytesMax, when corkMax is over, or when a lull has
// brought nothing.
const (
	corkMax = 2 * time.Millisecond

	// corkedBytesMax is how much is collected for one client.
	corkedBytesMax = 16 << 10
)

// moreFollows reports whether the client has sent something behind the request that is answered.
func (c *client) moreFollows() bool {
	return c.rest != nil && c.restAt < len(c.rest.B) && !c.lastOne && c.drainer == nil
}

// sendCorked is send, but the bytes may wait until uncork.
func (l *loop) sendCorked(c *client, data []byte) {
	if len(data) > c.corkRoom() {
		l.send(c, data)
		return
	}
	if c.corked == nil {
		c.corked = bytebufferpool.Get()
		if len(l.corked) == 0 {
			l.corkedAt = l.reactor.monotonic()
		}
		l.corked = append(l.corked, c)
	}
	_, _ = c.corked.Write(data)
	if !c.book() {
		l.push(c)
	}
}

// corkRoom is how many bytes more may be collected.
func (c *client) corkRoom() int {
	if c.corked == nil {
		return corkedBytesMax
	}
	return corkedBytesMax - len(c.corked.B)
}

// push sends what was collected for a client.
func (l *loop) push(c *client) {
	if b := c.corked; b != nil {
		c.corked = nil
		l.write(c, b.B)
		release(b)
		c.book()
	}
}

// uncork pushes what was kept for longer than corkMax.
func (l *loop) uncork() {
	if len(l.corked) > 0 && l.reactor.monotonic()-l.corkedAt >= int64(corkMax) {
		l.uncorkAll()
	}
}

func (l *loop) uncorkAll() {
	for _, c := range l.corked {
		l.push(c)
	}
	clear(l.corked)
	l.corked = l.corked[:0]
}
