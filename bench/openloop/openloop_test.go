package openloop

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// sleepPacer paces by Go's timers, which a synctest bubble can fake.
type sleepPacer struct{}

func (sleepPacer) Until(at time.Time) error { time.Sleep(time.Until(at)); return nil }
func (sleepPacer) Close() error             { return nil }

// stalling is a server that answers in a millisecond, except that it does nothing at all for
// some time.
type stalling struct{ from, until time.Time }

func (s stalling) dial(context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go s.serve(theirs)
	return ours, nil
}

func (s stalling) serve(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if now := time.Now(); !now.Before(s.from) && now.Before(s.until) {
			time.Sleep(s.until.Sub(now))
		}
		time.Sleep(time.Millisecond)
		if request.URL.Path == "/wrong" {
			_, err = io.WriteString(conn, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
		} else {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		}
		if err != nil {
			return
		}
	}
}

func get(class, path string, length int64) Message {
	wire := "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n"
	return Message{Class: class, Method: "GET", Wire: []byte(wire), Length: length}
}

// The reason for having a generator of our own.
func TestOpenLoopShowsTheStallThatAClosedLoopHides(t *testing.T) {
	const stall = 500 * time.Millisecond
	quantile := func(rate float64, q float64) (found time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			from := time.Now().Add(time.Second)
			load := Plan{
				Dial:     stalling{from, from.Add(stall)}.dial,
				Cycle:    []Message{get("", "/", 2)},
				Rate:     rate,
				Duration: 2 * time.Second,
				Drain:    time.Second,
				Clients:  16,
			}
			result, err := load.Run(context.Background(), sleepPacer{})
			if err != nil || len(result.faults) > 0 {
				t.Fatalf("run at %v/s: %v, faults %v, want none", rate, err, result.faults)
			}
			if rate > 0 && result.done != 2000 {
				t.Errorf("%d answers at %v/s in 2 s, want 2000", result.done, rate)
			}
			found = time.Duration(result.all.ValueAtQuantile(q)) * time.Microsecond
		})
		return found
	}
	const open, closed = 1000, 0
	if got := quantile(closed, 99); got > 5*time.Millisecond {
		t.Errorf("closed loop: p99 is %v; it was to hide the stall", got)
	}
	// A quarter of the requests are due in the stall; the median of those waits half of it.
	if got := quantile(open, 87.5); got < stall/3 {
		t.Errorf("open loop: p87.5 is %v, want more than %v", got, stall/3)
	}
	if got := quantile(open, 99); got < stall*8/10 || got > stall*12/10 {
		t.Errorf("open loop: p99 is %v, want about %v", got, stall)
	}
}

// A server that never comes back: each request due counts, with the time it waited.
func TestOpenLoopCountsWhatIsNeverAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(time.Second)
		load := Plan{
			Dial:     stalling{from, from.Add(time.Hour)}.dial,
			Cycle:    []Message{get("", "/", 2)},
			Rate:     100,
			Duration: 2 * time.Second,
			Drain:    time.Second,
			Clients:  4,
		}
		result, err := load.Run(context.Background(), sleepPacer{})
		if err != nil {
			t.Fatal(err)
		}
		if result.done != 100 || result.faults[FaultTimeout] != 100 {
			t.Errorf("%d answers, faults %v; want 100 and 100 timeouts", result.done, result.faults)
		}
		if got := result.all.TotalCount(); got != 200 {
			t.Errorf("%d latencies, want one for each of the 200 due", got)
		}
		if got := time.Duration(result.all.Max()) * time.Microsecond; got < 1900*time.Millisecond {
			t.Errorf("longest wait is %v, want the 2 s of the first that got no answer", got)
		}
		time.Sleep(2 * time.Hour) // of the bubble's time: the server wakes and finds nobody
	})
}

func TestOpenLoopKeepsClassesAndFaultsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load := Plan{
			Dial: stalling{}.dial,
			Cycle: []Message{
				get("good", "/", 2), get("good", "/", 2), get("bad", "/wrong", 0),
				get("short", "/", 3),
			},
			Rate:     100,
			Duration: 2 * time.Second,
			Drain:    time.Second,
			Clients:  4,
		}
		result, err := load.Run(context.Background(), sleepPacer{})
		if err != nil {
			t.Fatal(err)
		}
		if result.classes["good"].TotalCount() != 100 || result.faults[FaultStatus] != 50 ||
			result.faults[FaultLength] != 50 {
			t.Errorf("%d good, faults %v; want 100, 50 status, 50 length",
				result.classes["good"].TotalCount(), result.faults)
		}
	})
}

func TestOpenLoopReportsRefusedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		load := Plan{
			Dial:     func(context.Context) (net.Conn, error) { return nil, refused },
			Cycle:    []Message{get("", "/", 2)},
			Rate:     100,
			Duration: time.Second,
			Clients:  4,
		}
		result, err := load.Run(context.Background(), sleepPacer{})
		if err != nil || result.done != 0 || result.faults[FaultConnect] != 100 {
			t.Errorf("%v, %d answers, faults %v; want 100 connect faults",
				err, result.done, result.faults)
		}
	})
}

func TestTimerIsNeverEarly(t *testing.T) {
	pace, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	defer pace.Close()
	for _, wait := range []time.Duration{-1, 0, 1, 100 * time.Microsecond, 3 * time.Millisecond} {
		at := time.Now().Add(wait)
		if err := pace.Until(at); err != nil {
			t.Fatal(err)
		}
		if early := time.Until(at); early > 0 {
			t.Errorf("until %v from now returned %v early", wait, early)
		}
	}
}

// A rate that the connections cannot carry is said; a stall that is caught up with is not.
func TestReportWarnsOfARateThatWasNotKept(t *testing.T) {
	for _, c := range []struct {
		clients int
		kept    bool
	}{{16, true}, {1, false}} {
		synctest.Test(t, func(t *testing.T) {
			from := time.Now().Add(time.Second)
			load := Plan{
				Dial:     stalling{from, from.Add(500 * time.Millisecond)}.dial,
				Cycle:    []Message{get("", "/", 2)},
				Rate:     2000, // 1 ms each: one connection carries half of it
				Duration: 2 * time.Second,
				Drain:    10 * time.Second,
				Clients:  c.clients,
			}
			result, err := load.Run(context.Background(), sleepPacer{})
			if err != nil {
				t.Fatal(err)
			}
			report := result.Report(0)
			if kept := len(report.Warnings) == 0; kept != c.kept {
				t.Errorf("%d connections: %.1f/s sent, warnings %q; want kept %v",
					c.clients, report.Sent, report.Warnings, c.kept)
			}
		})
	}
}
