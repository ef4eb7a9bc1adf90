package pybridge

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scripted makes a worker that the test plays, and its only lane.
func scripted(t testing.TB, sizes Sizes) (*Scripted, *Lane) {
	t.Helper()
	s, err := NewScripted(1, sizes)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Lane(0)
	t.Cleanup(func() {
		_ = l.doorbell.Close()
		l.Release()
		s.Close()
	})
	return s, l
}

// get is a small request with three headers, as the parser hands it over.
func get() *Request {
	head := []byte("GET /a%20b?x=1 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\n\r\n")
	return &Request{
		Head: head, Method: head[:3], Target: head[4:14], Query: head[11:14], KeepAlive: true,
		Path: []byte("/a b"), RemoteAddr: []byte("192.0.2.1"), RemotePort: 4711,
		Headers: []Header{{head[25:29], head[31:32]}, {head[34:39], head[41:42]},
			{[]byte("X-Of-The-Proxy"), []byte("not in head")}},
	}
}

// mustSubmit submits a request that has to find room.
func mustSubmit(t testing.TB, l *Lane, q *Request) (slot, generation uint32) {
	t.Helper()
	slot, generation, err := l.Submit(q)
	if err != nil {
		t.Fatal(err)
	}
	l.Ring()
	return slot, generation
}

// mustTake begins the request that has to be there.
func mustTake(t testing.TB, s *Scripted) *Taken {
	t.Helper()
	got, err := s.Take(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// mustNext takes the reply that has to be there, and acknowledges it.
func mustNext(t testing.TB, l *Lane) Reply {
	t.Helper()
	var r Reply
	if ok, err := l.Next(&r); !ok || err != nil {
		t.Fatalf("got %v, %v, want a reply", ok, err)
	}
	l.Ack(r.Thread)
	l.FlushAcks()
	return r
}

func TestSubmitCarriesTheRequest(t *testing.T) {
	s, l := scripted(t, usual)
	slot, generation := mustSubmit(t, l, get())
	got := mustTake(t, s)
	if got.Slot != slot || got.Generation != generation || generation == 0 {
		t.Errorf("took %d/%d, submitted %d/%d", got.Slot, got.Generation, slot, generation)
	}
	for _, c := range []struct{ what, got, want string }{
		{"method", got.Method, "GET"}, {"target", got.Target, "/a%20b?x=1"},
		{"path", got.Path, "/a b"}, {"query", got.Query, "x=1"},
		{"address", got.RemoteAddr, "192.0.2.1"},
		{"headers", fmt.Sprint(got.Headers), "[[Host a] [X-One 1] [X-Of-The-Proxy not in head]]"},
		{"the rest", fmt.Sprint(got.KeepAlive, got.HasBody), "true false"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	if !got.Answer("HTTP/1.1 200 OK\r\n\r\n") {
		t.Fatal("no room for the answer")
	}
	r := mustNext(t, l)
	if r.Slot != slot || r.Generation != generation || r.Flags != ReplyLast || r.Status != 200 ||
		string(r.Data) != "HTTP/1.1 200 OK\r\n\r\n" {
		t.Errorf("got %+v with %q", r, r.Data)
	}
	if l.InFlight() != 0 {
		t.Errorf("%d in flight", l.InFlight())
	}
}

func TestFlagsOfRequests(t *testing.T) {
	_, l := scripted(t, usual)
	for _, c := range []struct {
		q    Request
		want uint32
	}{
		{Request{}, 0},
		{Request{HTTP10: true}, flagHTTP10},
		{Request{KeepAlive: true}, flagKeepAlive},
		{Request{IsHead: true}, flagHead},
		{Request{HasBody: true}, flagBody},
		{Request{HasBody: true, Body: make([]byte, inlineBodyBytes+1)}, flagBody | flagBodyArena},
		{Request{HTTP10: true, KeepAlive: true, IsHead: true}, flagHTTP10 | flagKeepAlive | flagHead},
	} {
		slot, _ := mustSubmit(t, l, &c.q)
		if got := (*slotHead)(l.slot(slot)).flags; got != c.want {
			t.Errorf("%+v: flags %#x, want %#x", c.q, got, c.want)
		}
	}
}

// bodySizes are around every border of where a body goes.
var bodySizes = []int{ // never written to
	0, 1, inlineBodyBytes - 1, inlineBodyBytes, inlineBodyBytes + 1, arenaBlockBytes - 1,
	arenaBlockBytes, arenaBlockBytes + 1, 1 << 20, 64*arenaBlockBytes - 1, 64 * arenaBlockBytes,
}

func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestBodies(t *testing.T) {
	s, l := scripted(t, usual)
	for _, size := range bodySizes {
		q := get()
		q.HasBody, q.Body = true, randomBytes(size, uint64(size))
		slot, _ := mustSubmit(t, l, q)
		got := mustTake(t, s)
		if !got.HasBody || !bytes.Equal(got.Body, q.Body) {
			t.Errorf("%d bytes: %d arrived, or others", size, len(got.Body))
		}
		if got.Path != "/a b" || len(got.Headers) != 3 {
			t.Errorf("%d bytes: path %q, headers %q", size, got.Path, got.Headers)
		}
		head, body, hasBody := l.Recover(slot, nil)
		if !hasBody || !bytes.Equal(head, q.Head) || !bytes.Equal(body, q.Body) {
			t.Errorf("%d bytes: recovered %q and %d bytes", size, head, len(body))
		}
		got.Answer("x")
		mustNext(t, l)
	}
	if l.arena != ^uint64(0) {
		t.Errorf("arena blocks leaked: %064b are free", l.arena)
	}
}

// bellFD lets body files be passed, as the loop does once it has enrolled the doorbell.
func bellFD(t testing.TB, l *Lane) {
	t.Helper()
	raw, err := l.doorbell.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { l.SetDoorbellFD(int(fd)) }); err != nil {
		t.Fatal(err)
	}
}

func tempFile(t testing.TB, content string) *os.File {
	t.Helper()
	f, err := sealed("body", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestBodyFiles(t *testing.T) {
	s, l := scripted(t, usual)
	bellFD(t, l)
	submit := func(content string) (uint32, uint32) {
		q := get()
		q.HasBody, q.BodyFile, q.BodyLen = true, tempFile(t, content), int64(len(content))
		return mustSubmit(t, l, q)
	}
	take := func(want string) {
		t.Helper()
		got := mustTake(t, s)
		b := make([]byte, got.BodyLen)
		if got.BodyFile == nil {
			t.Fatalf("no file; want %q", want)
		}
		_, err := got.BodyFile.ReadAt(b, 0)
		_ = got.BodyFile.Close()
		if err != nil || string(b) != want {
			t.Errorf("got %q, %v, want %q", b, err, want)
		}
		got.Answer("x")
	}
	submit("one")
	submit("two")
	take("one")
	take("two")
	// A request that was taken back leaves its file in the doorbell, before that of the next
	// request in the same slot, which is another client's.
	mustNext(t, l)
	mustNext(t, l)
	slot, generation := submit("a stranger's")
	if !l.Cancel(slot, generation) {
		t.Fatal("cannot be taken back")
	}
	if again, _ := submit("mine"); again != slot {
		t.Fatalf("slot %d, want %d again", again, slot)
	}
	take("mine")
	mustNext(t, l)
}

func TestSubmitWithoutDoorbell(t *testing.T) {
	_, l := scripted(t, usual)
	q := get()
	q.HasBody, q.BodyFile = true, tempFile(t, "x")
	if _, _, err := l.Submit(q); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v, want EBADF", err)
	}
	if l.InFlight() != 0 || len(l.free) != l.Slots() {
		t.Errorf("%d in flight, %d free", l.InFlight(), len(l.free))
	}
}

// TestFileQueueIsBounded: a worker that does not take its files makes the lane full, no more.
func TestFileQueueIsBounded(t *testing.T) {
	s, l := scripted(t, usual)
	bellFD(t, l)
	q := get()
	q.HasBody, q.BodyFile, q.BodyLen = true, tempFile(t, "x"), 1
	n := 0
	for ; n < 10000; n++ {
		slot, generation, err := l.Submit(q)
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || !l.Cancel(slot, generation) {
			t.Fatalf("%v, or cannot be taken back", err)
		}
	}
	if n == 10000 {
		t.Fatal("10000 files wait in a doorbell")
	}
	if l.InFlight() != 0 || !l.HasRoom() {
		t.Fatalf("%d in flight", l.InFlight())
	}
	slot, _ := mustSubmit(t, l, get()) // what needs no file goes on
	if got := mustTake(t, s); got.Slot != slot {
		t.Errorf("took slot %d, want %d", got.Slot, slot)
	}
}

func TestSubmitTooLarge(t *testing.T) {
	_, l := scripted(t, Sizes{Lanes: 1, Threads: 1, HeadBytesMax: 1000, HeaderCountMax: 10})
	huge := bytes.Repeat([]byte("x"), 1<<16)
	for what, change := range map[string]func(*Request){
		"head":         func(q *Request) { q.Head = huge },
		"head alone":   func(q *Request) { *q = Request{Head: huge} },
		"path":         func(q *Request) { q.Path = huge },
		"method":       func(q *Request) { q.Method = huge },
		"query":        func(q *Request) { q.Query = huge },
		"address":      func(q *Request) { q.RemoteAddr = huge },
		"header name":  func(q *Request) { q.Headers[0].Name = huge },
		"header value": func(q *Request) { q.Headers[2].Value = huge },
		"header count": func(q *Request) { q.Headers = make([]Header, 10000) },
	} {
		q := get()
		q.HasBody, q.Body = true, []byte("body")
		change(q)
		if _, _, err := l.Submit(q); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want ErrTooLarge", what, err)
		}
	}
	if l.InFlight() != 0 || len(l.free) != l.Slots() {
		t.Errorf("%d in flight, %d free", l.InFlight(), len(l.free))
	}
}

// TestSubmitFillsASlotExactly: the largest head that layout allows for, with nothing of it aliased,
// leaves an inline body alone.
func TestSubmitFillsASlotExactly(t *testing.T) {
	s, l := scripted(t, Sizes{Lanes: 1, Threads: 1, HeadBytesMax: 1000, HeaderCountMax: 10})
	body := randomBytes(inlineBodyBytes, 1)
	for n := 900; n < 3000; n++ {
		q := &Request{Path: bytes.Repeat([]byte("p"), n), HasBody: true, Body: body}
		slot, generation, err := l.Submit(q)
		if errors.Is(err, ErrTooLarge) && n > 2000 {
			return
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		got := mustTake(t, s)
		if len(got.Path) != n || !bytes.Equal(got.Body, body) {
			t.Fatalf("%d bytes: path of %d, or the body changed", n, len(got.Path))
		}
		if got.Slot != slot || got.Generation != generation || !got.Answer("x") {
			t.Fatal("no answer")
		}
		mustNext(t, l)
	}
	t.Error("a path of 3000 bytes found room")
}

func TestFull(t *testing.T) {
	s, l := scripted(t, usual)
	for range l.Slots() {
		if !l.HasRoom() {
			t.Fatal("no room before all slots are used")
		}
		mustSubmit(t, l, get())
	}
	if l.HasRoom() || l.InFlight() != l.Slots() {
		t.Errorf("room: %v, %d in flight", l.HasRoom(), l.InFlight())
	}
	if _, _, err := l.Submit(get()); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	mustTake(t, s).Answer("x")
	mustNext(t, l)
	mustSubmit(t, l, get())
}

func TestArenaFull(t *testing.T) {
	s, l := scripted(t, usual)
	big := get()
	big.HasBody, big.Body = true, make([]byte, 40*arenaBlockBytes)
	mustSubmit(t, l, big)
	if _, _, err := l.Submit(big); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
	mustSubmit(t, l, get()) // what needs no arena goes on
	for range 2 {
		mustTake(t, s).Answer("x")
		mustNext(t, l)
	}
	mustSubmit(t, l, big)
	small := get()
	small.HasBody, small.Body = true, make([]byte, 64*arenaBlockBytes+1)
	if _, _, err := l.Submit(small); !errors.Is(err, ErrFull) {
		t.Errorf("a body that never fits: got %v, want ErrFull", err)
	}
}

// TestArenaModel allocates and frees at random beside a model that remembers owners: no block has
// two, and none is refused while enough neighbours are free.
func TestArenaModel(t *testing.T) {
	_, l := scripted(t, usual)
	const seed = 1
	r := rand.New(rand.NewPCG(seed, 0))
	var owner [64]int // 0 nobody, else 1 + slot
	freeRun := func(n int) bool {
		run := 0
		for _, o := range owner {
			if run++; o != 0 {
				run = 0
			}
			if run == n {
				return true
			}
		}
		return false
	}
	for step := range 200000 {
		slot := r.IntN(l.Slots())
		if p := l.arenaAt[slot]; p.count > 0 {
			l.inFlight, l.busy[slot] = l.inFlight+1, true
			l.giveBack(uint32(slot))
			l.free = l.free[:len(l.free)-1]
			for i := range owner {
				if owner[i] == 1+slot {
					owner[i] = 0
				}
			}
			continue
		}
		size := 1 + r.IntN(1<<r.IntN(23))
		count := (size + arenaBlockBytes - 1) / arenaBlockBytes
		first, ok := l.takeArena(uint32(slot), size)
		if ok != freeRun(count) {
			t.Fatalf("step %d (seed %d): %d blocks: got %v, want %v", step, seed, count, ok, !ok)
		}
		for i := first; ok && i < first+count; i++ {
			if i >= 64 || owner[i] != 0 {
				t.Fatalf("step %d (seed %d): block %d has two owners", step, seed, i)
			}
			owner[i] = 1 + slot
		}
	}
}

func TestCancel(t *testing.T) {
	s, l := scripted(t, usual)
	slot, generation := mustSubmit(t, l, get())
	if l.Taken(slot) || l.Cancel(slot, generation+1) {
		t.Error("another generation was taken back")
	}
	if !l.Cancel(slot, generation) || l.Cancel(slot, generation) {
		t.Error("not taken back once")
	}
	if l.InFlight() != 0 || len(l.free) != l.Slots() {
		t.Errorf("%d in flight, %d free", l.InFlight(), len(l.free))
	}
	if _, err := s.Take(time.Millisecond); !errors.Is(err, ErrNone) {
		t.Errorf("a request that was taken back: got %v, want ErrNone", err)
	}
	slot, generation = mustSubmit(t, l, get())
	got := mustTake(t, s)
	if !l.Taken(slot) || l.Cancel(slot, generation) {
		t.Error("taken back after a thread had begun it")
	}
	got.Answer("x")
	mustNext(t, l)
	// A worker that marks an answered request as queued again gains nothing by it.
	state := &(*slotHead)(l.slot(slot)).state
	atomic.StoreUint32(state, generation<<slotGenerationShift|slotQueued)
	if l.Cancel(slot, generation) || len(l.free) != l.Slots() || l.InFlight() != 0 {
		t.Errorf("taken back after its answer: %d free, %d in flight", len(l.free), l.InFlight())
	}
}

// TestCancelTrustsNoState: a state word that names another use of the slot frees nothing.
func TestCancelTrustsNoState(t *testing.T) {
	s, l := scripted(t, usual)
	slot, generation := mustSubmit(t, l, get())
	mustTake(t, s)
	state := &(*slotHead)(l.slot(slot)).state
	atomic.StoreUint32(state, (generation-1)<<slotGenerationShift|slotQueued)
	if l.Cancel(slot, generation-1) || l.InFlight() != 1 {
		t.Errorf("taken back by its generation before; %d in flight", l.InFlight())
	}
}

// TestCancelOrTaken: exactly one side wins a request, however the threads interleave.
func TestCancelOrTaken(t *testing.T) {
	s, l := scripted(t, usual)
	const each = 1000 // wins of either side before the test ends
	const seed = 3
	random := rand.New(rand.NewPCG(seed, 0))
	var taken atomic.Int32
	var done sync.WaitGroup
	stop := make(chan struct{})
	done.Go(func() {
		for {
			if got, err := s.Take(time.Millisecond); err == nil {
				taken.Add(1)
				got.Answer("x")
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	cancelled, answered := int32(0), int32(0)
	deadline := time.Now().Add(20 * time.Second)
	for (cancelled < each || answered < each || l.InFlight() > 0) && time.Now().Before(deadline) {
		slot, generation, err := l.Submit(get())
		l.Ring()
		for range random.IntN(3000) { // the thread's way to the request takes as long
			_ = l.Taken(slot)
		}
		if err == nil && l.Cancel(slot, generation) {
			cancelled++
		}
		answered += collectAll(t, l)
	}
	close(stop)
	done.Wait()
	answered += collectAll(t, l)
	if got := taken.Load(); got != answered || cancelled < each || answered < each {
		t.Errorf("%d taken, %d answered, %d taken back (seed %d)", got, answered, cancelled, seed)
	}
}

// collectAll takes and acknowledges the replies that are there.
func collectAll(t *testing.T, l *Lane) (n int32) {
	t.Helper()
	var r Reply
	for {
		ok, err := l.Next(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			l.FlushAcks()
			return n
		}
		l.Ack(r.Thread)
		n++
	}
}

// TestTakenBackKeepsOthers: a queued request is not lost, however many others are submitted and
// taken back before a thread looks at it. Their entries stay in the ring, which has as many
// places as there are slots: the lane says that it is full before it overwrites one that waits.
func TestTakenBackKeepsOthers(t *testing.T) {
	s, l := scripted(t, usual)
	waits, _ := mustSubmit(t, l, get())
	full := false
	for range 10 * l.Slots() {
		if room := l.HasRoom(); !room {
			full = true
		}
		slot, generation, err := l.Submit(get())
		if full != errors.Is(err, ErrFull) {
			t.Fatalf("room %v, but Submit says %v", !full, err)
		}
		if full {
			break
		}
		if !l.Cancel(slot, generation) {
			t.Fatal("cannot be taken back")
		}
	}
	if !full {
		t.Error("the ring was overrun")
	}
	if got := mustTake(t, s); got.Slot != waits {
		t.Errorf("took slot %d, want %d", got.Slot, waits)
	}
	if !l.HasRoom() {
		t.Error("no room after the request that was in the way has been taken")
	}
	mustSubmit(t, l, get())
	mustTake(t, s)
}

// TestTakenBackLeaveRoom: entries of requests that were taken back may be overwritten.
func TestTakenBackLeaveRoom(t *testing.T) {
	_, l := scripted(t, usual)
	generations := make([]uint32, l.Slots())
	for round := range 3 {
		for n := range generations {
			slot, generation, err := l.Submit(get())
			if err != nil {
				t.Fatalf("round %d, request %d: %v", round, n, err)
			}
			generations[slot] = generation
		}
		for slot, generation := range generations {
			if !l.Cancel(uint32(slot), generation) {
				t.Fatalf("slot %d cannot be taken back", slot)
			}
		}
	}
}

// TestOldest: what waits comes in the order of Submit, whatever the slots, and without what ended,
// was taken back or passed over.
func TestOldest(t *testing.T) {
	s, l := scripted(t, usual)
	if slot, ok := l.Oldest(); ok {
		t.Fatalf("an empty lane: got slot %d", slot)
	}
	for round := range 3 * l.Slots() { // round the ring, with slots used again
		var order []uint32
		generations := map[uint32]uint32{}
		for range 5 {
			slot, generation := mustSubmit(t, l, get())
			order, generations[slot] = append(order, slot), generation
		}
		ended, running := mustTake(t, s), mustTake(t, s)
		ended.Answer("x")
		mustNext(t, l)
		skip := map[uint32]bool{ended.Slot: true, running.Slot: true}
		for n, slot := range order {
			if skip[slot] {
				continue
			}
			for got, ok := l.Oldest(); got != slot; got, ok = l.Oldest() {
				if !ok || got != running.Slot {
					t.Fatalf("round %d, request %d: got slot %d, %v, want %d", round, n, got, ok,
						slot)
				}
				l.Pass()
			}
			if !l.Cancel(slot, generations[slot]) {
				t.Fatal("cannot be taken back")
			}
		}
		running.Answer("x")
		mustNext(t, l)
		if slot, ok := l.Oldest(); ok {
			t.Fatalf("round %d: got slot %d, want none", round, slot)
		}
	}
}

func TestSleep(t *testing.T) {
	s, l := scripted(t, usual)
	mustSubmit(t, l, get())
	if !l.Sleep() {
		t.Fatal("cannot sleep although nothing waits")
	}
	mustTake(t, s).Answer("x")
	b := make([]byte, 8)
	_ = l.doorbell.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := l.doorbell.Read(b); n != 1 || err != nil {
		t.Fatalf("doorbell: %d bytes, %v", n, err)
	}
	if l.Sleep() {
		t.Error("sleeps although a reply waits")
	}
	if *l.region.word(l.base + asleepOff) != 0 {
		t.Error("awake, but marked asleep")
	}
	mustNext(t, l)
}

// TestAcksAreCounted: in order, by thread, and only when flushed.
func TestAcksAreCounted(t *testing.T) {
	_, l := scripted(t, usual)
	count := func(thread uint32) uint32 {
		return *l.region.word(l.base + acksOff + thread*lineBytes + ackCountOff)
	}
	l.Ack(0)
	l.Ack(3)
	l.Ack(3)
	if count(0) != 0 || count(3) != 0 {
		t.Error("published before they were flushed")
	}
	l.FlushAcks()
	l.FlushAcks()
	if count(0) != 1 || count(1) != 0 || count(3) != 2 {
		t.Errorf("got %d, %d, %d, want 1, 0, 2", count(0), count(1), count(3))
	}
}

// TestNextRefuses guards invariant 4: a worker that breaks the format is found out, whichever
// field it is.
func TestNextRefuses(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func(l *Lane, e *replyEntry)
	}{
		{"slot = count", func(l *Lane, e *replyEntry) { e.slot = l.region.head.slots }},
		{"slot = max", func(_ *Lane, e *replyEntry) { e.slot = ^uint32(0) }},
		{"slot not in flight", func(_ *Lane, e *replyEntry) { e.slot++ }},
		{"generation before", func(_ *Lane, e *replyEntry) { e.generation-- }},
		{"generation after", func(_ *Lane, e *replyEntry) { e.generation++ }},
		{"generation with high bits", func(_ *Lane, e *replyEntry) { e.generation |= 1 << 30 }},
		{"thread = count", func(_ *Lane, e *replyEntry) { e.thread = 4 }},
		{"thread = max", func(_ *Lane, e *replyEntry) { e.thread = ^uint32(0) }},
		{"off behind the ring", func(_ *Lane, e *replyEntry) { e.off, e.len = responseBytes+1, 0 }},
		{"off = max", func(_ *Lane, e *replyEntry) { e.off = ^uint32(0) }},
		{"len too long", func(_ *Lane, e *replyEntry) { e.len = responseBytes + 1 }},
		{"len = max", func(_ *Lane, e *replyEntry) { e.len = ^uint32(0) }},
		{"len beyond the end", func(_ *Lane, e *replyEntry) { e.off, e.len = responseBytes-1, 2 }},
		{"sum that wraps", func(_ *Lane, e *replyEntry) { e.off, e.len = 64, ^uint32(0)-32 }},
		{"tail jumps", func(l *Lane, _ *replyEntry) {
			*l.region.word(l.base + repTailOff) = l.region.head.replies + 1
		}},
		{"tail goes back", func(l *Lane, _ *replyEntry) {
			*l.region.word(l.base + repTailOff) = ^uint32(0)
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			s, l := scripted(t, usual)
			mustSubmit(t, l, get())
			got := mustTake(t, s)
			e := replyEntry{slot: got.Slot, generation: got.Generation, thread: got.Thread, len: 1}
			s.mu.Lock()
			s.write(0, e)
			s.mu.Unlock()
			at := l.base + l.region.head.repliesOff
			c.spoil(l, (*replyEntry)(unsafe.Pointer(&l.region.mem[at])))
			var r Reply
			if ok, err := l.Next(&r); ok || !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, %v with %+v, want ErrCorrupt", ok, err, r)
			}
			if l.InFlight() != 1 {
				t.Errorf("%d in flight, want 1", l.InFlight())
			}
		})
	}
}

// TestNextRefusesASecondEnd: a request has one last reply.
func TestNextRefusesASecondEnd(t *testing.T) {
	s, l := scripted(t, usual)
	mustSubmit(t, l, get())
	got := mustTake(t, s)
	got.Answer("x")
	got.Answer("x")
	mustNext(t, l)
	var r Reply
	if ok, err := l.Next(&r); ok || !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, %v, want ErrCorrupt", ok, err)
	}
	if l.InFlight() != 0 || len(l.free) != l.Slots() {
		t.Errorf("%d in flight, %d free", l.InFlight(), len(l.free))
	}
}

// TestNextTakesTheBorders: what lies just inside the rules is taken.
func TestNextTakesTheBorders(t *testing.T) {
	s, l := scripted(t, usual)
	for _, c := range []struct{ thread, off, len uint32 }{
		{0, 0, 0}, {3, 0, responseBytes}, {3, responseBytes, 0}, {1, responseBytes - 1, 1},
	} {
		mustSubmit(t, l, get())
		got := mustTake(t, s)
		s.mu.Lock()
		s.idle = append(s.idle, got.Thread)
		s.write(0, replyEntry{slot: got.Slot, generation: got.Generation, thread: c.thread,
			off: c.off, len: c.len, flags: ReplyLast})
		s.mu.Unlock()
		if r := mustNext(t, l); len(r.Data) != int(c.len) || cap(r.Data) != int(c.len) {
			t.Errorf("%+v: got %d bytes of %d", c, len(r.Data), cap(r.Data))
		}
	}
	var r Reply
	if ok, err := l.Next(&r); ok || err != nil {
		t.Errorf("got %v, %v from an empty ring", ok, err)
	}
}

// TestSlotsAreReused: a late reply for the request before finds another generation.
func TestSlotsAreReused(t *testing.T) {
	s, l := scripted(t, usual)
	first, before := mustSubmit(t, l, get())
	mustTake(t, s).Answer("x")
	mustNext(t, l)
	second, after := mustSubmit(t, l, get())
	if first != second || before == after {
		t.Fatalf("slots %d, %d, generations %d, %d", first, second, before, after)
	}
	got := mustTake(t, s)
	got.Generation = before
	got.Answer("late")
	var r Reply
	if ok, err := l.Next(&r); ok || !errors.Is(err, ErrCorrupt) {
		t.Errorf("a second answer to the first request: got %v, %v, want ErrCorrupt", ok, err)
	}
}

func TestGenerationWraps(t *testing.T) {
	s, l := scripted(t, usual)
	for i := range l.gens {
		l.gens[i] = 1<<30 - 2
	}
	for _, want := range []uint32{1<<30 - 1, 0, 1} {
		_, generation := mustSubmit(t, l, get())
		if got := mustTake(t, s); generation != want || got.Generation != want {
			t.Errorf("generation %d, the worker sees %d, want %d", generation, got.Generation, want)
		} else {
			got.Answer("x")
		}
		mustNext(t, l)
	}
}

// TestCountersWrap: rings go on through 2^32.
func TestCountersWrap(t *testing.T) {
	s, l := scripted(t, usual)
	const near = ^uint32(0) - 70
	l.reqTail, l.repHead = near, near
	s.reqHead[0], s.repNext[0] = near, near
	*l.region.word(l.base + reqTailOff) = near
	*l.region.word(l.base + repTailOff) = near
	for range 200 {
		slot, _ := mustSubmit(t, l, get())
		got := mustTake(t, s)
		if got.Slot != slot || !got.Answer("x") {
			t.Fatalf("took slot %d, want %d", got.Slot, slot)
		}
		mustNext(t, l)
	}
}

// exchange is one request through the lane without a worker's help: what the loop does.
func exchange(l *Lane, q *Request) error {
	slot, generation, err := l.Submit(q)
	if err != nil {
		return err
	}
	l.Ring()
	s := (*slotHead)(l.slot(slot))
	atomic.StoreUint32(&s.state, generation<<slotGenerationShift|slotTaken)
	h := &l.region.head
	at := l.base + h.repliesOff + (l.repHead&(h.replies-1))*uint32(unsafe.Sizeof(replyEntry{}))
	*(*replyEntry)(unsafe.Pointer(&l.region.mem[at])) = replyEntry{slot: slot,
		generation: generation, flags: ReplyLast, len: 100, status: 200}
	atomic.AddUint32(l.region.word(l.base+repTailOff), 1)
	var r Reply
	if ok, err := l.Next(&r); !ok || err != nil {
		return fmt.Errorf("no reply: %w", err)
	}
	l.Ack(r.Thread)
	l.FlushAcks()
	return nil
}

// TestNoAllocations: the loop's side of a request makes no garbage.
func TestNoAllocations(t *testing.T) {
	_, l := scripted(t, usual)
	withBody := get()
	withBody.HasBody, withBody.Body = true, make([]byte, 100)
	inArena := get()
	inArena.HasBody, inArena.Body = true, make([]byte, 100000)
	for what, q := range map[string]*Request{"": get(), "body": withBody, "arena": inArena} {
		allocs := testing.AllocsPerRun(1000, func() {
			if err := exchange(l, q); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a request", what, allocs)
		}
	}
}

func BenchmarkLane(b *testing.B) {
	_, l := scripted(b, usual)
	q := get()
	b.ReportAllocs()
	for b.Loop() {
		if err := exchange(l, q); err != nil {
			b.Fatal(err)
		}
	}
}
