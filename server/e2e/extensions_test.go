package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// What environ offers beyond PEP 3333; pybridge/shim/README.md lists it.

// RFC 8297 and RFC 9110 §15.2: 103 responses come before the final one, only to HTTP/1.1, and
// never after it has begun.
func TestEarlyHints(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, fixture(python, "early_hints:app", "--workers", "1"))
		w := dial(t, s.url()).send(get("/"))
		for _, want := range []string{"</a.css>; rel=preload", "</b.css>; rel=preload"} {
			a := w.want(103)
			wantEqual(t, "Link", a.get("Link"), want)
			wantEqual(t, "fields of a 103", len(a.fields), 1)
		}
		final := w.want(200)
		wantEqual(t, "body", string(final.body), "answer")
		wantEqual(t, "Link", final.get("Link"), "")

		refused := w.send(get("/bad")).want(200)
		wantEqual(t, "a header with CR LF", string(refused.body), "ValueError")

		old := dial(t, s.url()).send("GET / HTTP/1.0\r\n\r\n").want(200)
		wantEqual(t, "body for HTTP/1.0", string(old.body), "answer")
	})
}

// The callable tells an app that its client has closed its side, also while it still reads.
func TestClientDisconnected(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "disconnect_watched:app", "--workers", "1"))
	for i, leave := range []func(*wire){
		func(w *wire) { w.finish() },
		func(w *wire) { w.Close() },
		func(w *wire) {
			_ = w.Conn.(*net.TCPConn).SetLinger(0) // a reset
			w.Close()
		},
	} {
		w := dial(t, s.url()).send(get("/watch"))
		if line, err := w.r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("status line: got %q, %v; want 200", line, err)
		}
		leave(w)
		want := fmt.Sprint(i + 1)
		eventually(t, answerMax, want+" disconnections noted", func() bool {
			return string(dial(t, s.url()).send(get("/noted")).want(200).body) == want
		})
	}
}
