package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	vanishPerSecond = 500
	vanishAfter     = time.Second // at the latest
)

// vanish lets clients come that reset their connections at a random byte.
func (s *server) vanish(length time.Duration) {
	seed := uint64(os.Getpid())
	s.t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 5))
	tick := time.NewTicker(time.Second / vanishPerSecond)
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for end := time.Now().Add(length); time.Now().Before(end); {
		<-tick.C
		kind, sent, read := dice.IntN(5), dice.Float64(), dice.IntN(200_000)
		running.Go(func() { s.vanishOnce(kind, sent, read) })
	}
}

// vanishOnce sends a request of the load's kinds, or one for a large answer: a part of it, or all
// of it and reads some bytes.
func (s *server) vanishOnce(kind int, sent float64, read int) {
	conn, err := net.DialTimeout("tcp", s.address(), answerMax)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.SetDeadline(time.Now().Add(vanishAfter))
	text, _ := mixed(kind, "vanishing")
	if kind == 4 {
		text = get("/big/1")
	}
	if sent < 0.5 {
		_, _ = io.WriteString(conn, text[:int(2*sent*float64(len(text)))])
		return
	}
	_, _ = io.WriteString(conn, text)
	_, _ = io.CopyN(io.Discard, conn, int64(read)) // to the answer's end at most
}

// The storm of FI-16.
const (
	stormIdleBytesMax = 8 << 10 // of memory for an idle connection, Go's and its share of the rest
	stormSettleMax    = 2 * time.Second
)

// FI-16: twenty thousand connects in two seconds, five thousand of them stay idle.
func TestFaultConnectionStorm(t *testing.T) {
	connects, idle := scaled(20_000, 1500), scaled(5000, 500)
	if need := idle + 2000; openFilesMax(t) < need {
		t.Skipf("this test needs %d descriptors", need)
	}
	s := startFaults(t)
	calm := s.calm(t)
	files, before := s.descriptors(), s.rss()
	l := s.startLoad()
	kept := s.storm(connects, idle, 2*time.Second)
	began := time.Now()
	w := dial(t, s.url()) // behind all who wait in the backlog
	w.send(get("/echo")).want(200)
	if took := time.Since(began); took > stormSettleMax {
		t.Errorf("a client after the storm: got its answer after %v", took)
	}
	stormP99 := l.stop()
	l.wantNoneFailed(t)
	each := (s.rss() - before) / int64(len(kept))
	t.Logf("%d idle connections: %d bytes each; p99 in the storm %v", len(kept), each, stormP99)
	if fullFaults() && each > stormIdleBytesMax {
		t.Errorf("idle connection: got %d bytes of memory, want at most %d", each,
			stormIdleBytesMax)
	}
	l = s.startLoad()
	wait(loadCalm)
	p99 := l.stop()
	l.wantNoneFailed(t)
	wantP99(t, p99, calm)
	for _, conn := range kept {
		conn.Close()
	}
	w.Close()
	s.recovered(t, files)
}

// storm connects as fast as asked and closes all but the idle ones.
func (s *server) storm(connects, idle int, length time.Duration) []net.Conn {
	var mu sync.Mutex
	var kept []net.Conn
	var running sync.WaitGroup
	const hands = 50
	began := time.Now()
	for hand := range hands {
		running.Go(func() {
			for i := hand; i < connects; i += hands {
				due := began.Add(length * time.Duration(i) / time.Duration(connects))
				wait(time.Until(due))
				conn, err := net.DialTimeout("tcp", s.address(), answerMax)
				if err != nil {
					continue
				}
				mu.Lock()
				keep := len(kept) < idle
				if keep {
					kept = append(kept, conn)
				}
				mu.Unlock()
				if !keep {
					conn.Close()
				}
			}
		})
	}
	running.Wait()
	s.t.Logf("%d connects in %v", connects, time.Since(began).Round(time.Millisecond))
	return kept
}

func openFilesMax(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(limit.Cur)
}

// The slicer of FI-15 cuts both directions into pieces of 1 to 3 bytes, up to 2 ms apart. What is
// longer than slicesMax pieces goes in larger ones.
const (
	slicesMax   = 150
	slicePause  = 2 * time.Millisecond
	sliceLength = 3
)

// FI-15: every raw case comes out the same through a slicer.
func TestFaultSliced(t *testing.T) {
	cases := readRawCases(t)
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 15))
	plain := startEcho(t)
	fixtures := startFixtures(t, anyPython())
	for _, c := range cases {
		s := plain
		if len(c.id) > 3 && c.id[:3] == "RS-" {
			s = fixtures
		}
		if !fullFaults() && dice.IntN(10) > 0 {
			continue
		}
		cuts := dice.Uint64()
		t.Run(c.id, func(t *testing.T) {
			t.Parallel()
			c.run(t, s.sliced(t, cuts), c.steps)
		})
	}
}

// sliced is the server as it looks through a slicer, for one connection.
func (s *server) sliced(t *testing.T, seed uint64) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { ln.Close() })
	running.Go(func() {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		defer near.Close()
		far, err := net.DialTimeout("tcp", s.address(), answerMax)
		if err != nil {
			return
		}
		defer far.Close()
		var both sync.WaitGroup
		both.Go(func() { slice(far, near, rand.New(rand.NewPCG(seed, 1))) })
		both.Go(func() {
			slice(near, far, rand.New(rand.NewPCG(seed, 2)))
			near.Close() // the client ends what it still sends
		})
		both.Wait()
	})
	proxied := *s
	proxied.urls = []string{fmt.Sprintf("http://%s", ln.Addr())}
	return &proxied
}

// slice copies in small pieces, and then passes the end on.
func slice(to, from net.Conn, dice *rand.Rand) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		longest := max(sliceLength, n/slicesMax)
		for rest := buf[:n]; len(rest) > 0; {
			cut := min(1+dice.IntN(longest), len(rest))
			if _, err := to.Write(rest[:cut]); err != nil {
				return
			}
			rest = rest[cut:]
			wait(time.Duration(dice.Int64N(int64(slicePause))))
		}
		if err != nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
	}
}
