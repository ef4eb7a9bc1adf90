package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ResidentBytes is what a process has in memory, as ps and top show it: RSS, from
// /proc/PID/statm. What it shares with others counts in full, which PSS (smaps_rollup) would
// divide; but that walks every page of the process and holds its memory lock meanwhile, some
// milliseconds a gigabyte. 0 when the process has gone.
func ResidentBytes(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text)) // size, resident, shared, …: pages (proc_pid_statm(5))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
