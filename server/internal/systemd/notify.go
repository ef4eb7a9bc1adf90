// Package systemd is what a service owes the manager that started it: it says when it serves,
// reloads and stops, it keeps the watchdog fed, and it takes over the sockets that were opened
// for it. Everything comes by environment variables and works alike under any manager that sets
// them.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Variables are the environment variables of the protocol. Children of the service must not see
// them: one that did could speak in its name.
func Variables() []string {
	return []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
		"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
}

// statusBytesMax bounds the text of STATUS=, which is one line in systemctl status.
const statusBytesMax = 512

// Notifier speaks to the manager. A nil one says nothing. Its methods may be called from any
// goroutine; they wait while the manager does not read, up to sendMax.
type Notifier struct {
	conn *net.UnixConn
	// Watchdog is how often the manager wants to hear WatchdogAlive; 0: it does not.
	Watchdog time.Duration
}

// sendMax is how long a message may wait for a manager that does not read.
const sendMax = time.Second

// Connect finds the manager by its variables; nil when there is none. pid is this process's
// number: a watchdog meant for another process is none for us.
func Connect(getenv func(string) string, pid int) (*Notifier, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	// sd_notify(3): an absolute path, or an abstract name behind an "@", which Go's net
	// understands too. Other kinds (vsock) are for virtual machines.
	if path[0] != '/' && path[0] != '@' {
		return nil, fmt.Errorf("systemd: NOTIFY_SOCKET %q: not a path and no @name", path)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("systemd: NOTIFY_SOCKET: %w", err)
	}
	n := &Notifier{conn: conn}
	n.Watchdog, err = watchdog(getenv, pid)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return n, nil
}

// watchdog: sd_watchdog_enabled(3): WATCHDOG_PID, when set, names the process that is meant.
func watchdog(getenv func(string) string, pid int) (time.Duration, error) {
	text := getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if meant := getenv("WATCHDOG_PID"); meant != "" && meant != strconv.Itoa(pid) {
		return 0, nil
	}
	const most = uint64(time.Duration(1<<63-1) / time.Microsecond)
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 || n > most {
		return 0, fmt.Errorf("systemd: WATCHDOG_USEC %q: not a number of microseconds", text)
	}
	return time.Duration(n) * time.Microsecond, nil
}

// Ready says that the service serves, at its start or after a reload.
func (n *Notifier) Ready(status string) error {
	return n.send("READY=1\nSTATUS=" + oneLine(status))
}

// Status is shown by systemctl status.
func (n *Notifier) Status(text string) error { return n.send("STATUS=" + oneLine(text)) }

// Reloading says that the service loads a new version; Ready must follow, whether that worked or
// not. sd_notify(3): with Type=notify-reload it must carry the time of CLOCK_MONOTONIC, or the
// manager takes it for an older one.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	return n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping says that the service ends.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1\nSTATUS=stopping") }

// MainPID says that another process is the service now. With NotifyAccess=main the manager does
// not listen to this one any more.
func (n *Notifier) MainPID(pid int) error { return n.send("MAINPID=" + strconv.Itoa(pid)) }

// WatchdogAlive must come within every Watchdog.
func (n *Notifier) WatchdogAlive() error { return n.send("WATCHDOG=1") }

// send writes one message, which is one datagram.
func (n *Notifier) send(text string) error {
	if n == nil {
		return nil
	}
	if err := n.conn.SetWriteDeadline(time.Now().Add(sendMax)); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	if _, err := n.conn.Write([]byte(text)); err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	return nil
}

// oneLine keeps a text from being read as several assignments. What is no UTF-8 is not shown.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), statusBytesMax)], "")
}
