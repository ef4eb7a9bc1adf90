package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The recycling and the killing under load.
const (
	recycleWorkers = 4
	recycles       = 1000 // of the full test
	backMax        = 500 * time.Millisecond
	backSampleMax  = 5 * time.Second // beside other tests, on a machine that may be busy
)

var (
	workerReady = regexp.MustCompile(`DEBUG worker ready`)
	workerGone  = regexp.MustCompile(`worker ended worker=\d+ pid=\d+ .* why="answered \d+ req`)
)

// Workers are replaced, warm, after --max-requests; a thousand times in the full test, under
// load, and no request fails.
func TestFaultRecycling(t *testing.T) {
	s := startFaults(t, "--workers", strconv.Itoa(recycleWorkers), "--threads", "2",
		"--max-requests", "20", "--max-requests-jitter", "5")
	l := s.startLoadOf(&load{every: 2 * time.Millisecond, mix: echoes})
	s.log.wait(t, 10*time.Minute, workerGone, scaled(recycles, 12)-1, s.exited)
	p99 := l.stop()
	l.wantNoneFailed(t)
	t.Logf("%d workers replaced, %d answers, p99 %v", strings.Count(s.log.text(), "why=\"answered"),
		len(l.took), p99)
	s.wantWorkers(t, recycleWorkers)
}

// pidOf is the worker that answers.
func pidOf(t *testing.T, s *server) string {
	t.Helper()
	return string(dial(t, s.url()).send(get("/")).want(200).body)
}

// Each other cause replaces the worker too.
func TestRecyclingCauses(t *testing.T) {
	dir := t.TempDir()
	source := `
import os
HELD = []

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        HELD.append(bytes(range(256)) * (400 << 10))  # 100 MiB
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
`
	if err := os.WriteFile(filepath.Join(dir, "holds.py"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flag, value, path, why string }{
		{"--max-rss", "100MiB", "/hold", "holds 1"},
		{"--max-lifetime", "700ms", "/", "served for "},
	} {
		t.Run(c.flag, func(t *testing.T) {
			s := startCommand(t, command{python: anyPython(), args: []string{"holds:app", "--chdir",
				dir, "-w", "1", c.flag, c.value}})
			before := pidOf(t, s)
			dial(t, s.url()).send(get(c.path)).want(200)
			s.says(`why="` + c.why)
			if after := pidOf(t, s); after == before {
				t.Errorf("pid: got %s twice, want another", after)
			}
		})
	}
}

// FI-04: workers are killed at random moments under load. Only what they ran fails, with none of
// wrong bytes; capacity is back at once; nothing is left behind.
func TestFaultKills(t *testing.T) {
	const workers, threads = 2, 2
	kills := scaled(50, 2)
	s := startFaults(t, "--workers", "2", "--threads", "2", "--log-level", "debug")
	s.log.wait(t, startMax, workerReady, workers-1, s.exited)
	files := s.descriptors()
	dice := rand.New(rand.NewPCG(uint64(os.Getpid()), 4))
	l := s.startLoad()
	var back []time.Duration
	for kill := range kills {
		// A younger worker's death would count as a crash loop.
		wait(1100*time.Millisecond + time.Duration(dice.IntN(1000))*time.Millisecond)
		all := s.workers()
		began := time.Now()
		_ = syscall.Kill(all[dice.IntN(len(all))], syscall.SIGKILL)
		s.log.wait(t, answerMax, workerReady, workers+kill, s.exited)
		back = append(back, time.Since(began))
	}
	p99 := l.stop()
	slices.Sort(back)
	t.Logf("%d kills, %d answers, %d failed, p99 %v; capacity back after %v, at most %v", kills,
		len(l.took), len(l.cut)+len(l.refused), p99, back[len(back)/2], back[len(back)-1])
	if l.connects > 0 || len(l.wrong) > 0 {
		t.Errorf("got %d refused connections and %d wrong answers, want none; the first: %v",
			l.connects, len(l.wrong), l.wrong[:min(1, len(l.wrong))])
	}
	if failed := len(l.cut) + len(l.refused); failed > kills*threads {
		t.Errorf("failed: got %d, want at most %d: what the dead ran; the first: %v", failed,
			kills*threads, append(l.cut, l.refused...)[0])
	}
	if got, most := back[len(back)/2], scaled(backMax, backSampleMax); got > most {
		t.Errorf("capacity: back after %v in the middle, want at most %v", got, most)
	}
	s.recovered(t, files)
	if dead := s.zombies(); len(dead) > 0 {
		t.Errorf("zombies: got %v, want none", dead)
	}
}

// zombies finds children that nobody has waited for.
func (s *server) zombies() []string {
	var found []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[0] == "Z" && fields[1] == strconv.Itoa(s.process.Pid) {
			found = append(found, string(stat))
		}
	}
	return found
}

// When every start fails, clients hear so at once, the log says why in one line, and a good
// version that comes in later serves.
func TestCrashLoop(t *testing.T) {
	v := newVersioned(t)
	s := v.start("--queue-timeout", "30s")
	v.write(2, `raise RuntimeError("no database")`)
	for _, pid := range s.workers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	// One that came before anybody knew, and one after: neither waits for --queue-timeout.
	early := dial(t, s.url()).send(get("/echo"))
	s.says("crash loop: no worker is left")
	a := early.want(503)
	began := time.Now()
	b := dial(t, s.url()).send(get("/echo")).want(503)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("503: after %v, want at once", took)
	}
	for _, a := range []answer{a, b} {
		if seconds, err := strconv.Atoi(a.get("Retry-After")); err != nil || seconds < 1 {
			t.Errorf("Retry-After: got %q, want seconds", a.get("Retry-After"))
		}
	}
	line := s.log.wait(t, answerMax, regexp.MustCompile("crash loop: .*"), 0, s.exited)[0]
	if !strings.Contains(line, "RuntimeError: no database") {
		t.Errorf("log: got %q, want the reason in it", line)
	}
	v.write(3, "")
	s.reload(1)
	wantEqual(t, "version", version(t, dial(t, s.url())), "3")
	if n := strings.Count(s.log.text(), "crash loop: "); n != 1 {
		t.Errorf("log: got %d lines of a crash loop, want 1", n)
	}
}

// Many at once: a reload, a recycling and kills disturb each other in no way.
func TestFaultEverythingAtOnce(t *testing.T) {
	lasting := scaled(30*time.Second, 4*time.Second)
	v := newVersioned(t)
	s := v.start("--max-requests", "300", "--max-lifetime", "3s")
	l := s.startLoadOf(&load{every: 4 * time.Millisecond, mix: echoes})
	quit := make(chan struct{})
	var storm sync.WaitGroup
	every := func(pause time.Duration, do func()) {
		storm.Go(func() {
			for tick := time.NewTicker(pause); ; {
				select {
				case <-quit:
					tick.Stop()
					return
				case <-tick.C:
					do()
				}
			}
		})
	}
	kills := 0
	every(700*time.Millisecond, func() { _ = s.process.Signal(hangUp) })
	every(900*time.Millisecond, func() { _ = s.process.Signal(syscall.SIGTTIN) })
	every(901*time.Millisecond, func() { _ = s.process.Signal(syscall.SIGTTOU) })
	every(1300*time.Millisecond, func() {
		if all := s.workers(); len(all) > 0 {
			_ = syscall.Kill(all[kills%len(all)], syscall.SIGKILL)
			kills++
		}
	})
	wait(lasting)
	close(quit)
	storm.Wait()
	l.stop()
	if l.connects > 0 || len(l.wrong) > 0 {
		t.Errorf("got %d refused connections and %d wrong answers, want none", l.connects,
			len(l.wrong))
	}
	const threads = 4
	if failed := len(l.cut) + len(l.refused); failed > kills*threads {
		t.Errorf("failed: got %d, want at most %d; the first: %v", failed, kills*threads,
			append(l.cut, l.refused...)[0])
	}
	t.Logf("%d answers, %d kills, %d failed", len(l.took), kills, len(l.cut)+len(l.refused))
	eventually(t, startMax, "an answer", func() bool {
		w := dial(t, s.url()).send(get("/echo"))
		a, err := readAnswer(w.r, false)
		return err == nil && a.status == 200
	})
}
