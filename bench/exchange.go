package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// readBufferBytes is what one read takes from a connection at most.
const readBufferBytes = 64 << 10

// dialer opens a connection to the server under load.
type dialer func(ctx context.Context) (net.Conn, error)

// message is one request as it goes over the wire, and what its answer must look like.
type message struct {
	class  string // requests of one class are counted together
	method string // decides whether the answer has a body
	wire   []byte
	length int64 // of the answer's body, in bytes; below zero any length will do
}

// fault is a failed exchange; its kind is what the report counts.
type fault struct {
	kind string
	err  error
}

func (f *fault) Error() string { return f.kind + ": " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// The kinds of faults. Timeouts are apart: such a request still has a latency, its wait.
const (
	faultConnect = "connect"
	faultWrite   = "write"
	faultRead    = "read"
	faultStatus  = "status"
	faultLength  = "length"
	faultTimeout = "timeout"
)

func newFault(kind string, err error) *fault {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		kind = faultTimeout
	}
	return &fault{kind, err}
}

// link is a connection that is opened when needed and kept from exchange to exchange. One
// goroutine uses it.
type link struct {
	dial     dialer
	deadline time.Time // of everything the link does; the zero time is none
	conn     net.Conn
	reader   *bufio.Reader
}

func newLink(dial dialer, deadline time.Time) *link {
	return &link{dial: dial, deadline: deadline, reader: bufio.NewReaderSize(nil, readBufferBytes)}
}

func (l *link) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// do sends m and reads the whole answer, of which it returns the body's length. After a fault,
// or when the server says so, the connection is closed and the next exchange opens another.
func (l *link) do(ctx context.Context, m *message) (int64, *fault) {
	length, _, failed := l.exchange(ctx, m, io.Discard)
	return length, failed
}

func (l *link) exchange(ctx context.Context, m *message, body io.Writer) (
	int64, *http.Response, *fault,
) {
	if l.conn == nil {
		conn, err := l.dial(ctx)
		if err != nil {
			return 0, nil, newFault(faultConnect, err)
		}
		l.conn = conn
		l.reader.Reset(conn)
		if err := conn.SetDeadline(l.deadline); err != nil {
			l.close()
			return 0, nil, newFault(faultConnect, err)
		}
	}
	if _, err := l.conn.Write(m.wire); err != nil {
		l.close()
		return 0, nil, newFault(faultWrite, err)
	}
	answer, err := http.ReadResponse(l.reader, &http.Request{Method: m.method})
	if err != nil {
		l.close()
		return 0, nil, newFault(faultRead, err)
	}
	length, err := io.Copy(body, answer.Body)
	if err != nil {
		l.close()
		return 0, nil, newFault(faultRead, err)
	}
	if answer.Close {
		l.close()
	}
	if answer.StatusCode/100 != 2 {
		return length, answer, newFault(faultStatus, errors.New(answer.Status))
	}
	if m.length >= 0 && length != m.length {
		return length, answer, newFault(faultLength,
			fmt.Errorf("%d bytes of body, want %d", length, m.length))
	}
	return length, answer, nil
}
