package e2e

import (
	"io"
	"testing"
)

// With --websocket an app gets its client's socket; flask-sock is what people use.

const handshake = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func upgradeOf(path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + handshake + "\r\n"
}

// say sends one masked text frame of at most 125 bytes (RFC 6455 §5.2); the mask is zero.
func (w *wire) say(text string) {
	w.t.Helper()
	w.send(string([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}) + text)
}

// hear reads one short frame: its opcode and payload.
func (w *wire) hear() (opcode byte, payload string) {
	w.t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		w.t.Fatalf("frame: got %v, want one", err)
	}
	body := make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(w.r, body); err != nil {
		w.t.Fatalf("frame of %d bytes: got %v", len(body), err)
	}
	return head[0] & 0x0f, string(body)
}

func TestWebSocket(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := start(t, python, "flask_sock_app:app", "--chdir", absolute(appsDir), "--workers", "1",
			"--threads", "2", "--websocket")
		for range 5 { // more than there are threads: each gives its thread back
			w := dial(t, s.url()).send(upgradeOf("/echo"))
			// RFC 6455 §1.3 gives this key's answer.
			wantEqual(t, "accept", w.want(101).get("Sec-WebSocket-Accept"),
				"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
			for _, text := range []string{"one", "two", ""} {
				w.say(text)
				opcode, heard := w.hear()
				wantEqual(t, "opcode", opcode, 1)
				wantEqual(t, "echo", heard, "echo "+text)
			}
			w.say("bye")
			opcode, reason := w.hear()
			wantEqual(t, "opcode", opcode, 8)
			wantEqual(t, "close code 1000", reason, "\x03\xe8")
			w.wantClosed()
		}
		vanished := dial(t, s.url()).send(upgradeOf("/echo"))
		vanished.want(101)
		vanished.Close()

		// An app that does not take the socket answers as ever: Werkzeug knows that this route
		// speaks no WebSocket.
		plain := dial(t, s.url()).send(upgradeOf("/"))
		answer := plain.want(400)
		wantEqual(t, "Content-Type", answer.get("Content-Type"), "text/html; charset=utf-8")
		wantEqual(t, "Connection", answer.get("Connection"), "close")
		plain.wantClosed()
		wantEqual(t, "no upgrade", string(dial(t, s.url()).send(get("/")).want(200).body), "plain")
	})
}

// Without --websocket Upgrade is ignored (RFC 9110 §7.8); with it, bytes sent ahead of the 101
// are refused.
func TestUpgradeIsIgnored(t *testing.T) {
	s := startFixtures(t, anyPython())
	a := dial(t, s.url()).send(upgradeOf("/environ_dump/")).want(200)
	wantEqual(t, "Connection", a.get("Connection"), "")

	s = startFixtures(t, anyPython(), "--websocket")
	w := dial(t, s.url()).send(upgradeOf("/environ_dump/") + "early")
	w.want(400)
	w.wantClosed()
}
