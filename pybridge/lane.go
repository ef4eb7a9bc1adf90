package pybridge

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrFull says that a lane has no room for a request now; a reply will make some.
var ErrFull = errors.New("pybridge: lane is full")

// ErrTooLarge says that a request's head does not fit into a slot.
var ErrTooLarge = errors.New("pybridge: request head is larger than a slot")

// ErrCorrupt says that a worker broke the lane's format; it must be killed (invariant 4).
var ErrCorrupt = errors.New("pybridge: worker broke the lane format")

// Lane is one loop's end of the link to one worker. All methods belong to that loop, except
// where they say otherwise.
type Lane struct {
	region *region
	worker *Worker
	base   uint32
	index  int

	reqTail uint32       // requests published
	oldest  uint32       // of those, the first that may still wait for a thread
	repHead uint32       // replies taken
	free    []uint32     // stack of free slots; the last one used is the warmest
	gens    []uint32     // by slot: the generation of its current or last use
	ring    []uint32     // what we wrote into the request ring
	ringAt  []uint32     // by slot: reqTail when it was published last
	kept    []kept       // by slot: where we put what it holds
	arenaAt []arenaPiece // by slot: what it holds of the arena
	busy    []bool       // by slot: between Submit and the last reply or Cancel
	arena   uint64       // bit set: that block of the arena is free
	acks    []uint32     // by thread: replies taken
	dirty   []uint32     // threads whose acks have to be stored
	isDirty []bool

	claimed  atomic.Bool // a loop has it, or the worker ended before
	doorbell *os.File    // our end until the loop enrols it
	bellFD   int         // the doorbell as the loop has it; passes body files too
	files    *os.File    // socket by which files of responses come
	inFlight int
}

type arenaPiece struct{ first, count uint8 }

// kept is what Recover needs to know; what stands in the slot itself is not to be trusted.
type kept struct {
	headOff, headLen uint32 // in the slot
	bodyOff, bodyLen uint64 // in the region; a body in a file has length 0 here
	hasBody          bool
}

func newLane(r *region, w *Worker, index int, doorbell, files *os.File) *Lane {
	h := &r.head
	l := &Lane{
		region: r, worker: w, index: index, doorbell: doorbell, bellFD: -1, files: files,
		base:    h.lanesOff + uint32(index)*h.laneBytes,
		free:    make([]uint32, 0, h.slots),
		gens:    make([]uint32, h.slots),
		ring:    make([]uint32, h.slots),
		ringAt:  make([]uint32, h.slots),
		kept:    make([]kept, h.slots),
		busy:    make([]bool, h.slots),
		arenaAt: make([]arenaPiece, h.slots),
		acks:    make([]uint32, h.threads),
		isDirty: make([]bool, h.threads),
	}
	for i := h.slots; i > 0; i-- {
		l.free = append(l.free, i-1)
	}
	blocks := h.arenaBytes / arenaBlockBytes
	l.arena = ^uint64(0) >> (64 - blocks)
	if blocks == 0 {
		l.arena = 0
	}
	r.refs.Add(1)
	return l
}

// Worker returns the worker behind the lane. Any goroutine may call it.
func (l *Lane) Worker() *Worker { return l.worker }

// Doorbell is the file that becomes readable when replies wait for a sleeping loop. The loop
// enrols a duplicate, tells its descriptor to SetDoorbellFD and closes this one. With it the lane
// is the loop's, until Release. Nil when the worker has ended before: then nothing of the lane may
// be used.
func (l *Lane) Doorbell() *os.File {
	if l.claimed.Swap(true) {
		return nil
	}
	return l.doorbell
}

// discard gives the lane back, unless a loop has it. Any goroutine may call it.
func (l *Lane) discard() {
	if !l.claimed.Swap(true) {
		_ = l.doorbell.Close()
		l.Release()
	}
}

// SetDoorbellFD names the loop's descriptor of the doorbell, by which body files are passed too.
func (l *Lane) SetDoorbellFD(fd int) { l.bellFD = fd }

// Slots is how many requests the lane can hold.
func (l *Lane) Slots() int { return len(l.gens) }

// Replies is how many replies can wait at a time.
func (l *Lane) Replies() int { return int(l.region.head.replies) }

// Threads is how many threads the worker has, for all its lanes.
func (l *Lane) Threads() int { return int(l.region.head.threads) }

// InFlight is how many requests the lane holds now.
func (l *Lane) InFlight() int { return l.inFlight }

// HasRoom reports whether Submit can succeed for a request without a large body.
func (l *Lane) HasRoom() bool { return len(l.free) > 0 && l.ringHasRoom() }

// ringHasRoom reports whether the next entry of the request ring overwrites none that still
// waits. Free slots do not say so: Cancel frees them at once, while their entries stay in the
// ring until a thread passes over them.
func (l *Lane) ringHasRoom() bool {
	slots := l.region.head.slots
	i := l.ring[l.reqTail&(slots-1)]
	return l.reqTail-l.ringAt[i] != slots || !l.busy[i] || l.Taken(i)
}

func (l *Lane) slot(i uint32) unsafe.Pointer {
	off := l.base + l.region.head.slotsOff + i*l.region.head.slotBytes
	return unsafe.Pointer(&l.region.mem[off])
}

func (l *Lane) slotMem(i uint32) []byte {
	off := l.base + l.region.head.slotsOff + i*l.region.head.slotBytes
	return l.region.mem[off : off+l.region.head.slotBytes : off+l.region.head.slotBytes]
}

// Request is one request to be written into a lane. All slices are borrowed for the call to
// Submit only. Method, Target, Path, Query and the headers may alias Head: what lies inside it
// is not copied twice.
type Request struct {
	Head                        []byte
	Method, Target, Path, Query []byte
	RemoteAddr                  []byte
	RemotePort                  uint16
	Listener                    uint16
	HTTP10, KeepAlive, IsHead   bool
	Headers                     []Header

	HasBody  bool
	Body     []byte // the whole body, or nil with BodyFile
	BodyFile *os.File
	BodyLen  int64 // of BodyFile

	// Socket is the descriptor of the client's own connection, for an app that upgrades it; 0
	// otherwise. There is no body with it.
	Socket int
}

// Header is one field of a request; Name is a token, Value has no CR, LF or NUL.
type Header struct{ Name, Value []byte }

// slotWriter fills one slot up to the place of an inline body.
type slotWriter struct {
	mem  []byte // the slot without that place
	head []byte // the borrowed head
	base uint32 // where its copy starts
	at   uint32
	full bool // something did not fit
}

// put returns where b stands in the slot, copying it unless it is a piece of the head.
func (w *slotWriter) put(b []byte) span {
	if len(b) == 0 {
		return span{off: w.base}
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	start := uintptr(unsafe.Pointer(unsafe.SliceData(w.head)))
	if at >= start && at+uintptr(len(b)) <= start+uintptr(len(w.head)) {
		return span{off: w.base + uint32(at-start), len: uint32(len(b))}
	}
	if len(b) > len(w.mem)-int(w.at) {
		w.full = true
		return span{}
	}
	s := span{off: w.at, len: uint32(copy(w.mem[w.at:], b))}
	w.at += s.len
	return s
}

// Submit writes a request into a free slot and publishes it; Ring makes the worker look. It
// returns the slot's number and generation, or ErrFull, or ErrTooLarge. The caller keeps BodyFile
// and Socket.
func (l *Lane) Submit(q *Request) (slot, generation uint32, err error) {
	if !l.HasRoom() {
		return 0, 0, ErrFull
	}
	i := l.free[len(l.free)-1]
	mem := l.slotMem(i)
	w := slotWriter{mem: mem[:len(mem)-inlineBodyBytes], head: q.Head}
	s := (*slotHead)(unsafe.Pointer(&mem[0]))
	table := uint32(unsafe.Sizeof(slotHead{}))
	base := int(table) + len(q.Headers)*int(unsafe.Sizeof(slotHeader{}))
	if len(q.Head) > len(w.mem)-base {
		return 0, 0, ErrTooLarge
	}
	w.base = uint32(base)
	w.at = w.base + uint32(copy(w.mem[base:], q.Head))
	rows := unsafe.Slice((*slotHeader)(unsafe.Pointer(&mem[table])), len(q.Headers))
	for n := range q.Headers {
		rows[n] = slotHeader{w.put(q.Headers[n].Name), w.put(q.Headers[n].Value)}
	}
	s.headerCount, s.headersOff = uint32(len(rows)), table
	s.method, s.target = w.put(q.Method), w.put(q.Target)
	s.path, s.query = w.put(q.Path), w.put(q.Query)
	s.remoteAddr = w.put(q.RemoteAddr)
	if w.full {
		return 0, 0, ErrTooLarge
	}
	if err := l.placeBody(i, s, q, &w); err != nil {
		return 0, 0, err
	}
	s.listener, s.remotePort = q.Listener, q.RemotePort
	s.flags |= flagsOf(q)
	l.publish(i, s)
	return i, l.gens[i], nil
}

func flagsOf(q *Request) uint32 {
	var f uint32
	if q.HTTP10 {
		f |= flagHTTP10
	}
	if q.KeepAlive {
		f |= flagKeepAlive
	}
	if q.IsHead {
		f |= flagHead
	}
	return f
}

// placeBody copies the body behind the head, or into the arena, or passes its file.
func (l *Lane) placeBody(i uint32, s *slotHead, q *Request, w *slotWriter) error {
	s.flags, s.bodyLen, s.bodyOff = 0, 0, 0
	k := &l.kept[i]
	*k = kept{headOff: w.base, headLen: uint32(len(q.Head)), hasBody: q.HasBody}
	if q.Socket != 0 {
		s.flags = flagSocket
		return l.passFile(i, q.Socket)
	}
	if !q.HasBody {
		return nil
	}
	s.flags = flagBody
	switch {
	case q.BodyFile != nil:
		if err := l.passFile(i, int(q.BodyFile.Fd())); err != nil {
			return err
		}
		s.flags |= flagBodyFile
		s.bodyLen = uint64(q.BodyLen)
	case len(q.Body) <= inlineBodyBytes:
		s.bodyOff = uint64(len(w.mem))
		s.bodyLen = uint64(copy(l.slotMem(i)[s.bodyOff:], q.Body))
		slotAt := l.base + l.region.head.slotsOff + i*l.region.head.slotBytes
		k.bodyOff, k.bodyLen = uint64(slotAt)+s.bodyOff, s.bodyLen
	default:
		first, ok := l.takeArena(i, len(q.Body))
		if !ok {
			return ErrFull
		}
		s.flags |= flagBodyArena
		s.bodyOff = uint64(first) * arenaBlockBytes
		at := uint64(l.base+l.region.head.arenaOff) + s.bodyOff
		s.bodyLen = uint64(copy(l.region.mem[at:], q.Body))
		k.bodyOff, k.bodyLen = at, s.bodyLen
	}
	return nil
}

// takeArena finds neighbouring free blocks for n bytes.
func (l *Lane) takeArena(slot uint32, n int) (first int, ok bool) {
	count := (n + arenaBlockBytes - 1) / arenaBlockBytes
	if count > 64 {
		return 0, false
	}
	runs := l.arena // bit b survives when blocks b .. b+count-1 are free
	for k := 1; k < count && runs != 0; k++ {
		runs &= l.arena >> k
	}
	if runs == 0 {
		return 0, false
	}
	first = bits.TrailingZeros64(runs)
	l.arena &^= (^uint64(0) >> (64 - count)) << first
	l.arenaAt[slot] = arenaPiece{uint8(first), uint8(count)}
	return first, true
}

// passFile sends a descriptor ahead of its request.
func (l *Lane) passFile(slot uint32, fd int) error {
	id := [4]byte{byte(slot), byte(slot >> 8), byte(slot >> 16), byte(slot >> 24)}
	err := unix.Sendmsg(l.bellFD, id[:], unix.UnixRights(fd), nil,
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err == unix.EAGAIN || err == unix.ETOOMANYREFS {
		return ErrFull
	}
	return err
}

// publish makes slot i visible to the worker.
func (l *Lane) publish(i uint32, s *slotHead) {
	l.free = l.free[:len(l.free)-1]
	l.gens[i] = (l.gens[i] + 1) & (1<<(32-slotGenerationShift) - 1)
	l.busy[i] = true
	l.inFlight++
	atomic.StoreUint32(&s.gone, 0)
	atomic.StoreUint32(&s.state, l.gens[i]<<slotGenerationShift|slotQueued)
	mask := l.region.head.slots - 1
	ring := l.region.word(l.base + l.region.head.requestsOff + (l.reqTail&mask)*4)
	atomic.StoreUint32(ring, i)
	l.ring[l.reqTail&mask], l.ringAt[i] = i, l.reqTail
	l.reqTail++
	atomic.StoreUint32(l.region.word(l.base+reqTailOff), l.reqTail)
}

// Ring wakes a thread of the worker if one sleeps and wants it; called once a batch.
func (l *Lane) Ring() { l.region.ring() }

// Cancel takes a request back that no thread has begun; false when one has, and when the request
// is not in flight, whatever the worker wrote into the state word.
func (l *Lane) Cancel(slot, generation uint32) bool {
	if !l.busy[slot] || l.gens[slot] != generation {
		return false
	}
	s := (*slotHead)(l.slot(slot))
	queued := generation<<slotGenerationShift | slotQueued
	free := generation<<slotGenerationShift | slotFree
	if !atomic.CompareAndSwapUint32(&s.state, queued, free) {
		return false
	}
	l.giveBack(slot)
	return true
}

// Oldest is the slot of the request that was submitted first, of those in flight that Pass has not
// passed over. It reads no shared memory.
func (l *Lane) Oldest() (slot uint32, ok bool) {
	slots := l.region.head.slots
	if l.reqTail-l.oldest > slots { // the ring has gone round since the last look
		l.oldest = l.reqTail - slots
	}
	for ; l.oldest != l.reqTail; l.oldest++ {
		i := l.ring[l.oldest&(slots-1)]
		if l.busy[i] && l.ringAt[i] == l.oldest {
			return i, true
		}
	}
	return 0, false
}

// Pass makes Oldest go on to the next request, for good: a thread has begun the one at hand.
func (l *Lane) Pass() { l.oldest++ }

// Recover reads a request out of a slot that Cancel has taken back and that was not used since. The
// head is appended to into; the body, unless it is in a file, is borrowed until the next Submit or
// Release. The worker may have written anything there, also later: the head must be parsed as if
// it came from the wire.
func (l *Lane) Recover(slot uint32, into []byte) (head, body []byte, hasBody bool) {
	mem := l.slotMem(slot)
	k := &l.kept[slot]
	head = append(into, mem[k.headOff:k.headOff+k.headLen]...)
	if k.bodyLen > 0 {
		body = l.region.mem[k.bodyOff : k.bodyOff+k.bodyLen : k.bodyOff+k.bodyLen]
	}
	return head, body, k.hasBody
}

// HeadOf appends the beginning of a request's head, at most size bytes, to into. It may be called
// while the slot is in flight; what it gives is what the worker left there, for people to read.
func (l *Lane) HeadOf(slot uint32, into []byte, size int) []byte {
	mem := l.slotMem(slot)
	k := &l.kept[slot]
	return append(into, mem[k.headOff:k.headOff+min(k.headLen, uint32(size))]...)
}

// Busy reports whether the slot is in flight.
func (l *Lane) Busy(slot uint32) bool { return l.busy[slot] }

// Holds reports whether the slot is in flight with the request of this generation.
func (l *Lane) Holds(slot, generation uint32) bool {
	return l.busy[slot] && l.gens[slot] == generation
}

// MarkGone tells the thread that runs the slot's request that nobody reads its answer.
func (l *Lane) MarkGone(slot uint32) {
	atomic.StoreUint32(&(*slotHead)(l.slot(slot)).gone, goneClosed)
}

// MarkHalfClosed tells it that the client has closed its sending side. Most of those that do
// have gone, but some still read.
func (l *Lane) MarkHalfClosed(slot uint32) {
	atomic.StoreUint32(&(*slotHead)(l.slot(slot)).gone, goneHalfClosed)
}

// MarkLast makes the answer to the slot's request say that it is the connection's last, unless its
// head is made already.
func (l *Lane) MarkLast(slot uint32) {
	flags := &(*slotHead)(l.slot(slot)).flags
	atomic.StoreUint32(flags, atomic.LoadUint32(flags)&^flagKeepAlive)
}

// Taken reports whether a thread has begun the slot's request.
func (l *Lane) Taken(slot uint32) bool {
	return atomic.LoadUint32(&(*slotHead)(l.slot(slot)).state)&slotStateMask == slotTaken
}

// Run is what the thread that runs a request says about it. Nothing of it can be trusted.
type Run struct {
	TakenNS int64         // CLOCK_MONOTONIC when the thread took it
	GIL     time.Duration // how long the thread waited for the GIL on its account
	Thread  int           // its number in the worker
}

// Run reads how a request in flight came along; what it says of one that is not taken, or was so in
// this moment, is of an earlier one.
func (l *Lane) Run(slot uint32) Run {
	s := (*slotHead)(l.slot(slot))
	return Run{
		TakenNS: int64(atomic.LoadUint64(&s.takenNS)),
		GIL:     time.Duration(atomic.LoadUint32(&s.gilUS)) * time.Microsecond,
		Thread:  int(atomic.LoadUint32(&s.thread)),
	}
}

func (l *Lane) giveBack(slot uint32) {
	if p := l.arenaAt[slot]; p.count > 0 {
		l.arena |= (^uint64(0) >> (64 - p.count)) << p.first
		l.arenaAt[slot] = arenaPiece{}
	}
	l.busy[slot] = false
	l.inFlight--
	l.free = append(l.free, slot)
}

// Reply is one piece of a response.
type Reply struct {
	Slot, Generation uint32
	Thread           uint32
	Flags            uint32 // ReplyLast, ReplyAbort, ReplyClose
	Status           uint32 // worth reading in a response's first reply
	// Data is ready for the socket. It lies in shared memory and stays valid until Ack.
	Data []byte
	// File, where it is not nil, takes the place of Data: FileLen bytes of it from FileOff on. The
	// caller closes it.
	File             *os.File
	FileOff, FileLen int64
}

// Next takes the next reply into r: false when there is none. ErrCorrupt when the worker broke
// the format: nothing of this lane may be trusted any more. After a reply with ReplyLast the
// slot may be used again.
func (l *Lane) Next(r *Reply) (bool, error) {
	h := &l.region.head
	tail := atomic.LoadUint32(l.region.word(l.base + repTailOff))
	if tail == l.repHead {
		return false, nil
	}
	if tail-l.repHead > h.replies {
		return false, ErrCorrupt
	}
	off := l.base + h.repliesOff + (l.repHead&(h.replies-1))*uint32(unsafe.Sizeof(replyEntry{}))
	e := *(*replyEntry)(unsafe.Pointer(&l.region.mem[off])) // one read, then checks
	l.repHead++
	if e.slot >= h.slots || !l.busy[e.slot] || e.generation != l.gens[e.slot] ||
		e.thread >= h.threads || e.off > h.responseBytes || e.len > h.responseBytes-e.off {
		return false, ErrCorrupt
	}
	at := l.base + h.responsesOff + e.thread*h.responseBytes + e.off
	*r = Reply{
		Slot: e.slot, Generation: e.generation, Thread: e.thread, Flags: e.flags,
		Status: e.status, Data: l.region.mem[at : at+e.len : at+e.len],
	}
	if e.flags&replyFile != 0 && !l.takeFile(r) {
		return false, ErrCorrupt
	}
	if e.flags&ReplyLast != 0 {
		l.giveBack(e.slot)
	}
	return true, nil
}

// takeFile turns a file part and the descriptor that was sent ahead of it into r.File.
func (l *Lane) takeFile(r *Reply) bool {
	if len(r.Data) != int(unsafe.Sizeof(filePart{})) || l.files == nil {
		return false
	}
	part := *(*filePart)(unsafe.Pointer(&r.Data[0])) // blocks are aligned
	if part.offset > math.MaxInt64 || part.length > math.MaxInt64-part.offset {
		return false
	}
	fd, ok := l.receiveFile(r.Slot)
	if !ok {
		return false
	}
	r.Data = nil
	r.File = os.NewFile(uintptr(fd), "response")
	r.FileOff, r.FileLen = int64(part.offset), int64(part.length)
	return true
}

// receiveFile takes the next descriptor, which must be for this slot.
func (l *Lane) receiveFile(slot uint32) (fd int, ok bool) {
	raw, err := l.files.SyscallConn()
	if err != nil {
		return -1, false
	}
	id, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, oobn := 0, 0
	_ = raw.Control(func(s uintptr) {
		n, oobn, _, _, err = unix.Recvmsg(int(s), id, oob,
			unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	})
	if err != nil || n != len(id) {
		return -1, false
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, false
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, false
	}
	if binary.NativeEndian.Uint32(id) != slot {
		_ = unix.Close(fds[0])
		return -1, false
	}
	return fds[0], true
}

// Ack lets the thread use the reply's bytes again; FlushAcks makes it so. Replies of one
// thread are acknowledged in order.
func (l *Lane) Ack(thread uint32) {
	l.acks[thread]++
	if !l.isDirty[thread] {
		l.isDirty[thread] = true
		l.dirty = append(l.dirty, thread)
	}
}

// FlushAcks publishes the acknowledgements and wakes threads that wait for them.
func (l *Lane) FlushAcks() {
	for _, t := range l.dirty {
		off := l.base + acksOff + t*lineBytes
		word := l.region.word(off + ackCountOff)
		atomic.StoreUint32(word, l.acks[t])
		if atomic.LoadUint32(l.region.word(off+ackWaitOff)) != 0 {
			futexWake(word)
		}
		l.isDirty[t] = false
	}
	l.dirty = l.dirty[:0]
}

// Sleep asks for the doorbell: true when the loop may sleep, false when replies have come.
func (l *Lane) Sleep() bool { return l.sleep(sleeps) }

// Nap is Sleep for a loop that looks again by itself in a moment: the doorbell is only wanted when
// no request waits for a thread any more, or a thread waits for the loop.
func (l *Lane) Nap() bool { return l.sleep(naps) }

func (l *Lane) sleep(how uint32) bool {
	asleep := l.region.word(l.base + asleepOff)
	atomic.StoreUint32(asleep, how)
	if atomic.LoadUint32(l.region.word(l.base+repTailOff)) == l.repHead {
		return true
	}
	atomic.StoreUint32(asleep, 0)
	return false
}

// Rung reports whether the doorbell was rung since Sleep or Nap, or will be in this moment.
func (l *Lane) Rung() bool { return atomic.LoadUint32(l.region.word(l.base+asleepOff)) == 0 }

// Silence takes rings from the doorbell, so that it is not readable any more. What it misses is
// read later and means nothing. False when the worker has closed its end.
func (l *Lane) Silence() bool {
	var b [16]byte
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.bellFD),
		uintptr(unsafe.Pointer(&b)), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
	return errno != 0 || n > 0
}

// DoorbellFD is what SetDoorbellFD named; -1 before.
func (l *Lane) DoorbellFD() int { return l.bellFD }

// Release ends the loop's use of the lane; no method may be called afterwards.
func (l *Lane) Release() {
	if l.files != nil {
		_ = l.files.Close()
	}
	l.region.release()
}
