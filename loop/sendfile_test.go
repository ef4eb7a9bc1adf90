package loop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gophersnake/pybridge"
)

// fileOf makes a file that holds text.
func fileOf(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func headOf(length int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", length)
}

// A piece of a file follows its head, for several answers on one connection, and the client's next
// request comes after it.
func TestSendFile(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	text := pattern(3 << 20)
	f := fileOf(t, text)
	w := g.worker()
	p := g.dial()
	for _, piece := range []struct{ off, length int }{{0, len(text)}, {1000, 1 << 20}, {5, 1}} {
		p.send(get("/file"))
		r := g.take(w)
		r.Send(headOf(piece.length), 0, patience)
		r.SendFile(f, int64(piece.off), int64(piece.length), pybridge.ReplyLast)
		p.want(200, text[piece.off:piece.off+piece.length])
	}
	p.send(get("/next"))
	g.take(w).Answer(ok("next"))
	p.want(200, "next")
}

// A file that becomes shorter while it is sent cannot be made up for: the client sees that its
// answer is not whole.
func TestFileShrinks(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	text := pattern(1 << 20)
	f := fileOf(t, text)
	w := g.worker()
	p := g.dial()
	p.send(get("/file"))
	r := g.take(w)
	r.Send(headOf(2*len(text)), 0, patience)
	r.SendFile(f, 0, int64(2*len(text)), pybridge.ReplyLast)
	p.wantCut(text + text)
	g.noClients()
}

// Files are closed whatever becomes of their clients: gone before, gone while the file waits
// behind what they do not read.
func TestFilesAreClosed(t *testing.T) {
	g := newRig(t, nil)
	text := pattern(32 << 20)
	f := fileOf(t, text)
	w := g.worker()
	g.eventually("no client", func() bool { return g.r.clients.Load() == 0 })
	before := descriptors(t)
	for range 5 {
		gone, stuck := g.dial(), g.dial()
		gone.send(get("/gone"))
		late := g.take(w)
		gone.reset()
		g.eventually("the client to be gone", late.Gone)
		late.SendFile(f, 0, int64(len(text)), pybridge.ReplyLast)

		stuck.send(get("/stuck"))
		r := g.take(w)
		r.Send(headOf(len(text)), 0, patience)
		r.SendFile(f, 0, int64(len(text)), pybridge.ReplyLast)
		stuck.reset()
	}
	g.noClients()
	g.eventually("every descriptor to be closed", func() bool { return descriptors(t) == before })
}

// A file part without its descriptor, or one that is none, is a broken format: the worker ends.
func TestFilePartWithoutFile(t *testing.T) {
	t.Parallel()
	g := newRig(t, nil)
	w := g.worker()
	p := g.dial()
	p.send(get("/"))
	g.take(w).BreakFile()
	p.want(502, "")
	<-w.Killed()
}
