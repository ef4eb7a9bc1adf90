package loop

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gophersnake/pybridge"
)

// pattern is n bytes that differ from place to place.
func pattern(n int) string {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i += 8 {
		b = fmt.Appendf(b, "%08x", i)
	}
	return string(b[:n])
}

// A big answer arrives whole at a slow client, at one that has closed its sending side, and as a
// connection's last.
func TestBigAnswerArrivesWhole(t *testing.T) {
	body := pattern(16 << 20) // more than the kernel keeps for a connection
	for _, c := range []struct {
		name      string
		head      string
		halfClose bool
	}{
		{"slow", get("/"), false},
		{"half-closed", get("/"), true},
		{"last", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false},
		{"last half-closed", "GET / HTTP/1.0\r\n\r\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, nil)
			g.serve(g.worker(), func(*pybridge.Taken) string { return ok(body) })
			p := g.dial()
			p.send(c.head)
			if c.halfClose {
				_ = p.CloseWrite()
			}
			p.want(200, body)
			if c.name == "slow" {
				p.send(get("/"))
				p.want(200, body)
				return
			}
			p.wantClosed()
			g.noClients()
		})
	}
}

// A client that reads one byte at a time gets its answer, and pipelined ones behind it.
func TestOneByteReader(t *testing.T) {
	g := newRig(t, nil)
	body := pattern(300000)
	g.serve(g.worker(), func(*pybridge.Taken) string { return ok(body) })
	p := g.dial()
	p.send(get("/"), get("/"))
	p.r.Reset(oneByteReader{p.TCPConn})
	p.want(200, body)
	p.want(200, body)
}

type oneByteReader struct{ r io.Reader }

func (o oneByteReader) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// FI-02 in small: readers that take nothing park no thread and little memory: their answers wait in
// files.
func TestSlowReadersParkNoThread(t *testing.T) {
	g := newRig(t, func(c *Config) { c.BufferBytesMax = 4 << 20 })
	g.threads = 1
	w := g.worker()
	const readers, bytes = 20, 16 << 20
	body := pattern(bytes)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var peers []*peer
	for range readers {
		p := g.dial()
		p.send(get("/"))
		if !g.take(w).Answer(ok(body)) {
			t.Fatal("the only thread waits for a client that does not read")
		}
		peers = append(peers, p)
	}
	g.eventually("the answers to wait in files", func() bool {
		return g.r.spool.used.Load() > readers*bytes/4
	})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("heap: grew by %d bytes for %d answers of %d", grown, readers, bytes)
	}
	// Nor do they take the memory that requests need: heads that come in pieces are no 503.
	var others []*peer
	for range 8 {
		q := g.dial()
		used := g.r.buffers.used.Load()
		q.send("GET / HTTP/1.1\r\nHost: a\r\nX: ", strings.Repeat("x", 30000))
		g.eventually("a part of a head", func() bool {
			return g.r.buffers.used.Load() >= used+30000
		})
		others = append(others, q)
	}
	for _, q := range others {
		q.send("\r\n\r\n")
		g.take(w).Answer(ok("served"))
		q.want(200, "served")
	}
	for _, p := range peers[:3] {
		p.want(200, body)
	}
	for _, p := range peers {
		p.reset()
	}
	g.eventually("the files to be closed", func() bool { return g.r.spool.used.Load() == 0 })
}

// With no room for files a thread waits, and the memory of its client stays bounded.
func TestThreadWaitsWithoutFiles(t *testing.T) {
	g := newRig(t, func(c *Config) { c.SpoolBytesMax = 0 })
	w := g.worker()
	p := g.dial()
	p.send(get("/"))
	r := g.take(w)
	body := pattern(16 << 20)
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
	var sent sync.WaitGroup
	sent.Go(func() { r.Send(head+body, pybridge.ReplyLast, patience) })
	held := func() (n int) {
		g.on(g.loop(), func() {
			for d := range g.loop().drainers {
				n += d.heldAcks
			}
		})
		return n
	}
	g.eventually("the thread to be held", func() bool { return held() > 0 })
	other := g.dial()
	other.send(get("/other"))
	g.take(w).Answer(ok("other"))
	other.want(200, "other")
	g.on(g.loop(), func() {
		for d := range g.loop().drainers {
			d.mu.Lock()
			defer d.mu.Unlock()
			const most = answerMemoryBytesMax + 256<<10 // and one response ring
			if n := len(d.memory) + len(d.tail); n > most {
				t.Errorf("memory of a client that does not read: got %d bytes, want %d", n, most)
			}
		}
	})
	p.want(200, body)
	sent.Wait()
}

// While temporary files are used up and requests wait for a thread, a client that takes nothing of
// its answer is closed.
func TestStalledClientsMakeRoom(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.SpoolBytesMax = 12 << 20 })
	g.threads = 1
	body := pattern(32 << 20)
	g.serve(g.worker(), func(r *pybridge.Taken) string {
		if r.Path == "/big" {
			return ok(body)
		}
		return ok(r.Path)
	})
	stalled := g.dial()
	stalled.send(get("/big"))
	waiting := g.dial()
	waiting.send(get("/waiting"))
	waiting.want(200, "/waiting")
	stalled.wantCut(body)
}

// wantCut reads an answer that ends too early.
func (p *peer) wantCut(whole string) {
	p.g.t.Helper()
	if _, b, err := p.answer(); err == nil || len(b) >= len(whole) {
		p.g.t.Errorf("answer: got %d bytes and %v, want a part and an error", len(b), err)
	}
}

// A file that cannot be made lets the thread wait; the answer is whole all the same.
func TestNoTempDir(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.TempDir = "/nonexistent" })
	body := pattern(12 << 20)
	g.serve(g.worker(), func(*pybridge.Taken) string { return ok(body) })
	p := g.dial()
	p.send(get("/"))
	p.want(200, body)
	q := g.dial()
	q.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
	q.want(507, "")
}

// TO-04: a client that takes nothing for WriteTimeout is cut off, and its thread is free.
func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) {
		c.WriteTimeout, c.SpoolBytesMax, c.RequestTimeout = 300*time.Millisecond, 0, time.Hour
	})
	g.threads = 1
	w := g.worker()
	p := g.dial()
	p.send(get("/"))
	r := g.take(w)
	begun := time.Now()
	r.Send("HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n"+pattern(32<<20),
		pybridge.ReplyLast, patience)
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("the thread was free after %v: the answer did not fill the socket", took)
	}
	g.noClients()
	p.wantCut(pattern(32 << 20))
	q := g.dial()
	q.send(get("/"))
	g.take(w).Answer(ok("next"))
	q.want(200, "next")
}

// One busy stream does not keep the loop from its other clients.
func TestStreamLeavesTurns(t *testing.T) {
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/stream"))
	r := g.take(w)
	stop := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		block := strings.Repeat("x", 64<<10)
		r.Send("HTTP/1.1 200 OK\r\n\r\n", 0, patience)
		for {
			select {
			case <-stop:
				r.Send("", pybridge.ReplyLast|pybridge.ReplyClose, patience)
				return
			default:
				r.Send(block, 0, patience)
			}
		}
	})
	both.Go(func() { _, _ = io.Copy(io.Discard, p.r) })
	other := g.dial()
	for i := range 100 {
		other.send(get("/other"))
		g.take(w).Answer(ok(fmt.Sprint(i)))
		other.want(200, fmt.Sprint(i))
	}
	close(stop)
	both.Wait()
}

// Urgent data is an event of its own (EPOLLPRI); it keeps no loop awake.
func TestUrgentDataDoesNotSpin(t *testing.T) {
	g := newRig(t, nil)
	g.serve(g.worker(), nil)
	p := g.dial()
	p.urgent("!") // the kernel drops it, as for any server that does not ask for it
	begun := cpuTime(t)
	wait := time.NewTimer(500 * time.Millisecond)
	<-wait.C
	if used := cpuTime(t) - begun; used > 250*time.Millisecond {
		t.Errorf("CPU time in 500 ms with nothing to do: got %v", used)
	}
	p.send(get("/"))
	p.want(200, "/")
}
