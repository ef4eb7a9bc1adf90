package pybridge

import (
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of one worker's shared memory. All of them bound what a worker can hold.
type Sizes struct {
	Lanes   int // loops that hand requests to the worker
	Threads int // interpreter threads, at most 256
	// HeadBytesMax and HeaderCountMax bound one request's head, as the parser does.
	HeadBytesMax   int
	HeaderCountMax int
	// BodyArenaBytes is the room a lane has for request bodies in memory; a multiple of 64 KiB,
	// at most 64 times that.
	BodyArenaBytes int
}

const (
	arenaBlockBytes = 65536
	inlineBodyBytes = 16384
	responseBytes   = 4 * blockMax
	slotsMin        = 64
	slotsWanted     = 512     // for a lane
	slotsBytesMax   = 1 << 28 // of all lanes of a region; pages are memory once they are used
	pageBytes       = 4096
	remoteAddrMax   = 64
	headLimitMax    = 1 << 24 // bytes or fields of a head: keeps the sums below in range
)

// region is the memory one worker shares with this process. It is unmapped when every lane
// has been released and the worker is gone.
type region struct {
	fd   int
	mem  []byte
	head regionHead
	refs atomic.Int32
}

func ceilPow2(n int) int {
	p := 1
	for p < n {
		p *= 2
	}
	return p
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// layout computes the region's head from the sizes asked for.
func layout(s Sizes) (regionHead, error) {
	if s.Lanes < 1 || s.Lanes > lanesMax || s.Threads < 1 || s.Threads > threadsMax {
		return regionHead{}, fmt.Errorf("pybridge: %d lanes of %d threads are not possible",
			s.Lanes, s.Threads)
	}
	if s.BodyArenaBytes < 0 || s.BodyArenaBytes > 64*arenaBlockBytes ||
		s.BodyArenaBytes%arenaBlockBytes != 0 {
		return regionHead{}, fmt.Errorf("pybridge: a body arena of %d bytes is not possible",
			s.BodyArenaBytes)
	}
	if s.HeadBytesMax < 0 || s.HeadBytesMax > headLimitMax || s.HeaderCountMax < 0 ||
		s.HeaderCountMax > headLimitMax {
		return regionHead{}, fmt.Errorf("pybridge: heads of %d bytes and %d fields are not possible",
			s.HeadBytesMax, s.HeaderCountMax)
	}
	slotSize := int(unsafe.Sizeof(slotHead{})) + s.HeaderCountMax*int(unsafe.Sizeof(slotHeader{})) +
		2*s.HeadBytesMax + remoteAddrMax + inlineBodyBytes
	// An odd number of lines: slots that follow each other then start in different cache sets.
	slotSize = roundUp(slotSize, lineBytes)
	if slotSize/lineBytes%2 == 0 {
		slotSize += lineBytes
	}
	slots := slotCount(s, slotSize)
	h := regionHead{
		magic: magic, version: version,
		lanes: uint32(s.Lanes), threads: uint32(s.Threads),
		slots: uint32(slots), slotBytes: uint32(slotSize),
		repliesPerThread: uint32(slots),
		arenaBytes:       uint32(s.BodyArenaBytes), responseBytes: responseBytes,
	}
	h.replies = uint32(ceilPow2(slots * s.Threads))
	at := roundUp(acksOff+s.Threads*lineBytes, pageBytes)
	place := func(bytes int) uint32 {
		off := at
		at = roundUp(at+bytes, pageBytes)
		return uint32(off)
	}
	h.requestsOff = place(slots * 4)
	h.repliesOff = place(int(h.replies) * int(unsafe.Sizeof(replyEntry{})))
	h.slotsOff = place(slots * slotSize)
	h.arenaOff = place(s.BodyArenaBytes)
	h.responsesOff = place(s.Threads * responseBytes)
	h.laneBytes = uint32(at)
	h.lanesOff = uint32(roundUp(wakeOff+s.Threads*lineBytes, pageBytes))
	if total := int(h.lanesOff) + s.Lanes*at; total > math.MaxUint32 {
		return regionHead{}, fmt.Errorf("pybridge: %d lanes of %d threads need %d bytes, "+
			"more than a region of 4 GiB holds", s.Lanes, s.Threads, total)
	}
	return h, nil
}

// slotCount is how many slots a lane has. A request that finds none waits in the loop's queue, where
// its head is copied, and is parsed again when a slot is free, so there should be one for each
// client that asks at the same time. Clients spread over the lanes as they do over the loops: many
// lanes need fewer each.
func slotCount(s Sizes, slotSize int) int {
	slots := max(ceilPow2(4*s.Threads), slotsMin)
	for slots < slotsWanted && s.Lanes*2*slots*slotSize <= slotsBytesMax {
		slots *= 2
	}
	return slots
}

// newRegion makes a region: a memfd sealed against resizing, so that no side can take memory
// away under the other one.
func newRegion(s Sizes) (*region, error) {
	h, err := layout(s)
	if err != nil {
		return nil, err
	}
	fd, err := memfd("gophersnake-lanes")
	if err != nil {
		return nil, err
	}
	size := int(h.lanesOff) + s.Lanes*int(h.laneBytes)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("pybridge: sizing a region of %d bytes: %w", size, err)
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("pybridge: sealing a region: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("pybridge: mapping a region of %d bytes: %w", size, err)
	}
	r := &region{fd: fd, mem: mem, head: h}
	*(*regionHead)(unsafe.Pointer(&mem[0])) = h
	r.refs.Store(1)
	return r, nil
}

// memfd makes an anonymous file, not executable where the kernel knows how to say so (6.3).
func memfd(name string) (int, error) {
	const noExecSeal = 8 // MFD_NOEXEC_SEAL
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|noExecSeal)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return -1, fmt.Errorf("pybridge: memfd_create: %w", err)
	}
	return fd, nil
}

// release drops one user; the last one unmaps.
func (r *region) release() {
	if r.refs.Add(-1) != 0 {
		return
	}
	_ = unix.Munmap(r.mem)
	_ = unix.Close(r.fd)
	r.mem = nil
}

func (r *region) word(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[off])) }

// ring wakes the thread that the bell names, if any. Any loop may call it.
func (r *region) ring() {
	bell := r.word(bellOff)
	if atomic.LoadUint32(bell) == 0 {
		return
	}
	id := atomic.SwapUint32(bell, 0)
	if id == 0 || id > r.head.threads {
		return
	}
	word := r.word(wakeOff + (id-1)*lineBytes)
	atomic.AddUint32(word, 1)
	futexWake(word)
}

// futexWake wakes one sleeper. It never blocks, so the scheduler need not know of it.
func futexWake(word *uint32) {
	const wake = 1 // FUTEX_WAKE; shared between processes
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), wake, 1, 0, 0, 0)
}
