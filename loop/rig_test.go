package loop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gophersnake/pybridge"
)

// patience bounds every wait of a test, far beyond what a good run needs.
const patience = 10 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// gnet's import starts a pool of goroutines that nothing ends.
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"))
}

// rig is a reactor with a listener and scripted workers.
type rig struct {
	t       testing.TB
	r       *Reactor
	ln      net.Listener
	log     *logged
	threads int
	workers []*pybridge.Scripted
}

// newRig starts one loop. Timeouts are long unless change says otherwise.
func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	g := &rig{t: t, log: &logged{}, threads: 4}
	cfg := Config{
		Loops: 1, Limits: DefaultLimits(),
		HeaderTimeout: time.Minute, BodyTimeout: time.Minute, KeepAlive: time.Minute,
		WriteTimeout: time.Minute, QueueTimeout: time.Minute, RequestTimeout: time.Minute,
		ConnectionsMax: 1000, QueueMax: 100, PipelineBytesMax: 256 << 10,
		BufferBytesMax: 64 << 20, SpoolBytesMax: 1 << 30, TempDir: t.TempDir(),
		Log: slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if g.r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", g.log.text())
		}
	})
	t.Cleanup(g.close)
	if g.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	g.r.Open(g.ln, 0)
	return g
}

// close ends all and requires that everything was given back.
func (g *rig) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a test that cares about the answers has waited for them
	if err := g.r.Close(ctx); err != nil && !errors.Is(err, context.Canceled) {
		g.t.Error(err)
	}
	for _, w := range g.workers {
		w.Close()
	}
	if n := g.r.clients.Load(); n != 0 {
		g.t.Errorf("clients after the end: got %d, want 0", n)
	}
	g.eventually("nothing booked after the end", func() bool {
		return g.r.buffers.used.Load() == 0 && g.r.spool.used.Load() == 0
	})
}

// unadded makes a scripted worker that the reactor does not know yet.
func (g *rig) unadded() *pybridge.Scripted {
	g.t.Helper()
	w, err := pybridge.NewScripted(len(g.workers)+1, pybridge.Sizes{
		Lanes: len(g.r.loops), Threads: g.threads, HeadBytesMax: g.r.cfg.Limits.HeadBytesMax,
		HeaderCountMax: g.r.cfg.Limits.HeaderCountMax, BodyArenaBytes: 4 << 20,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.workers = append(g.workers, w)
	return w
}

// worker adds a scripted worker and waits until the loops have it.
func (g *rig) worker() *pybridge.Scripted {
	g.t.Helper()
	w := g.unadded()
	g.r.AddWorker(w)
	g.eventually("the worker's lanes", func() bool {
		n := 0
		for _, l := range g.r.loops {
			g.on(l, func() {
				for _, ln := range l.lanes {
					if ln.member.worker == Worker(w) {
						n++
					}
				}
			})
		}
		return n == len(g.r.loops)
	})
	return w
}

// on runs f on the loop and waits for it.
func (g *rig) on(l *loop, f func()) {
	g.t.Helper()
	done := make(chan struct{})
	l.post(func() { defer close(done); f() })
	select {
	case <-done:
	case <-time.After(patience):
		g.t.Fatal("the loop does not run tasks")
	}
}

func (g *rig) loop() *loop { return g.r.loops[0] }

// eventually polls a condition that no event tells of.
func (g *rig) eventually(what string, ok func() bool) {
	g.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			g.t.Fatalf("want %s within %v", what, patience)
		}
	}
}

// take waits for the next request that reaches the worker.
func (g *rig) take(w *pybridge.Scripted) *pybridge.Taken {
	g.t.Helper()
	r, err := w.Take(patience)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// serve answers every request of w by answer, until w dies. A nil answer serves its path.
func (g *rig) serve(w *pybridge.Scripted, answer func(*pybridge.Taken) string) {
	if answer == nil {
		answer = func(r *pybridge.Taken) string { return ok(r.Path) }
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := w.Take(20 * time.Millisecond)
			if err == nil {
				r.Answer(answer(r))
				continue
			}
			select {
			case <-w.Killed():
				return
			default:
			}
		}
	}()
	g.t.Cleanup(func() { w.Kill(); <-done }) // before close, which frees the memory
}

// serveAll answers every request alike, until the test's end, without allocating.
func (g *rig) serveAll(w *pybridge.Scripted, answer string) {
	done := make(chan struct{})
	go func() { defer close(done); w.Serve(answer) }()
	g.t.Cleanup(func() { w.Kill(); <-done })
}

// ok is a whole answer.
func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n" }

// peer is a client of the rig, on the other side of the socket.
type peer struct {
	*net.TCPConn
	g *rig
	r *bufio.Reader
}

func (g *rig) dial() *peer {
	g.t.Helper()
	c, err := net.DialTimeout("tcp", g.ln.Addr().String(), patience)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	p := &peer{TCPConn: c.(*net.TCPConn), g: g, r: bufio.NewReader(c)}
	_ = c.SetDeadline(time.Now().Add(3 * patience))
	return p
}

func (p *peer) send(parts ...string) {
	p.g.t.Helper()
	if _, err := io.WriteString(p.TCPConn, strings.Join(parts, "")); err != nil {
		p.g.t.Fatalf("send: %v", err)
	}
}

// answer reads one response; body is what came of it, err says whether it is whole.
func (p *peer) answer() (status int, body string, err error) {
	p.g.t.Helper()
	r, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// want reads one response and compares. An empty body is not compared.
func (p *peer) want(status int, body string) {
	p.g.t.Helper()
	got, b, err := p.answer()
	if err != nil || got != status || body != "" && b != body {
		p.g.t.Fatalf("answer: got %d %.80q %v, want %d %.80q", got, b, err, status, body)
	}
}

// wantClosed reads to the end, at which nothing may be left.
func (p *peer) wantClosed() {
	p.g.t.Helper()
	if b, err := io.ReadAll(p.r); len(b) > 0 || err != nil {
		p.g.t.Fatalf("connection: got %.80q and %v, want its end", b, err)
	}
}

// wantReset reads until the connection fails.
func (p *peer) wantReset() {
	p.g.t.Helper()
	if _, err := io.Copy(io.Discard, p.r); err == nil {
		p.g.t.Fatal("connection: got an orderly end, want a reset")
	}
}

// reset closes without an orderly end.
func (p *peer) reset() {
	_ = p.SetLinger(0)
	_ = p.Close()
}

// logged is a log that may be read while it grows.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) count(text string) int { return strings.Count(l.text(), text) }

// descriptors counts those that are open.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
