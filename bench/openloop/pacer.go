package openloop

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Timer is a Pacer on the kernel's high-resolution clock. Go's own timers are rounded up to a
// millisecond when nothing else wakes the process, as long as a whole answer takes.
type Timer struct {
	file *os.File
	buf  [8]byte // the count of expirations, unused
}

// NewTimer makes a Timer, which its user closes.
func NewTimer() (*Timer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd: %w", err)
	}
	return &Timer{file: os.NewFile(uintptr(fd), "timerfd")}, nil
}

// Until returns at the given time or a few microseconds later, at once if it has passed.
func (t *Timer) Until(at time.Time) error {
	wait := time.Until(at)
	if wait <= 0 {
		return nil
	}
	conn, err := t.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		value := unix.ItimerSpec{Value: unix.NsecToTimespec(wait.Nanoseconds())}
		failed = unix.TimerfdSettime(int(fd), 0, &value, nil)
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("timerfd_settime: %w", failed)
	}
	_, err = t.file.Read(t.buf[:])
	return err
}

// Close gives the clock back.
func (t *Timer) Close() error { return t.file.Close() }
