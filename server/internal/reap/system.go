package reap

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// found is what a look at one process says.
type found int

const (
	isAlive    found = iota // a child of ours that runs
	hasEnded                // a child of ours; it is reaped now
	isStranger              // no child of ours
)

// system is what the reaper needs of the kernel.
type system struct {
	wait    func(pid int) (Status, found) // reaps it if it has ended
	exists  func(pid int) bool            // also as a zombie
	peek    func() (pid int)              // of some zombie that is our child, or 0; reaps nothing
	zombies func() []zombie               // those of our children that /proc shows
}

func realSystem() system {
	return system{wait: wait, exists: exists, peek: peek, zombies: zombies}
}

func wait(pid int) (Status, found) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return Status{}, isStranger
		case got != pid:
			return Status{}, isAlive
		case status.Signaled():
			return Status{Code: -1, Signal: status.Signal()}, hasEnded
		default:
			return Status{Code: status.ExitStatus()}, hasEnded
		}
	}
}

func exists(pid int) bool {
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// childInfo is siginfo_t as waitid fills it in.
type childInfo struct {
	signo, errno, code int32
	child              struct {
		_   [0]uintptr // the kernel's union is aligned like a pointer
		pid int32
	}
	_ [128]byte // at least the rest
}

// peek asks for any dead child and leaves it as it is (WNOWAIT).
func peek() int {
	var info childInfo
	const how = unix.WEXITED | unix.WNOHANG | unix.WNOWAIT
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), how, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || info.signo != int32(unix.SIGCHLD):
			return 0 // waitid(2): with WNOHANG and nothing to tell, si_signo stays 0
		default:
			return int(info.child.pid)
		}
	}
}

// zombies looks through /proc: waitid shows the same dead child again and again as long as it is
// not reaped, and the list of a task's children is not in every kernel. A /proc that belongs to
// another pid namespace, or hides other users' processes, does not show them.
func zombies() []zombie {
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // its one error is a bad pattern
	parent := os.Getpid()
	var all []zombie
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		if z, of, dead := parseStat(text); dead && of == parent {
			all = append(all, z)
		}
	}
	return all
}

// parseStat reads what we need of /proc/PID/stat: pid (name) state ppid … start …; the name may
// hold anything, also spaces and parentheses.
func parseStat(text []byte) (z zombie, parent int, dead bool) {
	const (
		stateAt  = 0 // counted from behind the name; proc_pid_stat(5) has it as (3)
		parentAt = 1
		startAt  = 19
	)
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return zombie{}, 0, false
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) <= startAt {
		return zombie{}, 0, false
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(text[:open])))
	parent, err2 := strconv.Atoi(string(fields[parentAt]))
	start, err3 := strconv.ParseUint(string(fields[startAt]), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return zombie{}, 0, false
	}
	return zombie{pid, start}, parent, string(fields[stateAt]) == "Z"
}

func isSubreaper() bool {
	var on int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&on)), 0, 0, 0)
	return err == nil && on != 0
}

// becomeSubreaper: the attribute belongs to the process, whichever thread sets it (prctl(2)).
func becomeSubreaper() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}
