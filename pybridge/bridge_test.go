package pybridge

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// startDemo starts a worker with the built-in app and waits until it is ready.
func startDemo(t *testing.T, threads int) *Worker {
	t.Helper()
	python, err := exec.LookPath("python3")
	if p := os.Getenv("GOPHERSNAKE_TEST_PYTHON"); p != "" {
		python, err = p, nil
	}
	if err != nil {
		t.Fatal("python3 is needed: ", err)
	}
	w, err := Start(1, &Config{
		Python: python, App: DemoApp, Dir: t.TempDir(),
		Listeners: []Listener{{ServerName: "localhost", ServerPort: "80", Scheme: "http"}},
		Sizes:     Sizes{Lanes: 1, Threads: threads, HeadBytesMax: 32768, HeaderCountMax: 100, BodyArenaBytes: 4 << 20},
		Output:    func(id int, line []byte) { t.Logf("worker %d: %s", id, line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Ready():
	case <-w.Done():
		t.Fatalf("worker ended: %+v", w.Exit())
	case <-time.After(20 * time.Second):
		t.Fatal("worker is not ready")
	}
	return w
}

// collect waits for the whole response of a slot.
func collect(t *testing.T, l *Lane, slot, gen uint32) string {
	t.Helper()
	var out bytes.Buffer
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		var r Reply
		ok, err := l.Next(&r)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			if l.Sleep() {
				_ = l.doorbell.SetReadDeadline(deadline)
				var b [64]byte
				_, _ = l.doorbell.Read(b[:])
			}
			continue
		}
		if r.Slot != slot || r.Generation != gen {
			t.Fatalf("reply for slot %d/%d, want %d/%d", r.Slot, r.Generation, slot, gen)
		}
		out.Write(r.Data)
		l.Ack(r.Thread)
		l.FlushAcks()
		if r.Flags&ReplyLast != 0 {
			return out.String()
		}
	}
	t.Fatal("no answer")
	return ""
}

func TestWorkerServes(t *testing.T) {
	for _, threads := range []int{1, 4} {
		w := startDemo(t, threads)
		l := w.Lane(0)
		head := []byte("GET /plaintext HTTP/1.1\r\nHost: a\r\n\r\n")
		for range 1000 {
			slot, gen, err := l.Submit(&Request{
				Head: head, Method: head[:3], Target: head[4:14], Path: head[4:14], KeepAlive: true,
				RemoteAddr: []byte("127.0.0.1"), RemotePort: 99,
				Headers: []Header{{head[25:29], head[31:32]}},
			})
			if err != nil {
				t.Fatal(err)
			}
			l.Ring()
			got := collect(t, l, slot, gen)
			if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\nHello, World!") {
				t.Fatalf("got %q", got)
			}
		}
		w.Quit()
		select {
		case <-w.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("worker does not end")
		}
		if e := w.Exit(); e.Code != 0 {
			t.Fatalf("exit %+v", e)
		}
	}
}
