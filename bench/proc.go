package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What /proc says about the processes of a server.

// tickDuration is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every Linux that
// Go runs on.
const tickDuration = 10 * time.Millisecond

// stat is what we use of /proc/PID/stat.
type stat struct {
	pid, parent, session int
	cpu                  time.Duration // its own, and of the children it has waited for
}

func readStat(pid int) (stat, error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(pid, line)
}

// parseStat reads a line of proc_pid_stat(5). The second field is the name in parentheses,
// which may hold anything, so the fields are counted from the last parenthesis.
func parseStat(pid int, line []byte) (stat, error) {
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("proc: %d fields in %.80q", len(fields), line)
	}
	var numbers [15]int64
	for i := 1; i < len(numbers); i++ {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("proc: %w", err)
		}
		numbers[i] = n
	}
	// Fields 3 (state) 4 (ppid) 6 (session) 14 to 17 (utime, stime, cutime, cstime), from 1.
	ticks := numbers[11] + numbers[12] + numbers[13] + numbers[14]
	return stat{pid: pid, parent: int(numbers[1]), session: int(numbers[3]),
		cpu: time.Duration(ticks) * tickDuration}, nil
}

// family lists root, its descendants, and whoever else is in the session it leads: a daemon
// that lost its parent stays in there.
func family(root int) ([]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]stat{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if one, err := readStat(pid); err == nil {
			all[pid] = one
		}
	}
	var found []stat
	for _, one := range all {
		if one.session == root || descends(all, one.pid, root) {
			found = append(found, one)
		}
	}
	return found, nil
}

func descends(all map[int]stat, pid, root int) bool {
	// Read one after the other, the entries may form a loop; nobody is that deep.
	const generationsMax = 64
	for range generationsMax {
		if pid == root {
			return true
		}
		one, known := all[pid]
		if !known {
			return false
		}
		pid = one.parent
	}
	return false
}

// cpuOf sums up. A process that ends hands its time to the parent that waits for it, so the sum
// does not fall while the parents live.
func cpuOf(processes []stat) (total time.Duration) {
	for _, one := range processes {
		total += one.cpu
	}
	return total
}

// pssOf sums the proportional set sizes in bytes: what is shared counts once in total.
func pssOf(processes []stat) (total int64, err error) {
	for _, one := range processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", one.pid))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended since
		}
		if err != nil {
			return 0, err
		}
		kib, err := parsePSS(text)
		if err != nil {
			return 0, err
		}
		total += kib << 10
	}
	return total, nil
}

func parsePSS(rollup []byte) (kib int64, err error) {
	for line := range strings.Lines(string(rollup)) {
		if value, found := strings.CutPrefix(line, "Pss:"); found {
			return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(
				strings.TrimSpace(value), "kB")), 10, 64)
		}
	}
	return 0, fmt.Errorf("proc: no Pss in %.80q", rollup)
}

// busyCPU is what all CPUs of the machine have done since it started, what the host took from them
// (steal) included: the time less the idle and iowait of proc_stat(5). The kernel measures those, but
// counts the busy kinds by its tick, in whole ticks of 10 ms: work that comes every millisecond, as in
// an open loop, may always or never be there when it looks.
func busyCPU() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return parseBusy(string(text), time.Duration(now.Nano()))
}

func parseBusy(text string, sinceBoot time.Duration) (time.Duration, error) {
	line, rest, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[0] != "cpu" {
		return 0, fmt.Errorf("proc: %.80q is no summary of CPUs", line)
	}
	var busy time.Duration
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "cpu") {
			busy += sinceBoot
		}
	}
	for _, field := range fields[4:6] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("proc: %w", err)
		}
		busy -= time.Duration(n) * tickDuration
	}
	return busy, nil
}
