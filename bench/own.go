package main

import (
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0 // RUSAGE_SELF cannot fail
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// raiseFileLimit takes all descriptors that are allowed, for us and, set by hand, for the
// servers we start: Go would give those the limit back that it found.
func raiseFileLimit() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("getrlimit: %w", err)
	}
	// Some servers make a table of as many entries as there may be descriptors.
	limit.Cur = min(limit.Max, 1<<16)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setrlimit: %w", err)
	}
	return nil
}
