// Package host asks the machine what a default needs to know: how many CPUs we may use and
// how many descriptors we may open.
package host

import (
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CPUs returns how many CPUs this process may keep busy: those of its affinity mask, bounded by
// the CPU limit of its control group and of every group above it, rounded up; at least 1.
func CPUs() int {
	return cpus(runtime.NumCPU(), func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			return "" // not there: that kind of group does not exist here
		}
		return string(text)
	})
}

const (
	groupRoot   = "/sys/fs/cgroup"
	groupRootV1 = "/sys/fs/cgroup/cpu"
)

// cpus does not use runtime.GOMAXPROCS, which looks at the leaf group only, never goes below 2
// and is one environment variable away from meaning something else.
func cpus(affinity int, read func(string) string) int {
	limit := float64(affinity)
	for line := range strings.Lines(read("/proc/self/cgroup")) {
		// "0::/path" is the unified hierarchy, "4:cpu,cpuacct:/path" one of version 1.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for group := path.Clean("/" + fields[2]); ; group = path.Dir(group) {
			switch {
			case fields[1] == "":
				limit = min(limit, quotaV2(read(groupRoot+group+"/cpu.max")))
			case has(fields[1], "cpu"):
				limit = min(limit, quotaV1(read(groupRootV1+group+"/cpu.cfs_quota_us"),
					read(groupRootV1+group+"/cpu.cfs_period_us")))
			}
			if group == "/" {
				break
			}
		}
	}
	return max(1, int(math.Ceil(limit)))
}

func has(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if item == name {
			return true
		}
	}
	return false
}

// quotaV2 reads "max 100000" or "150000 100000": time and period in µs.
func quotaV2(text string) float64 {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return math.Inf(1)
	}
	return quotaV1(fields[0], fields[1])
}

func quotaV1(quota, period string) float64 {
	q, qErr := strconv.ParseFloat(strings.TrimSpace(quota), 64)
	p, pErr := strconv.ParseFloat(strings.TrimSpace(period), 64)
	if qErr != nil || pErr != nil || q <= 0 || p <= 0 {
		return math.Inf(1)
	}
	return q / p
}

// RaiseFilesMax lifts the soft limit of open descriptors to the hard one and returns it. Go
// does that by itself at start and gives children the old limit back, which is right for the
// app (select(2) breaks beyond 1024); only when it has not, the limit is set here.
func RaiseFilesMax() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	// One below the hard limit is what Go sets.
	if limit.Cur+1 < limit.Max {
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return 0, os.NewSyscallError("setrlimit", err)
		}
	}
	return int(min(limit.Cur, math.MaxInt32)), nil
}
