package loop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// urgent sends bytes with MSG_OOB.
func (p *peer) urgent(data string) {
	p.g.t.Helper()
	raw, err := p.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if err := unix.Sendto(int(fd), []byte(data), unix.MSG_OOB, nil); err != nil {
				p.g.t.Error(err)
			}
		})
	}
	if err != nil {
		p.g.t.Fatal(err)
	}
}

// cpuTime is what this process has used.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
