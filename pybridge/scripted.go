package pybridge

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Scripted is a worker without a process: a test plays its threads, over the same memory and
// the same doorbells as the shim. Methods may be called from any goroutine.
type Scripted struct {
	id     int
	region *region
	lanes  []*Lane
	bells  []*os.File // the worker's ends of the doorbells
	// fileSockets are its ends of the sockets by which files of responses leave.
	fileSockets []*os.File
	killed      chan struct{} // closed by Kill

	mu      sync.Mutex // the taker's turn: over the rest
	reqHead []uint32   // by lane: requests taken
	repNext []uint32   // by lane: replies written
	outlets [][]outlet // by lane and thread
	idle    []uint32   // threads without a request
	files   map[uint64]*os.File
	dead    bool
}

// outlet is what one thread keeps about its response ring on one lane.
type outlet struct {
	sent, acked, pos, free uint32
	sizes                  []uint32 // of replies, oldest first
	done                   int      // of sizes, how many are acknowledged
}

// ErrNone says that no request came in time.
var ErrNone = errors.New("pybridge: no request came in time")

// NewScripted makes a worker for a test, which must Close it after the reactor has ended.
func NewScripted(id int, sizes Sizes) (*Scripted, error) {
	r, err := newRegion(sizes)
	if err != nil {
		return nil, err
	}
	s := &Scripted{
		id: id, region: r, killed: make(chan struct{}),
		reqHead: make([]uint32, sizes.Lanes), repNext: make([]uint32, sizes.Lanes),
		files: make(map[uint64]*os.File),
	}
	for i := range sizes.Lanes {
		ours, theirs, err := socketPair("doorbell")
		if err != nil {
			return nil, err
		}
		s.bells = append(s.bells, theirs)
		files, theirFiles, err := socketPair("files")
		if err != nil {
			return nil, err
		}
		s.fileSockets = append(s.fileSockets, theirFiles)
		s.lanes = append(s.lanes, newLane(r, nil, i, ours, files))
		outlets := make([]outlet, sizes.Threads)
		for t := range outlets {
			outlets[t].free = r.head.responseBytes
		}
		s.outlets = append(s.outlets, outlets)
	}
	for t := sizes.Threads; t > 0; t-- {
		s.idle = append(s.idle, uint32(t-1))
	}
	return s, nil
}

// ID is the worker's number.
func (s *Scripted) ID() int { return s.id }

// Lane returns the link to loop i.
func (s *Scripted) Lane(i int) *Lane { return s.lanes[i] }

// Kill ends the worker as the death of its process would: its doorbells close.
func (s *Scripted) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return
	}
	s.dead = true
	close(s.killed)
	for i, b := range s.bells {
		_ = b.Close()
		_ = s.fileSockets[i].Close()
	}
}

// Killed is closed when somebody has called Kill.
func (s *Scripted) Killed() <-chan struct{} { return s.killed }

// Close frees what the worker holds; nothing of it may be used afterwards.
func (s *Scripted) Close() {
	s.Kill()
	for _, f := range s.files {
		_ = f.Close()
	}
	s.region.release()
}

// Taken is a request that one thread of a Scripted has begun.
type Taken struct {
	worker             *Scripted
	Lane               int
	Slot, Generation   uint32
	Thread             uint32
	Method, Path       string
	Query, Target      string
	RemoteAddr         string
	KeepAlive, HasBody bool
	Body               []byte   // unless it is in BodyFile
	BodyFile           *os.File // the caller closes it
	BodyLen            int64    // of BodyFile
	Headers            [][2]string
}

// Take begins the next request, lanes in order; ErrNone when none comes in time.
func (s *Scripted) Take(wait time.Duration) (*Taken, error) {
	t := &Taken{}
	deadline := time.Now().Add(wait)
	for !s.await(t, deadline) {
		if !time.Now().Before(deadline) {
			return nil, ErrNone
		}
	}
	t.read()
	return t, nil
}

// Serve gives every request the same answer, which fits into one block, until the worker is killed.
// It allocates nothing for a request.
func (s *Scripted) Serve(answer string) {
	t := &Taken{}
	for {
		if s.await(t, time.Now().Add(serveLook)) {
			t.Answer(answer)
			continue
		}
		select {
		case <-s.killed:
			return
		default:
		}
	}
}

// serveLook is how often Serve looks whether the worker was killed.
const serveLook = 20 * time.Millisecond

// await takes the next request into t; false when it has to be asked again or the time is up.
func (s *Scripted) await(t *Taken, deadline time.Time) bool {
	bell, word := s.region.word(bellOff), s.region.word(wakeOff)
	before := atomic.LoadUint32(word)
	if s.take(t) {
		return true
	}
	atomic.StoreUint32(bell, 1)
	if s.take(t) { // it came between the look and the bell
		return true
	}
	if left := time.Until(deadline); left > 0 {
		futexWait(word, before, left)
	}
	return false
}

// take begins a request if there is one and a thread is idle.
func (s *Scripted) take(t *Taken) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.region.head
	for i, l := range s.lanes {
		for len(s.idle) > 0 && !s.dead {
			tail := atomic.LoadUint32(s.region.word(l.base + reqTailOff))
			if tail == s.reqHead[i] {
				break
			}
			if tail-s.reqHead[i] > h.slots { // what was overwritten was taken back
				s.reqHead[i] = tail - h.slots
			}
			ring := l.base + h.requestsOff + (s.reqHead[i]&(h.slots-1))*4
			slot := atomic.LoadUint32(s.region.word(ring))
			s.reqHead[i]++
			word := &(*slotHead)(l.slot(slot)).state
			state := atomic.LoadUint32(word)
			if state&slotStateMask != slotQueued || !atomic.CompareAndSwapUint32(word, state,
				state&^slotStateMask|slotTaken) {
				continue // taken back
			}
			thread := s.idle[len(s.idle)-1]
			s.idle = s.idle[:len(s.idle)-1]
			noteTaken((*slotHead)(l.slot(slot)), thread)
			*t = Taken{worker: s, Lane: i, Slot: slot, Thread: thread,
				Generation: state >> slotGenerationShift}
			return true
		}
	}
	return false
}

// noteTaken tells the loop who runs a request since when, as the shim does.
func noteTaken(s *slotHead, thread uint32) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	atomic.StoreUint64(&s.takenNS, uint64(now.Nano()))
	atomic.StoreUint32(&s.thread, thread)
}

// read fills in what stands in the slot.
func (t *Taken) read() {
	s := t.worker
	l := s.lanes[t.Lane]
	mem := l.slotMem(t.Slot)
	head := (*slotHead)(unsafe.Pointer(&mem[0]))
	text := func(at span) string { return string(mem[at.off : at.off+at.len]) }
	t.Method, t.Path, t.Query = text(head.method), text(head.path), text(head.query)
	t.Target, t.RemoteAddr = text(head.target), text(head.remoteAddr)
	t.KeepAlive, t.HasBody = head.flags&flagKeepAlive != 0, head.flags&flagBody != 0
	rows := unsafe.Slice((*slotHeader)(unsafe.Pointer(&mem[head.headersOff])), head.headerCount)
	for _, row := range rows {
		t.Headers = append(t.Headers, [2]string{text(row.name), text(row.value)})
	}
	switch {
	case head.flags&flagBodyFile != 0:
		t.BodyFile, t.BodyLen = s.receiveFile(t.Lane, t.Slot), int64(head.bodyLen)
	case head.flags&flagBodyArena != 0:
		at := uint64(l.base+s.region.head.arenaOff) + head.bodyOff
		t.Body = append(t.Body, s.region.mem[at:at+head.bodyLen]...)
	case t.HasBody:
		t.Body = append(t.Body, mem[head.bodyOff:head.bodyOff+head.bodyLen]...)
	}
}

// receiveFile takes descriptors from the doorbell until it is empty; the last one that came for
// the slot is the request's.
func (s *Scripted) receiveFile(lane int, slot uint32) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	fd := int(s.bells[lane].Fd())
	for {
		id, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(fd, id, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		if err != nil || n != len(id) {
			break
		}
		key := uint64(lane)<<32 | uint64(id[0]) | uint64(id[1])<<8
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			break
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			break
		}
		if old := s.files[key]; old != nil {
			_ = old.Close()
		}
		s.files[key] = os.NewFile(uintptr(fds[0]), "body")
	}
	key := uint64(lane)<<32 | uint64(slot)
	f := s.files[key]
	delete(s.files, key)
	return f
}

// Send publishes bytes of the response, in blocks; flags go with the last one. It waits for
// room; false when there was none in time or the worker is dead.
func (t *Taken) Send(data string, flags uint32, wait time.Duration) bool {
	deadline := time.Now().Add(wait)
	for {
		piece := data[:min(len(data), blockMax)]
		data = data[len(piece):]
		pieceFlags := uint32(0)
		if data == "" {
			pieceFlags = flags
		}
		for !t.worker.publish(t, piece, pieceFlags) {
			if !t.worker.awaitAck(t, deadline) {
				return false
			}
		}
		if data == "" {
			return true
		}
	}
}

// SendFile publishes a piece of a file, which stays the caller's, as part of the response.
func (t *Taken) SendFile(f *os.File, off, length int64, flags uint32) bool {
	id := binary.NativeEndian.AppendUint32(nil, t.Slot)
	err := unix.Sendmsg(int(t.worker.fileSockets[t.Lane].Fd()), id,
		unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL)
	part := filePart{offset: uint64(off), length: uint64(length)}
	block := unsafe.String((*byte)(unsafe.Pointer(&part)), unsafe.Sizeof(part))
	return err == nil && t.Send(block, flags|replyFile, answerWaitMax)
}

// Answer sends a whole response and ends the request.
func (t *Taken) Answer(data string) bool { return t.Send(data, ReplyLast, answerWaitMax) }

// answerWaitMax is how long Answer waits for room.
const answerWaitMax = 10 * time.Second

// publish writes one block: false when the loop has to acknowledge first.
func (s *Scripted) publish(t *Taken, data string, flags uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return true // what a dead process writes is lost
	}
	h, l, o := &s.region.head, s.lanes[t.Lane], &s.outlets[t.Lane][t.Thread]
	s.collectAcks(t)
	size := uint32(roundUp(len(data), blockAlign))
	off, skipped := o.pos, uint32(0)
	if uint32(len(data)) > h.responseBytes-o.pos {
		off, skipped = 0, h.responseBytes-o.pos
	}
	if size+skipped > o.free || o.sent-o.acked >= h.repliesPerThread {
		return false
	}
	copy(s.region.mem[l.base+h.responsesOff+t.Thread*h.responseBytes+off:], data)
	o.pos = (off + size) % h.responseBytes
	o.free -= size + skipped
	o.sizes = append(o.sizes, size+skipped)
	o.sent++
	if flags&ReplyLast != 0 {
		s.idle = append(s.idle, t.Thread)
	}
	s.write(t.Lane, replyEntry{slot: t.Slot, generation: t.Generation, thread: t.Thread,
		flags: flags, off: off, len: uint32(len(data)), status: 200})
	return true
}

// write puts an entry into the reply ring and rings the loop if it sleeps.
func (s *Scripted) write(lane int, e replyEntry) {
	h, l := &s.region.head, s.lanes[lane]
	at := l.base + h.repliesOff + (s.repNext[lane]&(h.replies-1))*uint32(unsafe.Sizeof(e))
	*(*replyEntry)(unsafe.Pointer(&s.region.mem[at])) = e
	s.repNext[lane]++
	atomic.StoreUint32(s.region.word(l.base+repTailOff), s.repNext[lane])
	asleep := atomic.LoadUint32(s.region.word(l.base + asleepOff))
	if asleep == sleeps || asleep == naps && s.queued() == 0 {
		s.ringDoorbell(lane)
	}
}

// queued is how many requests wait for a thread; under mu.
func (s *Scripted) queued() (n uint32) {
	for i, l := range s.lanes {
		n += atomic.LoadUint32(s.region.word(l.base+reqTailOff)) - s.reqHead[i]
	}
	return n
}

func (s *Scripted) ringDoorbell(lane int) {
	if atomic.SwapUint32(s.region.word(s.lanes[lane].base+asleepOff), 0) != 0 {
		_, _ = s.bells[lane].Write([]byte{1})
	}
}

// Break publishes a reply that no honest worker would: it lies outside the response ring.
func (t *Taken) Break() {
	s := t.worker
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(t.Lane, replyEntry{slot: t.Slot, generation: t.Generation, thread: t.Thread,
		off: s.region.head.responseBytes, len: 1})
}

// BreakFile publishes a part of a file whose descriptor was never sent.
func (t *Taken) BreakFile() {
	t.Send(string(make([]byte, unsafe.Sizeof(filePart{}))), replyFile, answerWaitMax)
}

// collectAcks takes back the room of what the loop has acknowledged; under mu.
func (s *Scripted) collectAcks(t *Taken) {
	l, o := s.lanes[t.Lane], &s.outlets[t.Lane][t.Thread]
	count := atomic.LoadUint32(s.region.word(l.base + acksOff + t.Thread*lineBytes + ackCountOff))
	for ; o.acked != count && o.done < len(o.sizes); o.acked++ {
		o.free += o.sizes[o.done]
		o.done++
	}
	if o.done == len(o.sizes) {
		o.pos, o.free = 0, s.region.head.responseBytes
		o.sizes, o.done = o.sizes[:0], 0
	}
}

// awaitAck waits until the loop acknowledges something of the thread.
func (s *Scripted) awaitAck(t *Taken, deadline time.Time) bool {
	off := s.lanes[t.Lane].base + acksOff + t.Thread*lineBytes
	count, waiting := s.region.word(off+ackCountOff), s.region.word(off+ackWaitOff)
	s.mu.Lock()
	acked := s.outlets[t.Lane][t.Thread].acked
	s.mu.Unlock()
	for {
		atomic.StoreUint32(waiting, 1)
		s.ringDoorbell(t.Lane)
		now := atomic.LoadUint32(count)
		left := time.Until(deadline)
		if now == acked && left > 0 {
			futexWait(count, acked, left)
		}
		atomic.StoreUint32(waiting, 0)
		if now != acked {
			return true
		}
		if left <= 0 {
			return false
		}
	}
}

// Last reports whether the loop has said that the answer is the connection's last.
func (t *Taken) Last() bool {
	head := (*slotHead)(t.worker.lanes[t.Lane].slot(t.Slot))
	return atomic.LoadUint32(&head.flags)&flagKeepAlive == 0
}

// Gone reports whether the loop has said that nobody reads the answer any more.
func (t *Taken) Gone() bool { return t.gone() == goneClosed }

// HalfClosed reports whether the loop has said that the client sends nothing more.
func (t *Taken) HalfClosed() bool { return t.gone() == goneHalfClosed }

func (t *Taken) gone() uint32 {
	l := t.worker.lanes[t.Lane]
	return atomic.LoadUint32(&(*slotHead)(l.slot(t.Slot)).gone)
}

// futexWait sleeps while *word == value, at most for the time given.
func futexWait(word *uint32, value uint32, wait time.Duration) {
	const op = 0 // FUTEX_WAIT; shared between processes
	ts := unix.NsecToTimespec(int64(wait))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), op, uintptr(value),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
}
