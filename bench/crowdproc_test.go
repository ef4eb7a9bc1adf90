package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCrowdProcess(t *testing.T) {
	sv := serving(t, func(out http.ResponseWriter, in *http.Request) {
		_, _ = io.WriteString(out, "Hello")
	})
	p, came, err := startCrowd(context.Background(), sv.site.address(), 3, 0)
	if err != nil || came.Lack != "" {
		t.Fatalf("%v, lack %q", err, came.Lack)
	}
	defer p.dismiss()
	went, err := p.part()
	if err != nil || went.IdleLost != 0 || went.CPUMicros <= 0 {
		t.Errorf("got %+v, %v", went, err)
	}
}

// Who is closed and who cannot come is told: a server that throws its clients out is not the
// faster for it.
func TestCrowdProcessTellsOfLosses(t *testing.T) {
	closing := serving(t, func(out http.ResponseWriter, in *http.Request) {
		conn, _, err := http.NewResponseController(out).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		cork(t, conn) // the end comes with the answer, in one segment
		// As if it stayed:
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		conn.Close()
	})
	p, came, err := startCrowd(context.Background(), closing.site.address(), 1, 0)
	if err != nil || came.Lack != "" {
		t.Fatalf("%v, lack %q", err, came.Lack)
	}
	defer p.dismiss()
	if went, err := p.part(); err != nil || went.IdleLost != 1 {
		t.Errorf("got %+v, %v, want 1 lost", went, err)
	}
	none, came, err := startCrowd(context.Background(), "127.0.0.1:1", 1, 0)
	if err != nil || came.Lack == "" {
		t.Errorf("nobody listens: %v, lack %q", err, came.Lack)
	}
	none.dismiss()
}

func cork(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1)
	})
	if err := errors.Join(err, refused); err != nil {
		t.Error(err)
	}
}
