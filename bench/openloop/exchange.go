package openloop

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
const readBufferBytes = 16 << 10

// Dialer opens a connection to the server under load.
type Dialer func(ctx context.Context) (net.Conn, error)

// Message is one request as it goes over the wire, and what its answer must look like.
type Message struct {
	Class  string // requests of one class are counted together
	Method string // decides whether the answer has a body
	Wire   []byte
	Length int64 // of the answer's body, in bytes; below zero any length will do
}

// Fault is a failed exchange; its kind is what the report counts.
type Fault struct {
	Kind string
	Err  error
}

func (f *Fault) Error() string { return f.Kind + ": " + f.Err.Error() }
func (f *Fault) Unwrap() error { return f.Err }

// The kinds of faults. Timeouts are apart: such a request still has a latency, its wait.
const (
	FaultConnect = "connect"
	FaultWrite   = "write"
	FaultRead    = "read"
	FaultStatus  = "status"
	FaultLength  = "length"
	FaultTimeout = "timeout"
)

func newFault(kind string, err error) *Fault {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		kind = FaultTimeout
	}
	return &Fault{kind, err}
}

// Link is a connection that is opened when needed and kept from exchange to exchange. One
// goroutine uses it.
type Link struct {
	dial     Dialer
	deadline time.Time // of everything the link does; the zero time is none
	conn     net.Conn
	unwatch  func() bool // ends the watch over the context that conn was opened under
	reader   *bufio.Reader
}

// NewLink makes a link of no connection yet. Its user closes it.
func NewLink(dial Dialer, deadline time.Time) *Link {
	return &Link{dial: dial, deadline: deadline, reader: bufio.NewReaderSize(nil, readBufferBytes)}
}

// Close closes the connection, if there is one.
func (l *Link) Close() {
	if l.conn != nil {
		l.unwatch()
		l.conn.Close()
		l.conn = nil
	}
}

// Do sends m and reads the whole answer, of which it returns the body's length. After a fault,
// or when the server says so, the connection is closed and the next exchange opens another.
func (l *Link) Do(ctx context.Context, m *Message) (int64, *Fault) {
	length, _, failed := l.Exchange(ctx, m, io.Discard)
	return length, failed
}

// Exchange is Do for those who want the answer: its body goes to body, its head is returned unless
// it did not come. The end of the context under which the connection was opened ends the wait.
func (l *Link) Exchange(ctx context.Context, m *Message, body io.Writer) (
	int64, *http.Response, *Fault,
) {
	if l.conn == nil {
		conn, err := l.dial(ctx)
		if err != nil {
			return 0, nil, newFault(FaultConnect, err)
		}
		l.conn = conn
		l.reader.Reset(conn)
		err = conn.SetDeadline(l.deadline)
		l.unwatch = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
		if err != nil {
			l.Close()
			return 0, nil, newFault(FaultConnect, err)
		}
	}
	if _, err := l.conn.Write(m.Wire); err != nil {
		l.Close()
		return 0, nil, newFault(FaultWrite, err)
	}
	answer, err := http.ReadResponse(l.reader, &http.Request{Method: m.Method})
	if err != nil {
		l.Close()
		return 0, nil, newFault(FaultRead, err)
	}
	length, err := io.Copy(body, answer.Body)
	if err != nil {
		l.Close()
		return 0, nil, newFault(FaultRead, err)
	}
	if answer.Close {
		l.Close()
	}
	if answer.StatusCode/100 != 2 {
		return length, answer, newFault(FaultStatus, errors.New(answer.Status))
	}
	if m.Length >= 0 && length != m.Length {
		return length, answer, newFault(FaultLength,
			fmt.Errorf("%d bytes of body, want %d", length, m.Length))
	}
	return length, answer, nil
}
