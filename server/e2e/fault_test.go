package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The fault tests break things on purpose while an open-loop load runs beside, and ask that only
// they break. Without GOPHERSNAKE_FAULT each is a small sample of itself.

// fullFaults tells whether the faults have their full size.
func fullFaults() bool { return os.Getenv("GOPHERSNAKE_FAULT") != "" }

// scaled is a number of the full fault, or of its sample.
func scaled[T any](full, sample T) T {
	if fullFaults() {
		return full
	}
	return sample
}

// The load: a fixed arrival rate, whatever the server does.
const (
	loadPerSecond  = 200
	loadConns      = 64
	loadPostBytes  = 64 << 10
	loadCalm       = 3 * time.Second // of load alone, for its own baseline
	loadP99Floor   = 150 * time.Millisecond
	loadP99Sample  = 3 * time.Second
	loadQueueMax   = 10_000 // requests that wait for a connection of the load
	loadLineBlocks = 32     // of a streamed answer; see apps/faults.py
)

// load is a running load. Its sums are complete after stop.
type load struct {
	s       *server
	every   time.Duration                                     // between two requests
	mix     func(kind int, canary string) (text, want string) // kind is 0 to 9
	judge   func(connection int, a answer) (wrong string)     // nil: nothing more is asked
	arrive  chan time.Time
	quit    chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex // over the rest
	noted    *sync.Cond // some request has ended, in whatever way
	ended    int        // requests that have
	connects int        // connections that could not be made
	cut      []string   // answers that are not whole
	wrong    []string   // answers with other bytes than their request's
	refused  []string   // statuses from 500 on
	took     []time.Duration
}

// startFaults serves apps/faults.py.
func startFaults(t *testing.T, args ...string) *server {
	t.Helper()
	return start(t, anyPython(), append([]string{"faults:app", "--chdir", absolute(appsDir)},
		args...)...)
}

// startLoad begins the load; the test has to stop it.
func (s *server) startLoad() *load {
	return s.startLoadOf(&load{every: time.Second / loadPerSecond, mix: mixed})
}

// startLoadOf begins a load that differs in what l says.
func (s *server) startLoadOf(l *load) *load {
	l.s, l.arrive, l.quit = s, make(chan time.Time, loadQueueMax), make(chan struct{})
	l.noted = sync.NewCond(&l.mu)
	for number := range loadConns {
		l.running.Go(func() { l.connection(number, rand.New(rand.NewPCG(1, uint64(number)))) })
	}
	l.running.Go(l.clock)
	return l
}

// clock sends the times at which requests are due, however late it is itself.
func (l *load) clock() {
	defer close(l.arrive)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	due := time.Now()
	for {
		select {
		case <-l.quit:
			return
		case <-tick.C:
		}
		for ; !due.After(time.Now()); due = due.Add(l.every) {
			l.arrive <- due
		}
	}
}

// connection sends requests on one kept connection, and makes a new one only after an error.
func (l *load) connection(number int, dice *rand.Rand) {
	var conn net.Conn
	var r *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for due := range l.arrive {
		if conn == nil {
			var err error
			if conn, err = net.DialTimeout("tcp", l.s.address(), answerMax); err != nil {
				l.note(func() { l.connects++ })
				continue
			}
			r = bufio.NewReader(conn)
		}
		if !l.exchange(number, conn, r, dice, due) {
			conn.Close()
			conn = nil
		}
	}
}

// exchange makes one request and judges its answer; false when the connection is of no more use.
func (l *load) exchange(number int, conn net.Conn, r *bufio.Reader, dice *rand.Rand,
	due time.Time) bool {
	canary := strconv.FormatUint(dice.Uint64(), 36)
	text, want := l.mix(dice.IntN(10), canary)
	_ = conn.SetDeadline(time.Now().Add(answerMax))
	_, sendErr := io.WriteString(conn, text)
	a, err := readAnswer(r, false)
	took := time.Since(due)
	var failed *[]string
	switch {
	case err != nil || !a.whole:
		failed = &l.cut
	case a.status >= 500:
		failed = &l.refused
	case a.get("X-Canary") != canary || string(a.body) != want:
		failed = &l.wrong
	case l.judge != nil && l.judge(number, a) != "":
		failed = &l.wrong
	}
	l.note(func() {
		l.took = append(l.took, took)
		if failed != nil {
			*failed = append(*failed, fmt.Sprintf("%.60q: %v, %v: %s", text, sendErr, err, a))
		}
	})
	return failed == nil && !strings.EqualFold(a.get("Connection"), "close")
}

// mixed is one of the requests of the load, and what its body must be.
func mixed(kind int, canary string) (text, want string) {
	line := "X-Canary: " + canary
	body := strings.Repeat(canary+",", loadPostBytes/(len(canary)+1))
	switch kind {
	case 0:
		return request("POST", "/echo", body, line), canary + "|" + body
	case 1:
		text = request("POST", "/echo", "", line, "Transfer-Encoding: chunked")
		for rest := body; rest != ""; {
			n := min(len(rest), 10_000)
			text += fmt.Sprintf("%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		return text + "0\r\n\r\n", canary + "|" + body
	case 2:
		return get("/stream", line), strings.Repeat(canary, loadLineBlocks)
	}
	return get("/echo", line), canary + "|"
}

func (l *load) note(add func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add()
	l.ended++
	l.noted.Broadcast()
}

// awaitOne waits until one more request has ended: what was quicker than the load has seen nothing.
func (l *load) awaitOne() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for before := l.ended; l.ended == before; {
		l.noted.Wait()
	}
}

// stop ends the load, when one more request has ended, and returns the latency that 99 of 100
// requests kept to; 0 when no connection could be made.
func (l *load) stop() (p99 time.Duration) {
	l.awaitOne()
	close(l.quit)
	l.running.Wait()
	if len(l.took) == 0 {
		return 0
	}
	slices.Sort(l.took)
	return l.took[len(l.took)*99/100]
}

// wantNoneFailed requires that no request of a stopped load failed in any way.
func (l *load) wantNoneFailed(t *testing.T) {
	t.Helper()
	if l.connects > 0 {
		t.Errorf("load: %d connections could not be made", l.connects)
	}
	for what, all := range map[string][]string{
		"cut": l.cut, "of wrong bytes": l.wrong, "refused": l.refused,
	} {
		if len(all) > 0 {
			t.Errorf("load: %d of %d answers %s; the first: %s", len(all), len(l.took), what,
				all[0])
		}
	}
}

// calm is the load's own latency, with nothing beside.
func (s *server) calm(t *testing.T) time.Duration {
	t.Helper()
	l := s.startLoad()
	wait(loadCalm)
	p99 := l.stop()
	l.wantNoneFailed(t)
	return p99
}

// wait is for what has a duration of its own, such as a load; it waits for no event.
func wait(d time.Duration) { <-time.NewTimer(d).C }

// wantP99 compares a load's latency with its baseline. A sample runs beside other tests, on a
// machine that may be busy: it only sees a load that stood still.
func wantP99(t *testing.T, got, calm time.Duration) {
	t.Helper()
	t.Logf("p99: %v, without the fault %v", got.Round(time.Millisecond),
		calm.Round(time.Millisecond))
	most := max(2*calm, loadP99Floor)
	if !fullFaults() {
		most = loadP99Sample
	}
	if got > most {
		t.Errorf("p99 of the load: got %v, want at most %v", got, most)
	}
}

// rss is what the server's own process has in memory, in bytes.
func (s *server) rss() int64 {
	return s.status("VmRSS:") << 10
}

// status reads a number of /proc/PID/status.
func (s *server) status(name string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	s.t.Fatalf("no %s in /proc/PID/status", name)
	return 0
}

// descriptors counts what the server has open.
func (s *server) descriptors() int {
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	return len(all)
}

// cpu is the time that the server's own process has used.
func (s *server) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick
}

// recovered requires that the server is as before: a smoke set passes, descriptors are back.
func (s *server) recovered(t *testing.T, descriptors int) {
	t.Helper()
	for range 20 {
		for kind := range 4 {
			text, want := mixed(kind, "smoke")
			w := dial(t, s.url())
			wantEqual(t, "smoke", string(w.send(text).want(200).body), want)
			w.Close()
		}
	}
	eventually(t, 5*time.Second, fmt.Sprintf("about %d descriptors", descriptors), func() bool {
		return s.descriptors() <= descriptors+descriptors/20+2
	})
}

// isTimeout tells a connection that hangs from one that has ended.
func isTimeout(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}
