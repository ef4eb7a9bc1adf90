package loop

import (
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gophersnake/pybridge"
)

// --max-body, exactly, before the body is read and when a chunk crosses it (R7).
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	const most = 3_000_000 // in a temporary file
	g := newRig(t, func(c *Config) { c.Limits.BodyBytesMax = most })
	g.serve(g.worker(), func(r *pybridge.Taken) string {
		n := int64(len(r.Body))
		if r.BodyFile != nil {
			n = r.BodyLen
			_ = r.BodyFile.Close()
		}
		return ok(fmt.Sprint(n))
	})
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, n := range []int{most - 1, most} {
		p := g.dial()
		p.send(head, fmt.Sprintf("Content-Length: %d\r\n\r\n", n), strings.Repeat("x", n))
		p.want(200, fmt.Sprint(n))
		p.send(head, "Transfer-Encoding: chunked\r\n\r\n")
		p.send(fmt.Sprintf("%x\r\n%s\r\n1\r\ny\r\n0\r\n\r\n", n-1, strings.Repeat("x", n-1)))
		p.want(200, fmt.Sprint(n))
	}
	p := g.dial()
	p.send(head, fmt.Sprintf("Content-Length: %d\r\n\r\n", most+1)) // not a byte of it
	p.want(413, "")
	p.wantClosed()
	p = g.dial()
	p.send(head, "Transfer-Encoding: chunked\r\n\r\n")
	p.send(fmt.Sprintf("%x\r\n%s\r\n2\r\n", most-1, strings.Repeat("x", most-1)))
	p.want(413, "")
	p.wantClosed()
	g.wantTold("max-body", 2)
	if !strings.Contains(g.log.text(), "INFO") {
		t.Error("log: want max-body at info")
	}
}

// wantTold waits until the log tells that a limit was reached so many times. A line that names a
// client is about it and those skipped before; the others sum up.
func (g *rig) wantTold(limit string, want int) {
	g.t.Helper()
	lines := regexp.MustCompile(`limit=` + limit + ` (.*client=)?.*more=(\d+)`)
	got := 0
	g.eventually("every refusal to be told of", func() bool {
		got = 0
		for _, m := range lines.FindAllStringSubmatch(g.log.text(), -1) {
			more, _ := strconv.Atoi(m[2])
			if got += more; m[1] != "" {
				got++
			}
		}
		return got >= want
	})
	if got > want {
		g.t.Errorf("the log tells of %d times, want %d", got, want)
	}
}

// The log names a limit at most once a second, and counts the rest.
func TestLimitLogIsBounded(t *testing.T) {
	t.Parallel()
	const refusals = 50
	g := newRig(t, func(c *Config) { c.Limits.BodyBytesMax = 1 })
	begun := time.Now()
	for range refusals {
		p := g.dial()
		p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n")
		p.want(413, "")
		_ = p.Close()
	}
	g.wantTold("max-body", refusals)
	most := 2 + int(time.Since(begun)/noteEvery)
	if n := g.log.count("limit=max-body"); n > most {
		t.Errorf("lines: got %d for %d refusals, want one a second, %d", n, refusals, most)
	}
}

// TO-15 as a client sends it: a million one-byte chunks are refused, larger chunks are not.
func TestChunkOverhead(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.serve(g.worker(), func(r *pybridge.Taken) string { return ok(fmt.Sprint(len(r.Body))) })
	p := g.dial()
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	p.send(head, strings.Repeat("a\r\n0123456789\r\n", 100_000), "0\r\n\r\n")
	p.want(200, "1000000")
	p.send(head)
	go func() { _, _ = io.WriteString(p.TCPConn, strings.Repeat("1\r\nx\r\n", 1_000_000)) }()
	p.want(400, "")
}

// TO-16: no content coding is ever undone.
func TestEncodedBodyIsUntouched(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	body := "\x1f\x8b\x08\x00 not even gzip"
	p.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d"+
		"\r\n\r\n%s", len(body), body))
	r := g.take(w)
	if string(r.Body) != body {
		t.Errorf("body: got %q, want %q", r.Body, body)
	}
	r.Answer(ok(""))
	p.want(200, "")
}

// --max-pipelined, exactly: beyond it the request at hand is the last one that is answered, and
// nothing of what came behind it runs.
func TestPipelineLimit(t *testing.T) {
	t.Parallel()
	const most = 10_000
	second := "GET /second HTTP/1.1\r\nHost: a\r\nX: "
	second += strings.Repeat("x", most-len(second)-4) + "\r\n\r\n"
	for _, more := range []int{0, 1} {
		for _, how := range []string{"at once", "later", "in pieces"} {
			t.Run(fmt.Sprint(how, more), func(t *testing.T) {
				g := newRig(t, func(c *Config) { c.PipelineBytesMax = most })
				w := g.worker()
				p := g.dial()
				data := second + get("/third")[:more]
				ahead := 0
				switch how {
				case "at once":
					p.send(get("/first"), data)
				case "in pieces":
					p.send(get("/first"), data[:500])
					ahead = 500
				default:
					p.send(get("/first"))
				}
				r := g.take(w)
				if how != "at once" {
					p.send(data[ahead:])
				}
				g.eventually("the bytes to be judged", func() bool {
					done := false
					g.on(g.loop(), func() {
						c := g.clientOf(p)
						done = c.lastOne || c.rest != nil && len(c.rest.B) == len(data)
					})
					return done
				})
				r.Answer(ok("first"))
				p.want(200, "first")
				if more == 0 {
					g.take(w).Answer(ok("second"))
					p.want(200, "second")
					return
				}
				p.wantClosed()
				if _, err := w.Take(0); err == nil {
					t.Error("a request beyond the limit was served")
				}
				if g.log.count("limit=max-pipelined") != 1 {
					t.Error("log: want the limit's name")
				}
			})
		}
	}
}

// --queue, exactly.
func TestQueueLimit(t *testing.T) {
	t.Parallel()
	const most = 5
	g := newRig(t, func(c *Config) { c.QueueMax = most })
	var waiting []*peer
	for i := range most {
		p := g.dial()
		p.send(get(fmt.Sprintf("/%d", i)))
		waiting = append(waiting, p)
		g.eventually("the request to wait", func() bool {
			n := 0
			g.on(g.loop(), func() { n = g.loop().queue.len })
			return n == i+1
		})
	}
	p := g.dial()
	p.send(get("/more"))
	p.want(503, "")
	p.wantClosed()
	waiting[2].reset() // its request never runs
	g.eventually("one to leave", func() bool { return g.r.clients.Load() <= most })
	w := g.worker()
	for i, p := range waiting {
		if i == 2 {
			continue
		}
		r := g.take(w)
		if want := fmt.Sprintf("/%d", i); r.Path != want {
			t.Errorf("order: got %s, want %s", r.Path, want)
		}
		r.Answer(ok(r.Path))
		p.want(200, r.Path)
	}
}

// A request whose body finds no room in a lane keeps its place in the queue.
func TestQueueKeepsOrder(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	g.threads = 32
	w := g.worker()
	body := strings.Repeat("x", 1<<20)
	post := fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	var all []*peer
	for range 5 { // the lane has room for four such bodies
		p := g.dial()
		p.send(post)
		all = append(all, p)
	}
	g.eventually("one to wait", func() bool {
		n := 0
		g.on(g.loop(), func() { n = g.loop().queue.len })
		return n == 1
	})
	small := g.dial()
	small.send(get("/small"))
	var taken []*pybridge.Taken
	for range 4 {
		taken = append(taken, g.take(w))
	}
	if _, err := w.Take(50 * time.Millisecond); err == nil {
		t.Error("a later request passed one that waits")
	}
	taken[0].Answer(ok("big"))
	for range 2 {
		r := g.take(w)
		r.Answer(ok(r.Path))
	}
	for _, r := range taken[1:] {
		r.Answer(ok("big"))
	}
	small.want(200, "/small")
	for _, p := range all {
		p.want(200, "")
	}
}

// --max-connections: clients beyond it are told 503, and when a place is free they are served.
func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	const most = 10
	g := newRig(t, func(c *Config) { c.ConnectionsMax = most })
	g.serve(g.worker(), nil)
	var all []*peer
	for range most {
		p := g.dial()
		p.send(get("/"))
		p.want(200, "/")
		all = append(all, p)
	}
	told := g.dial()
	told.want(503, "")
	told.wantClosed()
	for range 50 { // told, or closed without a word; never hung
		p := g.dial()
		_, _ = io.Copy(io.Discard, p.r)
		_ = p.Close()
	}
	for _, p := range all {
		p.send(get("/"))
		p.want(200, "/")
	}
	if g.log.count("limit=max-connections") == 0 {
		t.Error("log: want the limit's name")
	}
	_ = told.Close()
	_ = all[0].Close()
	g.eventually("a new client to be served", func() bool {
		p := g.dial()
		defer func() { _ = p.Close() }()
		p.send(get("/"))
		status, _, _ := p.answer()
		return status == 200
	})
}

// fullFaults asks for the full size of what is a sample otherwise; make fault does.
func fullFaults() bool { return os.Getenv("GOPHERSNAKE_FAULT") != "" }

// TO-14: unfinished heads stay inside the budget, beyond it new ones get 503; clients without one
// are served.
func TestFaultUnfinishedHeads(t *testing.T) {
	const head = 31 << 10
	clients, budget := 500, 4<<20
	if fullFaults() {
		clients, budget = min(10_000, (filesMax(t)-200)/2), 64<<20
	}
	g := newRig(t, func(c *Config) {
		c.BufferBytesMax, c.ConnectionsMax = int64(budget), 2*clients
	})
	g.serve(g.worker(), nil)
	part := "GET / HTTP/1.1\r\nHost: a\r\n"
	for len(part) < head {
		part += "X: " + strings.Repeat("x", 1000) + "\r\n"
	}
	refused := 0
	var all []*peer
	for range clients {
		p := g.dial()
		p.send(part)
		all = append(all, p)
	}
	g.eventually("all heads to be judged", func() bool {
		judged := 0
		g.on(g.loop(), func() {
			judged = int(g.loop().stats.refused.Load())
			for c := range g.loop().clients {
				if c.rest != nil && len(c.rest.B) == len(part) {
					judged++
				}
			}
		})
		return judged == clients
	})
	if used := g.r.buffers.used.Load(); used > g.r.buffers.max {
		t.Errorf("buffers: got %d bytes, want at most %d", used, g.r.buffers.max)
	}
	other := g.dial()
	other.send(get("/other"))
	other.want(200, "/other")
	for _, p := range all {
		p.send("\r\n")
		switch status, _, err := p.answer(); {
		case status == 503 && err == nil:
			refused++
		case status != 200 || err != nil:
			t.Fatalf("got %d %v", status, err)
		}
	}
	if most := budget / head; refused < clients-most {
		t.Errorf("refused: got %d, want at least %d", refused, clients-most)
	}
}

// Bodies beyond the budget go to files, and beyond the room for files get 503.
func TestBodyBudgets(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.BufferBytesMax, c.SpoolBytesMax = 2<<20, 4<<20 })
	const body = 900_000
	var all []*peer
	for range 10 {
		p := g.dial()
		p.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", body))
		p.send(strings.Repeat("x", body-1))
		all = append(all, p)
	}
	g.eventually("both budgets to be used", func() bool {
		return g.r.spool.used.Load() > 3<<20 && g.loop().stats.refused.Load() > 0
	})
	g.serve(g.worker(), func(r *pybridge.Taken) string {
		if r.BodyFile != nil {
			_ = r.BodyFile.Close()
		}
		return ok("")
	})
	served := 0
	for _, p := range all {
		_, _ = io.WriteString(p.TCPConn, "x")
		switch status, _, err := p.answer(); {
		case status == 200:
			served++
		case status != 503 || err != nil:
			t.Errorf("got %d %v, want 200 or 503", status, err)
		}
	}
	if served < 4 || served == len(all) {
		t.Errorf("served: got %d of %d", served, len(all))
	}
}

// FI-03 in small: with no descriptor left new clients are closed, nothing spins, clients that are
// there are served, and new ones are again as soon as there are descriptors.
func TestOutOfDescriptors(t *testing.T) {
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	kept := g.dial()
	kept.send(get("/kept"))
	kept.want(200, "/kept")
	var late []*peer
	for range 5 { // their own ends exist before the last descriptor is gone
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		late = append(late, &peer{TCPConn: g.wrap(fd), g: g})
	}
	release := exhaust(t)
	begun := cpuTime(t)
	for _, p := range late {
		p.connect()
	}
	wait := time.NewTimer(time.Second)
	for i := 0; ; i++ {
		kept.send(get("/kept"))
		kept.want(200, "/kept")
		select {
		case <-wait.C:
		default:
			if i < 1000 {
				continue
			}
			<-wait.C
		}
		break
	}
	if used := cpuTime(t) - begun; used > 700*time.Millisecond {
		t.Errorf("CPU time in a second without descriptors: got %v", used)
	}
	for _, p := range late {
		p.wantEnd()
	}
	release()
	back := time.Now()
	p := g.dial()
	p.send(get("/back"))
	p.want(200, "/back")
	if took := time.Since(back); took > time.Second {
		t.Errorf("a new client after the release: got its answer after %v", took)
	}
}

// wrap makes a TCPConn of a socket that is not connected yet.
func (g *rig) wrap(fd int) *net.TCPConn {
	g.t.Helper()
	c, err := fileConn(fd, "late")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func (p *peer) connect() {
	p.g.t.Helper()
	a := p.g.ln.Addr().(*net.TCPAddr)
	raw, err := p.SyscallConn()
	if err != nil {
		p.g.t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		to := &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
		if err := unix.Connect(int(fd), to); err != nil && err != unix.EINPROGRESS {
			p.g.t.Error(err)
		}
	})
}

// wantEnd reads until the connection ends, in whatever way.
func (p *peer) wantEnd() {
	p.g.t.Helper()
	if _, err := io.Copy(io.Discard, p.TCPConn); os.IsTimeout(err) {
		p.g.t.Error("a connection hangs, want its end")
	}
}

// exhaust lowers the descriptor limit and opens files until there are no more.
func exhaust(t *testing.T) (release func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := unix.Rlimit{Cur: uint64(descriptors(t) + 20), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var all []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		all = append(all, f)
	}
	return func() {
		for _, f := range all {
			_ = f.Close()
		}
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
	}
}

// idleBytesMax is what an idle client may cost of Go's heap.
const idleBytesMax = 2048

// An idle keep-alive client costs little memory: what gnet keeps and what we keep.
func TestIdleClientIsSmall(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 2000
	}
	n = min(n, (filesMax(t)-200)/2)
	g := newRig(t, func(c *Config) { c.ConnectionsMax, c.QueueMax = 2*n, n })
	g.serve(g.worker(), nil)
	before := heap()
	fds := make([]int, n)
	for i := range fds { // no net.Conn: it would be measured too
		fds[i] = g.rawDial()
		t.Cleanup(func() { _ = unix.Close(fds[i]) })
	}
	request := []byte(get("/"))
	for _, fd := range fds {
		if _, err := unix.Write(fd, request); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 1000)
	for _, fd := range fds {
		got, err := unix.Read(fd, buf)
		if err != nil || !strings.HasPrefix(string(buf[:got]), "HTTP/1.1 200") {
			t.Fatalf("got %q %v", buf[:max(got, 0)], err)
		}
	}
	each := (heap() - before) / int64(n)
	t.Logf("%d idle clients: %d bytes of heap each", n, each)
	if each > idleBytesMax {
		t.Errorf("idle client: got %d bytes of heap, want at most %d", each, idleBytesMax)
	}
}

func (g *rig) rawDial() int {
	g.t.Helper()
	a := g.ln.Addr().(*net.TCPAddr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())})
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return fd
}

func filesMax(t testing.TB) int {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(limit.Cur)
}

// heap is what is in use after a collection; two of them empty the pools.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// No request on a keep-alive connection allocates in the loop, and a connection's ten thousandth
// costs no more memory than its first (TO-07; make fault sends a million).
func TestFaultManyRequests(t *testing.T) {
	g := newRig(t, nil)
	g.serveAll(g.worker(), ok(""))
	p := g.dial()
	const batch = 100
	rounds := 200
	if fullFaults() {
		rounds = 10_000
	}
	requests := []byte(strings.Repeat(get("/some/path?q=1"), batch))
	answers := make([]byte, batch*len(ok("")))
	round := func() {
		if _, err := p.Write(requests); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.TCPConn, answers); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		round()
	}
	start := heap()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		if i%1000 == 0 {
			_ = p.SetDeadline(time.Now().Add(3 * patience))
		}
		round()
	}
	runtime.ReadMemStats(&after)
	each := float64(after.Mallocs-before.Mallocs) / float64(rounds*batch)
	grown := heap() - start
	t.Logf("%.3f allocations for a request, heap grew by %d bytes", each, grown)
	if each > 0.05 && !raceDetector { // the clock's tasks
		t.Errorf("allocations for a request: got %.3f, want 0", each)
	}
	if grown > 64<<10 {
		t.Errorf("heap: grew by %d bytes in %d requests", grown, rounds*batch)
	}
}

func BenchmarkKeepAlive(b *testing.B) {
	g := newRig(b, nil)
	g.serveAll(g.worker(), ok("Hello, World!"))
	p := g.dial()
	request, answer := []byte(get("/")), make([]byte, len(ok("Hello, World!")))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Write(request)
		if _, err := io.ReadFull(p.TCPConn, answer); err != nil {
			b.Fatal(err)
		}
	}
}
