package pybridge

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// usual are the sizes that most tests use.
var usual = Sizes{ // never written to
	Lanes: 1, Threads: 4, HeadBytesMax: 32 << 10, HeaderCountMax: 100, BodyArenaBytes: 4 << 20,
}

func TestLayoutRefuses(t *testing.T) {
	for _, change := range []struct {
		what string
		make func(*Sizes)
	}{
		{"no lane", func(s *Sizes) { s.Lanes = 0 }},
		{"65 lanes", func(s *Sizes) { s.Lanes = 65 }},
		{"no thread", func(s *Sizes) { s.Threads = 0 }},
		{"257 threads", func(s *Sizes) { s.Threads = 257 }},
		{"a negative arena", func(s *Sizes) { s.BodyArenaBytes = -arenaBlockBytes }},
		{"half an arena block", func(s *Sizes) { s.BodyArenaBytes = arenaBlockBytes / 2 }},
		{"65 arena blocks", func(s *Sizes) { s.BodyArenaBytes = 65 * arenaBlockBytes }},
		{"a negative head", func(s *Sizes) { s.HeadBytesMax = -1 }},
		{"an endless head", func(s *Sizes) { s.HeadBytesMax = 1 << 40 }},
		{"fewer than no headers", func(s *Sizes) { s.HeaderCountMax = -1 }},
		{"endless headers", func(s *Sizes) { s.HeaderCountMax = 1 << 40 }},
		{"more than 4 GiB", func(s *Sizes) { s.Lanes, s.Threads = 64, 256 }},
	} {
		s := usual
		change.make(&s)
		if h, err := layout(s); err == nil {
			t.Errorf("%s: got %+v, want an error", change.what, h)
		}
	}
}

// TestLayoutParts checks every size that is possible against the rules of shim/lane.h: no part
// overlaps the next one, and each word stands where atomics and futexes need it.
func TestLayoutParts(t *testing.T) {
	for _, lanes := range []int{1, 2, 64} {
		for threads := 1; threads <= threadsMax; threads++ {
			for _, head := range []int{0, 1, 32 << 10, 1 << 20} {
				for _, arena := range []int{0, 1, 64} {
					s := Sizes{Lanes: lanes, Threads: threads, HeadBytesMax: head,
						HeaderCountMax: head / 300, BodyArenaBytes: arena * arenaBlockBytes}
					if h, err := layout(s); err == nil {
						checkParts(t, s, &h)
					} else if lanes*threads <= 64 && head <= 32<<10 {
						t.Errorf("%+v: %v", s, err)
					}
				}
			}
		}
	}
}

func checkParts(t *testing.T, s Sizes, h *regionHead) {
	t.Helper()
	slots, threads := uint64(h.slots), uint64(h.threads)
	parts := []struct {
		name       string
		off, bytes uint64
	}{
		{"acks", acksOff, threads * lineBytes},
		{"requests", uint64(h.requestsOff), slots * 4},
		{"replies", uint64(h.repliesOff), uint64(h.replies) * uint64(unsafe.Sizeof(replyEntry{}))},
		{"slots", uint64(h.slotsOff), slots * uint64(h.slotBytes)},
		{"arena", uint64(h.arenaOff), uint64(h.arenaBytes)},
		{"responses", uint64(h.responsesOff), threads * uint64(h.responseBytes)},
		{"end", uint64(h.laneBytes), 0},
	}
	bad := func(what string) { t.Errorf("%+v: %s in %+v", s, what, *h) }
	for i := 1; i < len(parts); i++ {
		if end := parts[i-1].off + parts[i-1].bytes; end > parts[i].off {
			bad(fmt.Sprintf("%s overlap %s", parts[i-1].name, parts[i].name))
		}
		if parts[i].off%pageBytes != 0 {
			bad(parts[i].name + " do not begin a page")
		}
	}
	if uint64(h.lanesOff)+uint64(h.lanes)*uint64(h.laneBytes) > 1<<32-1 {
		bad("offsets above 32 bits")
	}
	if uint64(h.lanesOff) < wakeOff+threads*lineBytes {
		bad("wake words overlap lane 0")
	}
	if h.slots&(h.slots-1) != 0 || h.replies&(h.replies-1) != 0 || h.slots > slotsMax ||
		h.repliesPerThread&(h.repliesPerThread-1) != 0 {
		bad("rings are no powers of two")
	}
	if uint64(h.repliesPerThread)*threads > uint64(h.replies) {
		bad("the reply ring is too short")
	}
	if need := int(unsafe.Sizeof(slotHead{})) + s.HeaderCountMax*16 + 2*s.HeadBytesMax +
		remoteAddrMax + inlineBodyBytes; int(h.slotBytes) < need {
		bad("slots are too small")
	}
	if h.slotBytes%lineBytes != 0 || h.slotBytes/lineBytes%2 == 0 {
		bad("slots do not begin in different cache sets")
	}
}

// TestSlotCount: a slot for each client that is likely to ask at the same time, but no more than fit
// into the bound for all lanes, and never fewer than keep the threads busy.
func TestSlotCount(t *testing.T) {
	for _, c := range []struct{ lanes, threads, head, want int }{
		{1, 1, 32 << 10, 512},
		{1, 4, 32 << 10, 512},
		{5, 4, 32 << 10, 512},
		{8, 4, 32 << 10, 256},
		{64, 4, 32 << 10, 64},
		{1, 4, 1 << 20, 64},
		{1, 4, 1 << 24, 64},
		{64, 32, 32 << 10, 128},
		{1, 256, 32 << 10, 1024},
	} {
		s := usual
		s.Lanes, s.Threads, s.HeadBytesMax = c.lanes, c.threads, c.head
		h, err := layout(s)
		if err != nil && c.head < 1<<24 {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil && int(h.slots) != c.want {
			t.Errorf("%+v: got %d slots", c, h.slots)
		}
	}
}

// TestRegionIsSealed: no side can take memory away under the other one, or add some.
func TestRegionIsSealed(t *testing.T) {
	r, err := newRegion(usual)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	for _, size := range []int64{0, int64(len(r.mem)) - 1, int64(len(r.mem)) + 1} {
		if err := unix.Ftruncate(r.fd, size); err != unix.EPERM {
			t.Errorf("resizing to %d bytes: %v, want EPERM", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(r.fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err == nil {
		t.Error("a seal could be added")
	}
}

// TestRegionLivesAsLongAsItsUsers: lanes keep it after their worker has gone.
func TestRegionLivesAsLongAsItsUsers(t *testing.T) {
	r, err := newRegion(usual)
	if err != nil {
		t.Fatal(err)
	}
	a, b := newLane(r, nil, 0, nil, nil), newLane(r, nil, 0, nil, nil)
	r.release()
	a.Release()
	if r.mem == nil {
		t.Fatal("unmapped although a lane uses it")
	}
	b.Release()
	if r.mem != nil {
		t.Fatal("still mapped")
	}
}

// TestRingTrustsNoBell: whatever the worker writes there, only a thread's word is touched.
func TestRingTrustsNoBell(t *testing.T) {
	r, err := newRegion(usual)
	if err != nil {
		t.Fatal(err)
	}
	defer r.release()
	for _, id := range []uint32{0, 1, 4, 5, 257, 1 << 31, ^uint32(0)} {
		*r.word(bellOff) = id
		before := wakes(r)
		r.ring()
		want := uint32(0)
		if id >= 1 && id <= 4 {
			want = 1
		}
		if got := wakes(r) - before; got != want {
			t.Errorf("bell %d: %d threads woken, want %d", id, got, want)
		}
		if *r.word(bellOff) != 0 {
			t.Errorf("bell %d was not taken", id)
		}
	}
}

// wakes sums all words between the wake words' begin and the first lane, whosoever they are.
func wakes(r *region) (sum uint32) {
	for off := uint32(wakeOff); off < r.head.lanesOff; off += lineBytes {
		sum += *r.word(off)
	}
	return sum
}
