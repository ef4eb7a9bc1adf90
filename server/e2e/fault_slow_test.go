package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// crowd is many bad clients at once. Each runs on its own connection, and the sums are complete
// after wait.
type crowd struct {
	sync.WaitGroup
	mu       sync.Mutex
	statuses map[string]int // how clients ended: a status line, "closed" or an error
	longest  time.Duration  // that one lived
}

// open lets n clients come, so many a second; each begins with hello.
func (s *server) open(n, perSecond int, hello string, behave func(net.Conn)) *crowd {
	c := &crowd{statuses: map[string]int{}}
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for range n {
		<-tick.C
		conn, err := dialFar(s.address())
		if err != nil {
			c.ended("no connection", 0)
			continue
		}
		c.Go(func() {
			defer conn.Close()
			began := time.Now()
			_, _ = io.WriteString(conn, hello)
			behave(conn)
			_ = conn.SetReadDeadline(time.Now().Add(answerMax))
			line, err := bufio.NewReader(conn).ReadString('\n')
			c.ended(how(line, err), time.Since(began))
		})
	}
	return c
}

// how names the end of a connection.
func how(line string, err error) string {
	switch {
	case len(line) > 12:
		return line[9:12]
	case err == io.EOF:
		return "closed"
	case isTimeout(err):
		return "hangs"
	}
	return "reset"
}

func (c *crowd) ended(how string, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statuses[how]++
	c.longest = max(c.longest, after)
}

// drip sends text piece by piece until something comes back, for the time given at most.
func drip(conn net.Conn, piece string, every, most time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.Now().Add(most); time.Now().Before(end); {
		_ = conn.SetReadDeadline(time.Now().Add(every))
		if _, err := conn.Read(make([]byte, 0)); err != nil && !isTimeout(err) {
			return
		}
		<-tick.C
		if _, err := io.WriteString(conn, piece); err != nil {
			return
		}
	}
}

// FI-01: two thousand clients that never finish their heads, beside the load.
func TestFaultSlowHeads(t *testing.T) {
	clients := scaled(2000, 200)
	timeout := scaled(10*time.Second, 2*time.Second)
	s := startFaults(t, "--header-timeout", timeout.String())
	calm := s.calm(t)
	before, files := s.rss(), s.descriptors()
	l := s.startLoad()
	c := s.open(clients, 500, "GET / HTTP/1.1\r\nHost: a\r\n", func(conn net.Conn) {
		// The server's answer ends the dripping: writing goes on until it fails.
		drip(conn, "X-A: b\r\n", timeout/4, timeout+timeout/2)
	})
	grown := s.rss() - before
	c.Wait()
	p99 := l.stop()
	l.wantNoneFailed(t)
	wantP99(t, p99, calm)
	t.Logf("%d clients ended %v", clients, c.statuses)
	if c.statuses["408"]+c.statuses["reset"]+c.statuses["closed"] != clients {
		t.Errorf("clients ended: got %v, want each closed by 408", c.statuses)
	}
	if most := int64(clients) * (36 << 10); grown > most {
		t.Errorf("memory: grew by %d bytes, want at most %d", grown, most)
	}
	s.recovered(t, files)
}

// FI-01, the deadline: each slow client is closed at most a second after its header timeout.
func TestFaultSlowHeadsAreClosed(t *testing.T) {
	clients := scaled(500, 50)
	const timeout = 2 * time.Second
	s := startFaults(t, "--header-timeout", timeout.String())
	c := s.open(clients, 500, "GET / HTTP/1.1\r\nHost: a\r\n", func(net.Conn) {})
	c.Wait()
	if c.statuses["408"] != clients || c.longest > timeout+time.Second {
		t.Errorf("slow clients: got %v, the longest after %v; want all 408 within %v", c.statuses,
			c.longest, timeout+time.Second)
	}
}

// FI-02: a thousand clients that send their bodies too slowly.
func TestFaultSlowBodies(t *testing.T) {
	clients := scaled(1000, 100)
	timeout := scaled(10*time.Second, 2*time.Second)
	s := startFaults(t, "--body-timeout", timeout.String())
	calm := s.calm(t)
	files := s.descriptors()
	l := s.startLoad()
	head := "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
	c := s.open(clients, 500, head, func(conn net.Conn) {
		drip(conn, "xxxxxxxx", timeout/4, timeout+timeout/2)
	})
	c.Wait()
	p99 := l.stop()
	l.wantNoneFailed(t)
	wantP99(t, p99, calm)
	t.Logf("%d clients ended %v", clients, c.statuses)
	if c.statuses["hangs"] > 0 || c.statuses["200"] > 0 {
		t.Errorf("clients ended: got %v, want each closed by 408", c.statuses)
	}
	s.recovered(t, files)
}

// FI-02: clients that read next to nothing of a large answer. No thread waits for them while there
// is room in files, which the sample shows by the load's latency; when there is none, as in the
// full test, they are closed for those who wait.
func TestFaultSlowReaders(t *testing.T) {
	clients := scaled(1000, 60)
	s := startFaults(t, "--write-timeout", "15s", "--max-spool", "1GiB")
	calm := s.calm(t)
	before, files := s.rss(), s.descriptors()
	l := s.startLoad()
	quit := make(chan struct{})
	began := time.Now()
	c := s.open(clients, 50, "", func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetReadBuffer(1024)
		_, _ = io.WriteString(conn, get("/big/10"))
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for buf := make([]byte, 32); ; {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(buf); err != nil {
				return
			}
		}
	})
	if left := scaled(40*time.Second, 6*time.Second) - time.Since(began); left > 0 {
		wait(left)
	}
	grown := s.rss() - before
	p99 := l.stop()
	close(quit)
	c.Wait()
	l.wantNoneFailed(t)
	t.Logf("p99: %v, without the fault %v", p99, calm)
	if !fullFaults() && p99 > time.Second {
		t.Errorf("p99 of the load: got %v: requests waited for threads that wait for readers", p99)
	}
	const each = 600 << 10 // what one may hold: memory, the ring's rest, a goroutine
	if most := int64(clients)*each + 64<<20; grown > most {
		t.Errorf("memory: grew by %d MiB, want at most %d", grown>>20, most>>20)
	}
	t.Logf("memory grew by %d MiB for %d readers", grown>>20, clients)
	s.recovered(t, files)
	eventually(t, answerMax, "every generator to be closed", func() bool {
		var begun, closed int
		body := dial(t, s.url()).send(get("/counts")).want(200).body
		_, err := fmt.Sscan(string(body), &begun, &closed)
		return err == nil && begun == closed
	})
}
