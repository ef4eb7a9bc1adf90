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

	state     state
	eof       bool // the client will send no more
	lastOne   bool // the answer at hand is the last one
	begun     bool // some of the answer was sent
	broken    bool // the answer is not whole
	http10    bool
	listener  uint16
	port      uint16
	addr      string
	guard     http1.Guard
	timer     timer
	dropped   int                        // bytes thrown away while lingering
	rest      *bytebufferpool.ByteBuffer // unparsed bytes: a part of a head, or pipelined ones
	incoming  *incoming                  // request that cannot be handed on at once
	lane      *lane                      // while running
	slot, gen uint32
	drainer   *drainer // while the socket is full
}

// incoming is a request that had to be kept beyond the callback that saw it: its body is
// arriving, or no lane has room.
type incoming struct {
	head    *bytebufferpool.ByteBuffer // the whole head
	body    *bytebufferpool.ByteBuffer // or file
	file    *os.File                   // an unlinked temporary file
	chunked http1.Chunked
	isChunk bool
	left    int64 // Content-Length bytes still to come
	got     int64 // body bytes so far
	hasBody bool
	began   int64 // loop time at the head's end
}

// The pools hold what must outlive a callback. A buffer that grew past its limit is dropped.
const (
	// BodyMemoryBytesMax is how much of a request body is kept in memory; a longer one goes
	// to a temporary file.
	BodyMemoryBytesMax = 1 << 20
	// PipelineBytesMax bounds what a client may send ahead while its request is being served;
	// gnet cannot pause reading, so a client beyond it is closed.
	PipelineBytesMax = 1 << 20
	pooledBytesMax   = 256 << 10
)

func release(b *bytebufferpool.ByteBuffer) {
	if b != nil && cap(b.B) <= pooledBytesMax {
		bytebufferpool.Put(b)
	}
}

// free gives an incoming request's memory and file back.
func (in *incoming) free() {
	if in == nil {
		return
	}
	release(in.head)
	release(in.body)
	if in.file != nil {
		_ = in.file.Close()
	}
	*in = incoming{}
}

// keep replaces the client's unparsed bytes by data, which may be a part of them.
func (c *client) keep(data []byte) {
	if len(data) == 0 {
		release(c.rest)
		c.rest = nil
		return
	}
	if c.rest == nil {
		c.rest = bytebufferpool.Get()
	}
	c.rest.B = append(c.rest.B[:0], data...)
}
