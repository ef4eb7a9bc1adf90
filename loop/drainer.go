package loop

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// drainer is a goroutine that finishes what a client's socket did not take. While it exists
// nobody else writes to the client (invariant 1). It works on a duplicate of the descriptor, so it
// outlives gnet's connection, which a half-close ends.
//
// What waits is a queue of three parts. Bytes come into memory while there is room, else into tail;
// while tail holds any, the thread that makes them waits, so tail is never longer than one response
// ring. A second goroutine, the spooler, moves tail into an unlinked file, the part between both,
// so that a slow reader parks no thread of the worker. The loop itself never waits for a disk.
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
	moving    bool     // the spooler runs and has bytes that stand between file and tail
	tail      []byte
	content   *content // an app's file, after all the others
	left      int64    // bytes in all parts and in the goroutines' hands
	booked    int64    // of the reactor's buffers
	posted    bool     // the loop was told that everything is written
	ended     bool     // by endDrainer

	more chan struct{} // there is something to write
	quit chan struct{}

	// On the loop only.
	held     *lane
	heldFor  uint32
	heldAcks int
}

// startDrainer hands the client to a drainer with data as its first bytes.
func (l *loop) startDrainer(c *client, data []byte) {
	fd, err := duplicate(c.fd)
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
	if d.moving || len(d.tail) > 0 || d.end > d.head || !d.remember(data) {
		d.tail = append(d.tail, data...)
		d.startSpooler()
	}
	d.mu.Unlock()
	d.wake()
}

// wake makes the goroutine look for bytes.
func (d *drainer) wake() {
	select {
	case d.more <- struct{}{}:
	default:
	}
}

// remember appends to memory if it may; under mu. Clients that read slowly leave room for requests,
// which have no other place to wait.
func (d *drainer) remember(data []byte) bool {
	n := int64(len(data))
	if d.booked+n > answerMemoryBytesMax || !d.loop.reactor.buffers.takeHalf(n) {
		return false
	}
	d.booked += n
	d.memory = append(d.memory, data...)
	return true
}

// startSpooler lets a goroutine move tail into the file, if there is room; under mu.
func (d *drainer) startSpooler() {
	budget := &d.loop.reactor.spool
	n := int64(len(d.tail))
	if d.moving || n == 0 || !budget.take(n) {
		return
	}
	data := d.tail
	d.moving, d.tail = true, nil
	go func() {
		err := d.spool(data)
		d.loop.post(func() { d.loop.spooled(d, err) })
	}()
}

// spool writes data to the end of the file; it is the only writer meanwhile. What cannot be
// written goes back to where it was.
func (d *drainer) spool(data []byte) error {
	d.mu.Lock()
	f, end := d.file, d.end
	d.mu.Unlock()
	var err error
	if f == nil {
		f, err = d.loop.tempFile()
	}
	if err == nil {
		_, err = f.WriteAt(data, end)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moving, d.file = false, f
	if err != nil {
		d.tail = append(data, d.tail...)
		d.loop.reactor.spool.give(int64(len(data)))
	} else {
		d.end += int64(len(data))
	}
	if d.ended {
		d.tail = nil
		d.dropFile()
	}
	d.wake()
	return err
}

// spooled runs on the loop when the spooler is done: the thread may go on if nothing is left for
// it to wait for.
func (l *loop) spooled(d *drainer, err error) {
	if d.client.drainer != d {
		return
	}
	if err != nil {
		l.reached("max-spool", "cannot write a temporary file: "+err.Error(), d.client)
		return // until the next tick
	}
	d.mu.Lock()
	d.startSpooler()
	d.mu.Unlock()
	if !d.full() {
		l.letGo(d)
	}
}

// full reports whether the response has to wait. Loop only.
func (d *drainer) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.moving || len(d.tail) > 0
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

// unburden tries again to move what threads wait for into files. While there is no room and
// requests wait for a thread, clients that take nothing are closed.
func (l *loop) unburden() {
	for d := range l.drainers {
		ln := d.held
		if ln == nil {
			continue
		}
		d.mu.Lock()
		d.startSpooler()
		stuck := !d.moving && len(d.tail) > 0
		d.mu.Unlock()
		if !stuck {
			continue
		}
		l.reached("max-spool", "a thread waits for a client that reads slowly", d.client)
		if ln.member.inFlight.Load() > int64(ln.bridge.Threads()) {
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
		big := d.end > 0 || d.moving || len(d.tail) > 0
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
	if !d.moving { // else the spooler does it
		d.dropFile()
	}
	if d.content != nil {
		d.content.close()
		d.content = nil
	}
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
	from       *os.File // data comes out of it
	at, waits  int64    // where in the file, and how many bytes wait there
	content    *content // instead of data
}

// take gives the goroutine the bytes that come next, or none. buf is where bytes of the file go.
func (d *drainer) take(buf []byte) (piece, error) {
	p, err := d.next()
	if p.from == nil {
		return p, err
	}
	// Without the lock, for which the loop would wait. Nobody else takes from the file.
	n, err := p.from.ReadAt(buf[:min(int64(len(buf)), p.waits)], p.at)
	p.data = buf[:n]
	return p, err
}

func (d *drainer) next() (piece, error) {
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
		return piece{from: d.file, at: d.head, waits: d.end - d.head}, nil
	case d.moving: // the spooler tells when its bytes are in the file
		return piece{}, nil
	case len(d.tail) > 0:
		p := piece{data: d.tail}
		d.tail = nil
		return p, nil
	case d.content != nil:
		p := piece{content: d.content}
		d.content = nil
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
	if p.from != nil {
		if d.head += n; d.head == d.end && !d.moving {
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
		if err == nil && p.content != nil {
			err = d.sendContent(&p)
		}
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
