package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proc writes the files of one process below the meter's own /proc.
func proc(t *testing.T, m *Meter, pid int, files map[string]string) {
	t.Helper()
	dir := filepath.Join(m.proc, fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// stat has a name that tries to look like the fields after it.
func stat(user, system int) map[string]string {
	return map[string]string{"stat": fmt.Sprintf(
		"9 (py) 1 (x) S 1 2 3 4 5 6 7 8 9 10 %d %d 0 0 20 0 5 0 100\n", user, system)}
}

func TestMeter(t *testing.T) {
	m := NewMeter()
	m.proc = t.TempDir()
	at := time.Unix(1000, 0)
	read := func(after time.Duration, ticks, busy int) {
		proc(t, m, 9, stat(ticks, ticks))
		m.Read(at.Add(after), []Busy{{PID: 9, Threads: busy}, {PID: 10, Threads: 1}})
	}
	want := func(what string, wantCPU, wantBusy float64) {
		t.Helper()
		cpu, busy, ok := m.Means(9)
		if !ok || math.Abs(cpu-wantCPU) > 1e-9 || math.Abs(busy-wantBusy) > 1e-9 {
			t.Errorf("%s: got %v CPUs, %v busy, %v, want %v and %v", what, cpu, busy, ok,
				wantCPU, wantBusy)
		}
	}
	read(0, 100, 4)
	if cpu, _, ok := m.Means(9); ok {
		t.Errorf("one reading gave %v CPUs", cpu)
	}
	read(2*time.Second, 200, 4)
	want("two readings", 1, 4) // 100 ticks of each kind are 2 s of 2 s
	read(2*time.Second+meterMin/2, 900, 0)
	want("a reading too soon is left out", 1, 4)
	read(10*time.Second, 200, 2)
	want("then idle", 0.2, 3)
	for i := range 3 * readingsMax {
		read(20*time.Second+time.Duration(i)*time.Second, 200, 0)
	}
	want("the window has moved on", 0, 0)
	if n := len(m.readings[9]); n > int(MeterWindow/time.Second)+1 {
		t.Errorf("%d readings are kept", n)
	}
	m.Read(at.Add(time.Hour), nil)
	if len(m.readings) != 0 {
		t.Error("a process that is gone is remembered")
	}
}

func TestUsage(t *testing.T) {
	m := NewMeter()
	m.proc = t.TempDir()
	proc(t, m, 9, map[string]string{"smaps_rollup": "5581-7fff ---p 00000000 [rollup]\n" +
		"Rss:                2048 kB\nPss:                1024 kB\nPss_Anon:  1 kB\n"})
	if got, want := m.UsageOf(9), (Usage{2 << 20, 1 << 20, -1}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	proc(t, m, 10, map[string]string{"statm": "900 3 2 1 0 1 0\n"})
	if got, want := m.UsageOf(10), (Usage{int64(3 * os.Getpagesize()), -1, -1}); got != want {
		t.Errorf("without smaps_rollup: got %v, want %v", got, want)
	}
	if got, want := m.UsageOf(11), (Usage{-1, -1, -1}); got != want {
		t.Errorf("without a process: got %v, want %v", got, want)
	}
	own := NewMeter()
	if got := own.UsageOf(os.Getpid()); got.RSS < 1<<20 {
		t.Errorf("of this process: got %v, want more than 1 MiB", got)
	}
}

func TestAdvice(t *testing.T) {
	for name, c := range map[string]struct {
		load Load
		want string
	}{
		"idle":    {Load{Workers: 2, Threads: 4, CPUs: 8, GIL: true}, ""},
		"at ease": {Load{Workers: 2, Threads: 4, CPUs: 8, CPU: 0.5, Busy: 1.2, GIL: true}, ""},
		"bound by the GIL": {Load{Workers: 2, Threads: 4, CPUs: 8, CPU: 0.98, Busy: 3.5, GIL: true},
			"use more workers: gophersnake ctl scale 8"},
		"bound by the GIL, one thread": {Load{Workers: 1, Threads: 1, CPUs: 4, CPU: 0.98, Busy: 1,
			GIL: true, Queued: true}, "ctl scale 4"},
		"one thread that keeps up": {Load{Workers: 1, Threads: 1, CPUs: 4, CPU: 0.9, Busy: 0.9,
			GIL: true}, ""},
		"full machine": {Load{Workers: 2, Threads: 4, CPUs: 2, CPU: 0.97, Busy: 4, GIL: true,
			Queued: true}, "the CPUs are full: the workers keep 1.9 of 2 busy"},
		"blocked": {Load{Workers: 2, Threads: 4, CPUs: 8, CPU: 0.1, Busy: 4, GIL: true,
			Queued: true}, "use more threads: --threads 8"},
		"blocked, no queue": {Load{Workers: 2, Threads: 4, CPUs: 8, CPU: 0.1, Busy: 4,
			GIL: true}, ""},
		"free-threaded and busy": {Load{Workers: 1, Threads: 4, CPUs: 8, CPU: 2, Busy: 2.5}, ""},
		"no workers":             {Load{Queued: true}, ""},
	} {
		got := Advise(c.load)
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestSpans(t *testing.T) {
	for seconds, want := range map[float64]string{-1: "0 ms", 0.0421: "42 ms", 1: "1.0 s",
		9.99: "10.0 s", 42: "42 s", 125: "2m 5s", 7384: "2h 3m", 200000: "2d 7h"} {
		if got := span(seconds); got != want {
			t.Errorf("%v s: got %q, want %q", seconds, got, want)
		}
	}
}

// What clients send ends in somebody's terminal.
func TestTextControlsNoTerminal(t *testing.T) {
	evil := RunningRequest{Thread: 1, Method: "GET", Target: "/\x1b[2J\n\tworker 9", Seconds: 2}
	var out bytes.Buffer
	for command, result := range map[string]any{
		CommandThreads: Threads{Workers: []WorkerThreads{{ID: 1, Threads: 2,
			Running: []RunningRequest{evil}, Waiting: []RunningRequest{evil}}},
			Queue: []RunningRequest{evil}},
		CommandStatus:  Status{App: evil.Target, LastReload: &Reload{Why: evil.Target}},
		CommandStacks:  []Stack{{Text: evil.Target}, {Error: evil.Target}},
		CommandWorkers: []Worker{{State: "ready", Leaving: evil.Target}},
	} {
		text, err := json.Marshal(result)
		if err != nil {
			t.Fatal(err)
		}
		if err := Print(&out, Request{Command: command}, text, time.Now()); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\t") {
		t.Errorf("control characters came through: %q", &out)
	}
	if n := strings.Count(out.String(), `/\x1b[2J`); n != 7 {
		t.Errorf("the target appears %d times, want 7:\n%s", n, &out)
	}
}
