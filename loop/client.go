package loop

import (
	"os"

	"github.com/panjf2000/gnet/v2"
	"github.com/valyala/bytebufferpool"

	"gophersnake/loop/http1"
)

// state is what a client is doing. Legal moves:
//
//	head ── body ──┐
//	  │            ├─► queued ─► running ─► (draining) ─► head     keep-alive
//	  └────────────┘      └─────────┴───────────┴──────► linger ─► closed
//	every state ─► closed
//
// A refusal goes from any state by draining or at once to linger.
type state uint8

const (
	stateHead     state = iota // waiting for a head, idle or with a part of it
	stateBody                  // head accepted, body arriving
	stateQueued                // complete request, no lane with room
	stateRunning               // in a lane's slot
	stateDraining              // answer complete, the drainer still writes it
	stateLinger                // we have sent our last byte and wait for the client's end
	stateClosed                // forgotten
)

// client is one HTTP/1.1 connection, owned by its loop.
type client struct {
	loop *loop
	conn gnet.Conn // nil once gnet has let go of it (see hungUp)
	fd   int       // where answers are written; our own duplicate when conn is nil

	state    state
	eof      bool // the client will send no more
	lastOne  bool // the answer at hand is the last one
	begun    bool // some of the answer was sent
	slow     bool // it was told that the request is slow
	broken   bool // the answer is not whole
	http10   bool
	asked    bool // it has sent a request on this connection
	upgraded bool // the app may talk to it by itself: see upgrade.go
	spared   bool // its head was late, but some of it lay unread: it got one more deadline
	surplus  bool // beyond ConnectionsMax: it gets 503
	opened   bool // gnet has given it to the loop; read by its acceptor afterwards
	listener uint16
	port     uint16
	dropped  uint32 // bytes thrown away while lingering
	addr     string
	guard    http1.Guard
	timer    timer
	rest     *bytebufferpool.ByteBuffer // from restAt on, unparsed bytes: a part of a head, or
	restAt   int                        // pipelined requests
	incoming *incoming                  // request that cannot be handed on at once
	corked   *bytebufferpool.ByteBuffer // answers that wait for the next one: see cork.go
	booked   int64                      // of the reactor's buffers
	since    int64                      // loop time at which the request at hand was complete
	lane     *lane                      // while running
	slot     uint32
	gen      uint32
	drainer  *drainer // while the socket is full
}

// incoming is a request that had to be kept beyond the callback that saw it: its body is
// arriving, or no lane has room.
type incoming struct {
	head    *bytebufferpool.ByteBuffer // the whole head
	body    *bytebufferpool.ByteBuffer // or file
	file    *os.File                   // an unlinked temporary file
	spooled int64                      // bytes in file
	chunked http1.Chunked
	isChunk bool
	hasBody bool
	upgrade bool
	queued  bool
	left    int64 // Content-Length bytes still to come
	got     int64 // body bytes so far
	began   int64 // loop time at the head's end

	next, prev *client // in the queue
}

func release(b *bytebufferpool.ByteBuffer) {
	if b != nil && cap(b.B) <= pooledBytesMax {
		bytebufferpool.Put(b)
	}
}

// getBuffer copies data into a pooled buffer.
func getBuffer(data []byte) *bytebufferpool.ByteBuffer {
	b := bytebufferpool.Get()
	_, _ = b.Write(data)
	return b
}

// book tells the reactor what the client's buffers hold now; false when all clients together
// hold more than they may.
func (c *client) book() bool {
	n := held(c.rest) + held(c.corked)
	if in := c.incoming; in != nil {
		n += held(in.head) + held(in.body)
	}
	if n == c.booked {
		return true
	}
	buffers := &c.loop.reactor.buffers
	used := buffers.used.Add(n - c.booked)
	grew := n > c.booked
	c.booked = n
	return !grew || used <= buffers.max
}

func held(b *bytebufferpool.ByteBuffer) int64 {
	if b == nil {
		return 0
	}
	return int64(cap(b.B))
}

// unparsed is what the client sent and nobody has parsed. It is valid until append or keep.
func (c *client) unparsed() []byte {
	if c.rest == nil {
		return nil
	}
	return c.rest.B[c.restAt:]
}

// append adds to the unparsed bytes. What is before them is overwritten when it is the larger part,
// so that every byte is moved at most once on average.
func (c *client) append(data []byte) {
	if c.rest == nil {
		c.rest = bytebufferpool.Get()
	}
	if b := c.rest; c.restAt > len(b.B)/2 {
		b.B = b.B[:copy(b.B, b.B[c.restAt:])]
		c.restAt = 0
	}
	_, _ = c.rest.Write(data)
}

// keep replaces the client's unparsed bytes by data, which may be the last part of them. False when
// the buffers of all clients are used up.
func (c *client) keep(data []byte) bool {
	if len(data) == 0 {
		if c.rest == nil {
			return true
		}
		release(c.rest)
		c.rest, c.restAt = nil, 0
		return c.book()
	}
	if old := c.unparsed(); len(old) >= len(data) && &old[len(old)-1] == &data[len(data)-1] {
		c.restAt += len(old) - len(data)
		return c.book()
	}
	if c.rest == nil {
		c.rest = bytebufferpool.Get()
	}
	c.rest.B, c.restAt = append(c.rest.B[:0], data...), 0
	return c.book()
}

// freeIncoming gives the memory and the file of the request at hand back.
func (c *client) freeIncoming() {
	in := c.incoming
	if in == nil {
		return
	}
	c.incoming = nil
	release(in.head)
	release(in.body)
	if in.file != nil {
		_ = in.file.Close()
		c.loop.reactor.spool.give(in.spooled)
	}
	c.book()
}
