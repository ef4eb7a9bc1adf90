package e2e

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"
)

// crashThreads is how many threads a worker of these tests has.
const crashThreads = 2

func startCrashes(t *testing.T, args ...string) *server {
	t.Helper()
	return start(t, anyPython(), append([]string{"crashes:app", "--chdir", absolute(appsDir),
		"--workers", "2", "--threads", fmt.Sprint(crashThreads)}, args...)...)
}

// FI-06: what an app raises costs its request a 500 and nothing else; what ends the process costs
// that worker's requests, and no others.
func TestFaultCrashes(t *testing.T) {
	s := startCrashes(t)
	s.twoWorkers(t)
	descriptors := s.descriptors()
	l := s.startLoad()
	before := s.workers()
	for _, way := range []string{"/exit", "/recursion", "/memory"} {
		for range scaled(10, 2) {
			s.ask(t, get(way), 500)
		}
	}
	slices.Sort(before)
	if now := s.workers(); !slices.Equal(sorted(now), before) {
		t.Errorf("workers: got %v, want still %v", now, before)
	}
	deaths := 0
	for range scaled(5, 1) {
		for _, way := range []string{"/segfault", "/abort", "/os-exit"} {
			s.ask(t, get(way), 502)
			deaths++
			wait(killLifeMin) // quicker deaths would be a crash loop
		}
	}
	l.stop()
	if n := len(l.refused) + len(l.cut); n > deaths*(crashThreads-1) || l.connects > 0 {
		t.Errorf("failed beside %d deaths: got %d and %d connections, want at most %d; %q %q",
			deaths, n, l.connects, deaths*(crashThreads-1), l.refused, l.cut)
	}
	if len(l.wrong) > 0 {
		t.Errorf("wrong answers: got %d, want 0; the first: %s", len(l.wrong), l.wrong[0])
	}
	s.wantWorkers(t, 2)
	s.recovered(t, descriptors)
}

// ask makes one request on a connection of its own, and wants this status.
func (s *server) ask(t *testing.T, text string, status int) {
	t.Helper()
	w := dial(t, s.url())
	defer w.Close()
	w.send(text).want(status)
}

func sorted(all []int) []int { slices.Sort(all); return all }

// twoWorkers waits until both workers serve: one is held up while the other one answers.
func (s *server) twoWorkers(t *testing.T) {
	t.Helper()
	hog := dial(t, s.url()).send(get("/hog/100"))
	for range crashThreads {
		s.ask(t, get("/hog/1"), 200)
	}
	hog.want(200)
	hog.Close()
	eventually(t, answerMax, "a second worker that serves", func() bool {
		long := dial(t, s.url()).send(get("/hog/50"))
		begun := time.Now()
		s.ask(t, get("/echo"), 200)
		took := time.Since(begun)
		long.want(200)
		long.Close()
		return took < 40*time.Millisecond
	})
}

// FI-06: a thread that waits for itself gives its client 504; the others go on, also while its
// worker is replaced because the thread does not come free (only the full fault waits for that).
func TestFaultDeadlock(t *testing.T) {
	s := startCrashes(t, "--timeout", "2s", "--graceful-timeout", "500ms")
	s.twoWorkers(t)
	before := sorted(s.workers())
	l := s.startLoad()
	s.ask(t, get("/deadlock"), 504) // and all of --timeout the load runs beside it
	if fullFaults() {
		eventually(t, answerMax, "a worker in the place of the locked one", func() bool {
			now := sorted(s.workers())
			return len(now) == 2 && !slices.Equal(now, before)
		})
	}
	l.stop()
	l.wantNoneFailed(t)
	s.says("in deadlock")      // the stacks tell where
	s.stop(syscall.SIGTERM, 0) // what hangs has had its 504
}

// FI-07: while C code keeps the GIL of one worker, the other one serves all, and what needs no
// Python is answered as always.
func TestFaultGILHog(t *testing.T) {
	s := startCrashes(t, "--header-timeout", "1s", "--max-body", "1000000")
	s.twoWorkers(t)
	descriptors, workers := s.descriptors(), sorted(s.workers())
	most := loadP99Sample
	if fullFaults() {
		most = max(100*time.Millisecond, 3*s.calm(t)) // half of the workers do the work
	}
	held := scaled(5*time.Second, 3500*time.Millisecond) // --header-timeout and room beside
	l := s.startLoad()
	begun := time.Now()
	hog := dial(t, s.url()).send(get(fmt.Sprintf("/hog/%d", held.Milliseconds())))
	s.ask(t, "BAD\r\n\r\n", 400)
	s.ask(t, request("POST", "/echo", "", "Content-Length: 2000000"), 413)
	s.ask(t, "GET / HTTP/1.1\r\nHost", 408)
	for range 20 {
		s.ask(t, get("/echo"), 200)
	}
	if took := time.Since(begun); took > held {
		t.Errorf("beside the hog: got %v, want less than its %v", took, held)
	}
	hog.want(200)
	hog.Close()
	p99 := l.stop()
	l.wantNoneFailed(t)
	t.Logf("p99 beside the hog: %v", p99)
	if p99 > most {
		t.Errorf("p99 beside the hog: got %v, want at most %v", p99, most)
	}
	if now := sorted(s.workers()); !slices.Equal(now, workers) {
		t.Errorf("workers: got %v, want still %v", now, workers)
	}
	s.recovered(t, descriptors)
}
