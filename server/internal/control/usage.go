package control

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// ticksPerSecond is the unit of /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on.
	ticksPerSecond = 100

	// MeterWindow is the time that a mean is made of.
	MeterWindow = 10 * time.Second

	readingsMax = 32 // of one process
	meterMin    = 200 * time.Millisecond
)

// Meter knows how busy the workers were lately: it is told once in a while which ones there
// are. Any goroutine may use it.
type Meter struct {
	proc string // "/proc"

	mu       sync.Mutex
	readings map[int][]reading // by process id, oldest first; under mu
	last     time.Time         // of the latest Read; under mu
}

type reading struct {
	at    time.Time
	ticks int64 // CPU time used so far, of all its threads
	busy  float64
}

// NewMeter returns a meter without readings.
func NewMeter() *Meter { return &Meter{proc: "/proc", readings: map[int][]reading{}} }

// Busy is how many threads of a process run a request.
type Busy struct {
	PID     int
	Threads int
}

// Read takes a reading of every process given and forgets the others. One that comes too soon
// after another is left out.
func (m *Meter) Read(now time.Time, all []Busy) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.last) < meterMin {
		return
	}
	m.last = now
	kept := make(map[int][]reading, len(all))
	for _, b := range all {
		ticks, ok := cpuTicks(filepath.Join(m.proc, strconv.Itoa(b.PID), "stat"))
		if !ok {
			continue // it has ended
		}
		kept[b.PID] = append(recent(m.readings[b.PID], now),
			reading{at: now, ticks: ticks, busy: float64(b.Threads)})
	}
	m.readings = kept
}

// recent drops what is older than the window, but for the one that the window begins with.
func recent(all []reading, now time.Time) []reading {
	first := max(0, len(all)-readingsMax+1)
	for first+1 < len(all) && now.Sub(all[first+1].at) >= MeterWindow {
		first++
	}
	return append([]reading(nil), all[first:]...)
}

// Means returns how many CPUs a process kept busy over the window, and how many of its threads
// ran a request; false while there are no two readings.
func (m *Meter) Means(pid int) (cpus, busy float64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.readings[pid]
	if len(all) < 2 {
		return 0, 0, false
	}
	first, last := all[0], all[len(all)-1]
	for _, r := range all[1:] {
		busy += r.busy
	}
	cpus = float64(last.ticks-first.ticks) / ticksPerSecond / last.at.Sub(first.at).Seconds()
	return cpus, busy / float64(len(all)-1), true
}

// UsageOf returns what a process takes.
func (m *Meter) UsageOf(pid int) Usage {
	u := Usage{RSS: -1, PSS: -1, CPU: -1}
	if cpus, _, ok := m.Means(pid); ok {
		u.CPU = cpus
	}
	dir := filepath.Join(m.proc, strconv.Itoa(pid))
	text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err == nil {
		u.RSS, u.PSS = rollup(text, "Rss:"), rollup(text, "Pss:")
	}
	if u.RSS >= 0 {
		return u
	}
	// Kernels may forbid the former; the second field of statm is resident pages.
	text, _ = os.ReadFile(filepath.Join(dir, "statm"))
	if fields := bytes.Fields(text); len(fields) > 1 {
		if pages, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
			u.RSS = pages * int64(os.Getpagesize())
		}
	}
	return u
}

// rollup reads a line such as "Pss:    1234 kB".
func rollup(text []byte, name string) int64 {
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == name {
			if n, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
				return n << 10
			}
		}
	}
	return -1
}

// cpuTicks sums user and system time, fields 14 and 15 of /proc/PID/stat. The second field is
// the name, which may hold anything, parentheses too.
func cpuTicks(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	end := bytes.LastIndexByte(text, ')')
	if err != nil || end < 0 {
		return 0, false
	}
	fields := bytes.Fields(text[end+1:])
	const user, system = 14 - 3, 15 - 3
	if len(fields) <= system {
		return 0, false
	}
	u, errU := strconv.ParseInt(string(fields[user]), 10, 64)
	s, errS := strconv.ParseInt(string(fields[system]), 10, 64)
	return u + s, errU == nil && errS == nil
}
