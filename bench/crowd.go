package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The clients that are there while others are measured: idle ones, which hold a connection that
// has served a request, and slow ones, which send a head or a body or read an answer a byte a
// second, and come back when the server throws them out.

const (
	crowdDialersMax = 32               // that open connections at the same time
	crowdOpenMax    = 60 * time.Second // for all of them to be there
	slowInterval    = time.Second      // between two bytes of a slow client
	slowPhases      = 1000             // parts of that, in each of which as many clients are due
	slowSettled     = 4 * time.Second  // after they have come
	slowBodyBytes   = 1_000            // that a slow client says it will send
	slowWindow      = 4 << 10          // bytes of receive buffer of one that reads slowly
)

// crowd holds connections until it is closed. Its methods are for one goroutine.
type crowd struct {
	address string
	mu      sync.Mutex // guards conns while they are being opened
	conns   []net.Conn // the idle ones
	stop    context.CancelFunc
	over    sync.WaitGroup
}

// gather opens idle and slow connections. It may return fewer than asked for, with the reason.
func gather(ctx context.Context, address string, idle, slow int) (*crowd, error) {
	ctx, stop := context.WithCancel(ctx)
	c := &crowd{address: address, stop: stop}
	err := c.openIdle(ctx, idle)
	if slow > 0 {
		clients := make([]*slowClient, slow)
		for i := range clients {
			clients[i] = &slowClient{address: address, kind: slowKind(i % int(slowKinds))}
		}
		// All are there before anything is measured, and for a while: that they all come in the same
		// moment, and that the kernel then asks all that do not read at once for more room, is
		// another load.
		opened := tickAll(clients)
		if opened < int64(slow) {
			err = errors.Join(err, fmt.Errorf("%d of %d slow clients", opened, slow))
		}
		settled := time.NewTimer(slowSettled)
		defer settled.Stop()
		c.over.Go(func() { c.keepSlow(ctx, clients) })
		select {
		case <-settled.C:
		case <-ctx.Done():
		}
	}
	return c, err
}

func (c *crowd) openIdle(ctx context.Context, count int) error {
	ctx, cancel := context.WithTimeout(ctx, crowdOpenMax)
	defer cancel()
	wire := []byte("GET / HTTP/1.1\r\nHost: " + c.address + "\r\n\r\n")
	next := make(chan struct{})
	var dialers sync.WaitGroup
	var first error
	for range min(count, crowdDialersMax) {
		dialers.Go(func() {
			for range next {
				conn, err := openOne(ctx, c.address, wire)
				c.mu.Lock()
				if err == nil {
					c.conns = append(c.conns, conn)
				} else if first == nil {
					first = err
				}
				c.mu.Unlock()
			}
		})
	}
	for range count {
		next <- struct{}{}
	}
	close(next)
	dialers.Wait()
	if len(c.conns) < count {
		return fmt.Errorf("%d of %d idle clients: %w", len(c.conns), count, first)
	}
	return nil
}

// openOne opens a connection and has one request answered, so that it is a kept-alive one.
func openOne(ctx context.Context, address string, wire []byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	err = errors.Join(conn.SetDeadline(deadline), writeAll(conn, wire))
	if err == nil {
		var answer *http.Response
		answer, err = http.ReadResponse(bufio.NewReaderSize(conn, 1<<10), nil)
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			if err == nil && answer.Close {
				err = errors.New("the server does not keep connections")
			}
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

func writeAll(conn net.Conn, data []byte) error {
	_, err := conn.Write(data)
	return err
}

// lostIdle counts the idle connections that the server has ended meanwhile.
func (c *crowd) lostIdle() (lost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		if ended(conn) {
			lost++
		}
	}
	return lost
}

// ended tells whether the peer of a connection, on which nothing is due, has closed it. It asks the
// kernel: a Read whose deadline is near may time out before it has looked.
func ended(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	var state error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, state = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true // no second look
	})
	return err != nil || !errors.Is(state, unix.EAGAIN)
}

// dismiss closes everything.
func (c *crowd) dismiss() {
	c.stop()
	c.over.Wait()
	for _, conn := range c.conns {
		conn.Close()
	}
}

// keepSlow lets each slow client do its byte once a second. They know nothing of each other: all of
// them in the same moment would be a load of its own, on the generator first.
func (c *crowd) keepSlow(ctx context.Context, clients []*slowClient) {
	tick := time.NewTicker(slowInterval / slowPhases)
	defer tick.Stop()
	for phase := 0; ; phase = (phase + 1) % slowPhases {
		select {
		case <-ctx.Done():
			for _, client := range clients {
				client.close()
			}
			return
		case <-tick.C:
			n := len(clients)
			tickAll(clients[phase*n/slowPhases : (phase+1)*n/slowPhases])
		}
	}
}

// slowKind is what a slow client is slow at.
type slowKind int

const (
	slowHead slowKind = iota
	slowBody
	slowRead
	slowKinds
)

// slowClient belongs to the goroutine that ticks it.
type slowClient struct {
	address string
	kind    slowKind
	conn    net.Conn
}

func (s *slowClient) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// tickAll lets each client do its byte and counts those that are connected.
func tickAll(clients []*slowClient) (connected int64) {
	for _, client := range clients {
		client.tick()
		if client.conn != nil {
			connected++
		}
	}
	return connected
}

// tick opens the connection if there is none, else sends or reads one byte.
func (s *slowClient) tick() {
	if s.conn == nil {
		s.open()
		return
	}
	var err error
	one := [1]byte{'a'}
	switch s.kind {
	case slowRead:
		_ = s.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err = s.conn.Read(one[:])
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = nil // the server has not answered yet: it is slow as well
		}
	default:
		_, err = s.conn.Write(one[:])
	}
	if err != nil {
		s.close()
	}
}

func (s *slowClient) open() {
	conn, err := net.DialTimeout("tcp4", s.address, slowInterval)
	if err != nil {
		return // the next tick tries again
	}
	s.conn = conn
	text := map[slowKind]string{
		slowHead: "GET / HTTP/1.1\r\nHost: " + s.address + "\r\nX-Slow: ",
		slowBody: fmt.Sprintf("POST /echo HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n",
			s.address, slowBodyBytes),
		slowRead: "GET /100k HTTP/1.1\r\nHost: " + s.address + "\r\n\r\n",
	}[s.kind]
	if s.kind == slowRead {
		_ = conn.(*net.TCPConn).SetReadBuffer(slowWindow) // larger ones only read later
	}
	if err := writeAll(conn, []byte(text)); err != nil {
		s.close()
	}
}
