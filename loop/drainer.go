package loop

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spoolBytesMax is how much of one response a drainer keeps in memory. Beyond it the thread that
// makes the response has to wait (at most one response ring more is taken, see deliver).
const spoolBytesMax = 1 << 20

// drainPieceBytes is what a drainer writes under one deadline: progress is at least this much, or
// what the socket took, within WriteTimeout.
const drainPieceBytes = 64 << 10

// drainer is a goroutine that finishes what a client's socket did not take. While it exists
// nobody else writes to the client (invariant 1). It works on a duplicate of the descriptor, so it
// outlives gnet's connection, which a half-close ends.
type drainer struct {
	loop    *loop
	client  *client // touched on the loop only
	f       *os.File
	timeout time.Duration

	mu      sync.Mutex
	pending []byte // bytes not yet taken by the goroutine; under mu
	size    int    // bytes not yet written; under mu
	posted  bool   // the loop was told that everything is written; under mu
	more    chan struct{}
	quit    chan struct{}
	once    sync.Once

	// On the loop only.
	ended    bool // the answer is complete
	held     *lane
	heldFor  uint32
	heldAcks int
}

// startDrainer hands the client to a drainer with data as its first bytes.
func (l *loop) startDrainer(c *client, data []byte) {
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		l.log.Warn("client closed: no descriptor to finish its answer", "error", err)
		l.drop(c)
		return
	}
	d := &drainer{
		loop: l, client: c, f: os.NewFile(uintptr(fd), "client"), timeout: l.cfg.WriteTimeout,
		more: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	c.drainer = d
	d.add(data)
	go d.run()
}

// add copies bytes behind those that wait. Loop only.
func (d *drainer) add(data []byte) {
	d.mu.Lock()
	d.pending = append(d.pending, data...)
	d.size += len(data)
	d.posted = false
	d.mu.Unlock()
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// full reports whether the response has to wait. Loop only.
func (d *drainer) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size > spoolBytesMax
}

// hold keeps an acknowledgement back until everything is written. Loop only.
func (d *drainer) hold(ln *lane, thread uint32) {
	d.held, d.heldFor = ln, thread
	d.heldAcks++
}

// releaseHeld gives the thread its room back. Loop only.
func (d *drainer) releaseHeld() {
	for ; d.heldAcks > 0; d.heldAcks-- {
		if !d.held.down {
			d.held.bridge.Ack(d.heldFor)
		}
	}
	if d.held != nil && !d.held.down {
		d.held.bridge.FlushAcks()
	}
	d.held = nil
}

// finish says that nothing will be added any more. Loop only.
func (d *drainer) finish() { d.ended = true }

// abort ends the goroutine at once. Loop only.
func (d *drainer) abort() {
	d.once.Do(func() { close(d.quit) })
	_ = d.f.Close() // interrupts a write
	d.releaseHeld()
}

// take gives the goroutine the bytes that wait, or nil.
func (d *drainer) take(old []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.pending
	d.pending = old[:0]
	return b
}

// wrote counts written bytes; true when nothing is left and the loop has to be told.
func (d *drainer) wrote(n int) (empty bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size -= n
	if d.size > 0 || d.posted {
		return false
	}
	d.posted = true
	return true
}

func (d *drainer) run() {
	defer func() { _ = d.f.Close() }()
	var b []byte
	for {
		b = d.take(b)
		if len(b) == 0 {
			select {
			case <-d.quit:
				return
			case <-d.more:
				continue
			}
		}
		if err := d.write(b); err != nil {
			d.loop.post(func() { d.loop.drainFailed(d) })
			return
		}
	}
}

// write writes all of b, in pieces that each have a deadline.
func (d *drainer) write(b []byte) error {
	for len(b) > 0 {
		if d.timeout > 0 {
			_ = d.f.SetWriteDeadline(time.Now().Add(d.timeout))
		}
		n, err := d.f.Write(b[:min(len(b), drainPieceBytes)])
		if err != nil && !(n > 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
		b = b[n:]
		if d.wrote(n) {
			d.loop.post(func() { d.loop.drained(d) })
		}
	}
	return nil
}

// drained runs on the loop when a drainer has written everything it had.
func (l *loop) drained(d *drainer) {
	c := d.client
	if c.drainer != d {
		return
	}
	d.mu.Lock()
	left := d.size
	d.mu.Unlock()
	if left > 0 { // more was added meanwhile: it will report again
		return
	}
	d.releaseHeld()
	c.drainer = nil
	d.once.Do(func() { close(d.quit) })
	if c.state == stateDraining {
		l.answered(c)
	}
}

// drainFailed runs on the loop when a client took nothing for WriteTimeout, or has gone.
func (l *loop) drainFailed(d *drainer) {
	if d.client.drainer == d {
		l.drop(d.client)
	}
}
