package loop

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// drainer is a goroutine that finishes what a client's socket did not take. While it exists
// nobody else writes to the client (invariant 1). It works on a duplicate of the descriptor, so it
// outlives gnet's connection, which a half-close ends.
//
// What waits is a queue of three parts: memory, then an unlinked file, so that a slow reader
// parks no thread of the worker, then tail, which is filled only when there is no room for files:
// then the thread waits until tail is empty, so that tail never holds more than one response ring.
type drainer struct {
	loop    *loop
	client  *client // touched on the loop only
	f       *os.File
	timeout time.Duration
	moved   atomic.Int64 // loop time of the last progress

	mu        sync.Mutex
	memory    []byte   // under mu, as are the next ones
	file      *os.File // nil until it is needed
	head, end int64    // what of the file waits
	tail      []byte
	left      int64 // bytes in all parts and in the goroutine's hands
	booked    int64 // of the reactor's buffers
	posted    bool  // the loop was told that everything is written
	ended     bool  // by endDrainer

	more chan struct{} // there is something to write
	quit chan struct{}

	// On the loop only.
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
	d.moved.Store(l.now)
	c.drainer = d
	l.drainers[d] = struct{}{}
	d.add(data)
	go d.run()
}

// add copies bytes behind those that wait. Loop only.
func (d *drainer) add(data []byte) {
	d.mu.Lock()
	d.left += int64(len(data))
	d.posted = false
	switch {
	case len(d.tail) > 0:
		d.tail = append(d.tail, data...)
	case d.end > d.head || !d.remember(data):
		if err := d.spool(data); err != nil {
			d.loop.reached("max-spool", "a thread waits: "+err.Error(), d.client)
			d.tail = append(d.tail, data...)
		}
	}
	d.mu.Unlock()
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// remember appends to memory if it may; under mu.
func (d *drainer) remember(data []byte) bool {
	n := int64(len(data))
	if d.booked+n > answerMemoryBytesMax || !d.loop.reactor.buffers.take(n) {
		return false
	}
	d.booked += n
	d.memory = append(d.memory, data...)
	return true
}

// spool appends to the file if there is room for it; under mu.
func (d *drainer) spool(data []byte) error {
	n := int64(len(data))
	budget := &d.loop.reactor.spool
	if !budget.take(n) {
		return errSpoolFull
	}
	var err error
	if d.file == nil {
		d.file, err = d.loop.tempFile()
	}
	if err == nil {
		_, err = d.file.WriteAt(data, d.end)
	}
	if err != nil {
		budget.give(n)
		return err
	}
	d.end += n
	return nil
}

var errSpoolFull = errors.New("no more room for temporary files")

// full reports whether the response has to wait. Loop only.
func (d *drainer) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tail) > 0
}

// empty reports whether everything is written. Loop only.
func (d *drainer) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left == 0
}

// hold keeps a thread waiting for a client that reads slowly; WriteTimeout is its deadline.
func (l *loop) hold(d *drainer, ln *lane, thread uint32) {
	d.held, d.heldFor = ln, thread
	d.heldAcks++
}

// letGo gives the thread its room back.
func (l *loop) letGo(d *drainer) {
	ln := d.held
	if ln == nil {
		return
	}
	d.held = nil
	acks := d.heldAcks
	d.heldAcks = 0
	if ln.down {
		return
	}
	for range acks {
		ln.bridge.Ack(d.heldFor)
	}
	ln.bridge.FlushAcks()
}

// unburden moves what threads wait for into files, if there is room for them now. If there is none
// and requests wait for a thread, clients that take nothing are closed.
func (l *loop) unburden() {
	for d := range l.drainers {
		if d.held == nil {
			continue
		}
		d.mu.Lock()
		ok := len(d.tail) == 0
		if !ok && d.spool(d.tail) == nil {
			d.tail, ok = nil, true
		}
		d.mu.Unlock()
		if ok {
			l.letGo(d)
		} else if ln := d.held; ln.member.inFlight.Load() > int64(ln.bridge.Threads()) {
			l.reactor.makeRoom()
		}
	}
}

// makeRoom asks every loop to close clients that take nothing of their answers, at most once a
// tick.
func (r *Reactor) makeRoom() {
	now := r.monotonic()
	last := r.madeRoom.Load()
	if now-last < int64(clockTick) || !r.madeRoom.CompareAndSwap(last, now) {
		return
	}
	for _, l := range r.loops {
		l.post(l.closeStalled)
	}
}

// closeStalled closes clients whose answers wait in files or keep a thread waiting, and that have
// taken nothing for stalledTime.
func (l *loop) closeStalled() {
	now := l.reactor.monotonic()
	for d := range l.drainers {
		d.mu.Lock()
		big := d.end > 0 || len(d.tail) > 0
		d.mu.Unlock()
		if big && now-d.moved.Load() > int64(stalledTime) {
			l.reached("max-spool", "a client that reads nothing is closed", d.client)
			l.drop(d.client)
		}
	}
}

// endDrainer ends the goroutine, at once if it is writing, and gives back what it held.
func (l *loop) endDrainer(d *drainer) {
	delete(l.drainers, d)
	l.letGo(d)
	close(d.quit)
	_ = d.f.Close() // interrupts a write
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	l.reactor.buffers.give(d.booked)
	d.memory, d.tail, d.booked = nil, nil, 0
	d.dropFile()
}

// dropFile gives the file's room back; under mu.
func (d *drainer) dropFile() {
	if d.file == nil {
		return
	}
	_ = d.file.Close()
	d.loop.reactor.spool.give(d.end)
	d.file, d.head, d.end = nil, 0, 0
}

// piece is what the goroutine writes next.
type piece struct {
	data       []byte
	fromMemory bool
	fromFile   bool
}

// take gives the goroutine the bytes that come next, or none. buf is where bytes of the file go.
func (d *drainer) take(buf []byte) (piece, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		return piece{}, os.ErrClosed
	case len(d.memory) > 0:
		p := piece{data: d.memory, fromMemory: true}
		d.memory = nil
		return p, nil
	case d.end > d.head:
		n, err := d.file.ReadAt(buf[:min(int64(len(buf)), d.end-d.head)], d.head)
		return piece{data: buf[:n], fromFile: true}, err
	case len(d.tail) > 0:
		p := piece{data: d.tail}
		d.tail = nil
		return p, nil
	}
	return piece{}, nil
}

// wrote counts written bytes; true when nothing is left and the loop has to be told.
func (d *drainer) wrote(n int64, p *piece) (empty bool) {
	d.moved.Store(d.loop.reactor.monotonic())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return false
	}
	d.left -= n
	if p.fromMemory {
		d.booked -= n
		d.loop.reactor.buffers.give(n)
	}
	if p.fromFile {
		if d.head += n; d.head == d.end {
			d.dropFile()
		}
	}
	if d.left > 0 || d.posted {
		return false
	}
	d.posted = true
	return true
}

func (d *drainer) run() {
	buf := make([]byte, drainPieceBytes)
	for {
		p, err := d.take(buf)
		if err == nil && len(p.data) == 0 {
			select {
			case <-d.quit:
				return
			case <-d.more:
				continue
			}
		}
		if err == nil {
			err = d.write(&p)
		}
		if err != nil {
			d.loop.post(func() { d.loop.drainFailed(d) })
			return
		}
	}
}

// write writes all of p, in pieces that each have a deadline: the client has to take something
// within WriteTimeout.
func (d *drainer) write(p *piece) error {
	for b := p.data; len(b) > 0; {
		if d.timeout > 0 {
			_ = d.f.SetWriteDeadline(time.Now().Add(d.timeout))
		}
		n, err := d.f.Write(b[:min(len(b), drainPieceBytes)])
		if err != nil && !(n > 0 && errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
		b = b[n:]
		if d.wrote(int64(n), p) {
			d.loop.post(func() { d.loop.drained(d) })
		}
	}
	return nil
}

// drained runs on the loop when a drainer has written everything it had.
func (l *loop) drained(d *drainer) {
	c := d.client
	if c.drainer != d || !d.empty() { // if more was added meanwhile, it will report again
		return
	}
	defer l.recover(c)
	c.drainer = nil
	l.endDrainer(d)
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
