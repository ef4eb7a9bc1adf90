package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const (
	fewFiles      = 256
	idleFlood     = 400
	idleCPUShare  = 0.2 // of a core, while descriptors are used up
	backAfterMax  = time.Second
	keptAnswerMax = time.Second
)

// withFewFiles makes launch start the binary under a descriptor limit.
func withFewFiles(t *testing.T) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "few-files")
	text := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec '%s' \"$@\"\n", fewFiles, binary())
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOPHERSNAKE_BIN", script)
}

// FI-03: 400 idle clients and 256 descriptors. The server derives its limit of clients from that.
func TestFaultFewDescriptors(t *testing.T) {
	withFewFiles(t)
	s := startFaults(t, "--header-timeout", "60s")
	s.flood(t)
}

// FI-03 with a limit of clients that the descriptors do not allow: accepting itself fails.
func TestFaultNoDescriptors(t *testing.T) {
	withFewFiles(t)
	s := startFaults(t, "--header-timeout", "60s", "--max-connections", "10000")
	s.flood(t)
}

// FI-03 with an app that opens 200 files: those are the worker's.
func TestFaultAppOpensFiles(t *testing.T) {
	withFewFiles(t)
	s := startFaults(t, "--header-timeout", "60s")
	dial(t, s.url()).send(get("/open/200")).want(200)
	s.flood(t)
}

// flood opens more idle connections than there are descriptors, holds them, and lets them go.
func (s *server) flood(t *testing.T) {
	t.Helper()
	kept := []*wire{dial(t, s.url()), dial(t, s.url())}
	keptServed := func() {
		for _, w := range kept {
			_ = w.SetDeadline(time.Now().Add(keptAnswerMax))
			wantEqual(t, "kept", string(w.send(get("/echo", "X-Canary: kept")).want(200).body), "kept|")
		}
	}
	keptServed()
	before := s.descriptors()
	var idle []net.Conn
	for range idleFlood {
		conn, err := net.DialTimeout("tcp", s.address(), answerMax)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, conn)
	}
	began, used := time.Now(), s.cpu()
	for hold := scaled(30*time.Second, 2*time.Second); time.Since(began) < hold; {
		keptServed()
		wait(50 * time.Millisecond)
	}
	share := float64(s.cpu()-used) / float64(time.Since(began))
	t.Logf("CPU while descriptors were used up: %.0f %% of a core", 100*share)
	if share > idleCPUShare {
		t.Errorf("CPU: got %.2f of a core, want at most %.2f", share, idleCPUShare)
	}
	s.wantNoneHangs(t)
	for _, conn := range idle {
		conn.Close()
	}
	back := time.Now()
	eventually(t, backAfterMax, "a new client to be served", func() bool {
		conn, err := net.DialTimeout("tcp", s.address(), backAfterMax)
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(backAfterMax))
		_, _ = io.WriteString(conn, get("/echo"))
		line := make([]byte, 12)
		_, err = io.ReadFull(conn, line)
		return err == nil && string(line) == "HTTP/1.1 200"
	})
	t.Logf("new clients are served %v after the release", time.Since(back))
	keptServed()
	for _, w := range kept {
		w.Close()
	}
	s.recovered(t, before)
}

// wantNoneHangs: a client that comes while there is no room is told so, or closed.
func (s *server) wantNoneHangs(t *testing.T) {
	t.Helper()
	for range 10 {
		conn, err := net.DialTimeout("tcp", s.address(), answerMax)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(conn, get("/echo", "Connection: close"))
		answer, err := io.ReadAll(conn)
		if isTimeout(err) {
			t.Errorf("a client without room hangs; got %.100q so far", answer)
		}
		conn.Close()
	}
}

// FI-05: 500 clients a second vanish, each by a reset at a random byte of its request or of its
// answer.
func TestFaultVanishingClients(t *testing.T) {
	s := startFaults(t, "--workers", "1")
	calm := s.calm(t)
	files := s.descriptors()
	l := s.startLoad()
	s.vanish(scaled(60*time.Second, 3*time.Second))
	p99 := l.stop()
	l.wantNoneFailed(t)
	t.Logf("p99: %v, without the fault %v", p99, calm)
	eventually(t, answerMax, "every generator to be closed", func() bool {
		var begun, closed int
		w := dial(t, s.url())
		defer w.Close()
		_, err := fmt.Sscan(string(w.send(get("/counts")).want(200).body), &begun, &closed)
		return err == nil && begun == closed
	})
	s.recovered(t, files)
}
