package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// gates is a server whose /hold requests wait until the test opens the gate.
type gates struct {
	*server
	fifo string
}

func startGates(t *testing.T, args ...string) *gates {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	return &gates{fifo: fifo, server: startCommand(t, command{python: anyPython(),
		args: append([]string{"gates:app", "--chdir", absolute(appsDir)}, args...),
		env:  []string{"GATE=" + fifo}})}
}

// hold makes one thread busy until the gate opens.
func (g *gates) hold(t *testing.T) *wire {
	t.Helper()
	w := dial(t, g.url()).send(get("/hold"))
	g.says("gates: held")
	return w
}

// open lets the request that is held go.
func (g *gates) open(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(g.fifo, os.O_WRONLY, 0) // waits for the reader
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

// With 2 workers of one thread each and one of them busy, no short request waits for it: all are
// answered before the long one ends, also those that were handed to its worker.
func TestLongRequestDelaysNobody(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		g := startGates(t, "--workers", "2", "--threads", "1", "--python", python.path)
		long := g.hold(t)
		var all []*wire
		for range 200 {
			all = append(all, dial(t, g.url()).send(get("/short")))
		}
		short := ""
		for _, w := range all {
			short, _, _ = strings.Cut(string(w.want(200).body), "\n")
		}
		g.open(t)
		if pid, _, _ := strings.Cut(string(long.want(200).body), "\n"); pid == short {
			t.Errorf("pid: got %s for both, want two workers", pid)
		}
	})
}

// --queue requests wait, the next one gets 503 with Retry-After.
func TestQueueIsBounded(t *testing.T) {
	g := startGates(t, "--workers", "1", "--threads", "1", "--queue", "2")
	long := g.hold(t)
	var waiting []*wire
	for range 2 {
		waiting = append(waiting, dial(t, g.url()).send(get("/waits")))
	}
	// The loop takes clients as they come, so the third one may overtake the second.
	refused := dial(t, g.url()).send(get("/waits")).next(false)
	for _, w := range waiting {
		if refused.status == 503 {
			break
		}
		refused = w.next(false)
	}
	wantEqual(t, "status", refused.status, 503)
	wantEqual(t, "Retry-After", refused.get("Retry-After"), "1")
	g.open(t)
	long.want(200)
	served := string(dial(t, g.url()).send(get("/last")).want(200).body)
	wantEqual(t, "requests served after the wait", strings.Count(served, "/waits"), 2)
}

// --queue-timeout: what no thread has begun in time gets 503 and never runs.
func TestQueueTimeout(t *testing.T) {
	g := startGates(t, "--workers", "1", "--threads", "1", "--queue-timeout", "2s")
	long := g.hold(t)
	late := dial(t, g.url()).send(get("/late"))
	a := late.want(503)
	wantEqual(t, "Retry-After", a.get("Retry-After"), "1")
	late.wantClosed()
	g.open(t)
	long.want(200)
	served := string(dial(t, g.url()).send(get("/last")).want(200).body)
	wantEqual(t, "the late request was served", strings.Contains(served, "/late"), false)
}

// A request that waits never runs when its client is reset; that of a client that has closed its
// sending side only does, because such a client still reads (RFC 9112 §9.6).
func TestQueuedRequestOfGoneClient(t *testing.T) {
	g := startGates(t, "--workers", "1", "--threads", "1", "--log-level", "debug")
	long := g.hold(t)
	gone := dial(t, g.url()).send(get("/gone"))
	half := dial(t, g.url()).send(get("/half"))
	half.finish()
	// An answer to one that came later tells that the loop has seen those before.
	dial(t, g.url()).send("BAD\r\n\r\n").want(400)
	_ = gone.Conn.(*net.TCPConn).SetLinger(0)
	_ = gone.Close()
	dial(t, g.url()).send("BAD\r\n\r\n").want(400)
	g.open(t)
	long.want(200)
	half.want(200)
	served := string(dial(t, g.url()).send(get("/last")).want(200).body)
	wantEqual(t, "served", strings.Contains(served, "/half"), true)
	wantEqual(t, "served of the one that has gone", strings.Contains(served, "/gone"), false)
}
