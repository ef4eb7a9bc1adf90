package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager plays a service manager: it hears what the main process of the service says, and nobody
// else (NotifyAccess=main).
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	said *log // a line for each message

	mu        sync.Mutex // over the rest
	main      int        // pid; 0: whoever speaks first
	strangers []string
}

func startManager(t *testing.T, name string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t: t, conn: conn, said: newLog()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.listen()
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return m
}

func (m *manager) listen() {
	text, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, c, _, _, err := m.conn.ReadMsgUnix(text, control)
		if err != nil {
			return
		}
		pid := 0
		if messages, err := unix.ParseSocketControlMessage(control[:c]); err == nil {
			if cred, err := unix.ParseUnixCredentials(&messages[0]); err == nil {
				pid = int(cred.Pid)
			}
		}
		m.hear(pid, string(text[:n]))
	}
}

func (m *manager) hear(pid int, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.main == 0 {
		m.main = pid
	}
	if pid != m.main {
		m.strangers = append(m.strangers, fmt.Sprintf("%d: %s", pid, text))
		return
	}
	if next, ok := strings.CutPrefix(text, "MAINPID="); ok {
		m.main, _ = strconv.Atoi(next)
	}
	fmt.Fprintf(m.said, "%d %s\n", pid, strings.ReplaceAll(text, "\n", " "))
}

// wants waits for the nth message that matches, and returns its submatches.
func (m *manager) wants(pattern string, n int) []string {
	m.t.Helper()
	return m.said.wait(m.t, startMax, regexp.MustCompile(`(?m)^\d+ `+pattern), n-1, nil)
}

// activated starts a service whose sockets are opened by somebody else, as systemd does it. The
// shell is there because LISTEN_PID is the pid of the process that it becomes.
func activated(t *testing.T, notify string, sockets []*os.File, shop *shop, args ...string) *line {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gophersnake")
	copyBinary(t, bin)
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, bin,
		"shop:app", "--chdir", shop.dir, "--workers", "1", "--python", anyPython().path},
		args...)...)
	cmd.ExtraFiles = sockets
	l := startPiped(t, cmd, []string{"GATE=" + shop.gate, "NOTIFY_SOCKET=" + notify,
		"WATCHDOG_USEC=1000000", "PORT=1", fmt.Sprintf("LISTEN_FDS=%d", len(sockets)),
		"LISTEN_FDNAMES=http:local"})
	l.binary = bin
	return l
}

// opened makes the sockets that a socket unit would: on TCP and at path.
func opened(t *testing.T, path string) []*os.File {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	local.(*net.UnixListener).SetUnlinkOnClose(false)
	var files []*os.File
	for _, l := range []net.Listener{tcp, local} {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		files = append(files, f)
		t.Cleanup(func() { f.Close() })
	}
	return files
}

// A whole life under systemd: the sockets are its, READY comes behind the import, a reload and an
// upgrade are told so that the manager never hears a stranger, and the watchdog is fed throughout.
func TestLifeUnderSystemd(t *testing.T) {
	shop := newShop(t)
	shop.write("1", waits)
	path := filepath.Join(shop.dir, "s")
	m := startManager(t, fmt.Sprintf("@gophersnake-e2e-%d", os.Getpid()))
	l := activated(t, fmt.Sprintf("@gophersnake-e2e-%d", os.Getpid()), opened(t, path), shop)
	l.says("shop: importing")
	early := dial(t, "unix:"+path).send(get("/")) // systemd listens before anybody serves
	wantEqual(t, "messages before the import", m.said.text(), "")
	shop.open()
	m.wants(`READY=1 STATUS=serving shop:app on http://\S+, unix:`+regexp.QuoteMeta(path), 1)
	wantEqual(t, "early request", string(early.want(200).body), "1")
	early.Close()
	l.waitListening(2)
	for _, url := range l.urls {
		wantEqual(t, url, l.ask(url, "/"), "1")
	}
	l.says(`PORT="1" is set and not used: the service manager's sockets win`)
	m.wants("WATCHDOG=1$", 2)
	wantNothingInherited(t, l)

	before := monotonicMicros(t)
	shop.write("2", "")
	l.signal(hangUp)
	at, _ := strconv.ParseInt(m.wants(`RELOADING=1 MONOTONIC_USEC=(\d+)$`, 1)[1], 10, 64)
	if after := monotonicMicros(t); at < before || at > after {
		t.Errorf("RELOADING at %d µs, want %d to %d", at, before, after)
	}
	m.wants("READY=1", 2)
	wantEqual(t, "version", l.ask(l.url(), "/"), "2")
	shop.write("3", "raise RuntimeError('broken')")
	l.signal(hangUp)
	m.wants("RELOADING=1", 2)
	m.wants("READY=1", 3)
	wantEqual(t, "version", l.ask(l.url(), "/"), "2")

	shop.write("4", "")
	old := l.upgrade()
	wantEqual(t, "MAINPID", m.wants(`MAINPID=(\d+)$`, 1)[1], strconv.Itoa(l.process.Pid))
	m.wants("READY=1", 4)
	fed := fmt.Sprintf("^%d WATCHDOG=1$", l.process.Pid)
	m.said.wait(t, startMax, regexp.MustCompile("(?m)"+fed), 1, nil)
	wantEqual(t, "version", l.ask(l.urls[1], "/"), "4")
	wantNothingInherited(t, l)
	l.gone(old)

	l.signal(terminate)
	m.wants("STOPPING=1", 1)
	l.gone(l.process.Pid)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the manager's socket is gone: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.strangers) > 0 {
		t.Errorf("processes that are not the service said %q", m.strangers)
	}
}

func monotonicMicros(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

// wantNothingInherited requires that no worker has the variables or the sockets of the service.
func wantNothingInherited(t *testing.T, l *line) {
	t.Helper()
	listens := listening4(t, l.process.Pid)
	for _, pid := range l.workers() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"NOTIFY_", "WATCHDOG_", "LISTEN_", "GOPHERSNAKE_HANDOVER"} {
			if bytes.Contains(append([]byte{0}, env...), []byte("\x00"+name)) {
				t.Errorf("a worker has %s in its environment: %q", name, env)
			}
		}
		for _, socket := range listening4(t, pid) {
			t.Errorf("a worker has the listening socket %s of %v", socket, listens)
		}
	}
	if len(listens) == 0 {
		t.Error("the server itself has no listening socket: the test looks for the wrong thing")
	}
}

// listening4 names the IPv4 sockets of a process that listen.
func listening4(t *testing.T, pid int) []string {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	listens := map[string]bool{}
	for row := range strings.Lines(string(table)) {
		const stateAt, inodeAt, listen = 3, 9, "0A"
		if fields := strings.Fields(row); len(fields) > inodeAt && fields[stateAt] == listen {
			listens["socket:["+fields[inodeAt]+"]"] = true
		}
	}
	var found []string
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && listens[to] {
			found = append(found, to)
		}
	}
	return found
}

// --listen adds to the sockets of a socket unit.
func TestListenBesideSocketUnit(t *testing.T) {
	shop := newShop(t)
	shop.write("1", "")
	name := filepath.Join(shop.dir, "notify")
	startManager(t, name)
	l := activated(t, name, opened(t, filepath.Join(shop.dir, "s")), shop,
		"--listen", "127.0.0.1:0")
	l.waitListening(3)
	for _, url := range l.urls {
		wantEqual(t, url, l.ask(url, "/"), "1")
	}
}

// What is passed must be able to serve.
func TestSocketUnitsThatCannotServe(t *testing.T) {
	for names, want := range map[string]struct {
		code int
		text string
	}{
		"https": {exitUsage, "the inherited socket https: only http can be served"},
		"http":  {exitBind, "cannot listen on the inherited socket http: it is no listening socket"},
	} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ends := []*os.File{os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")}
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary(), "x:app",
			"--python", anyPython().path)
		cmd.Env = append(cleanEnv(), "LISTEN_FDS=1", "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = ends[:1]
		out, err := cmd.CombinedOutput()
		ends[0].Close()
		ends[1].Close()
		if !strings.Contains(string(out), want.text) {
			t.Errorf("%s: got %q (%v), want %q", names, out, err, want.text)
		}
		wantEqual(t, "exit code", cmd.ProcessState.ExitCode(), want.code)
	}
}

// systemd's MemoryDenyWriteExecute=, as the kernel's own prctl(PR_SET_MDWE): no memory that was
// written becomes code. The shim is mapped from a sealed file and must do without.
func TestNoWritableCode(t *testing.T) {
	const deny = `
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
`
	onEvery(t, func(t *testing.T, python interpreter) {
		shop := newShop(t)
		shop.write("1", "")
		cmd := exec.Command(python.path, "-c", deny, binary(), "shop:app", "--chdir", shop.dir,
			"--workers", "1", "--listen", "127.0.0.1:0", "--python", python.path)
		l := startPiped(t, cmd, []string{"GATE=" + shop.gate})
		select {
		case <-l.exited:
			if l.code == 99 {
				t.Skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
			}
		case <-time.After(0):
		}
		l.waitListening(1)
		wantEqual(t, "version", l.ask(l.url(), "/"), "1")
	})
}

// As pid 1 of a container the server buries the orphans of its workers, whose processes do not
// run out of pids, and keeps the exit codes of its own children.
func TestPid1ReapsOrphans(t *testing.T) {
	shop := newShop(t)
	shop.write("1", `
import os, subprocess
for i in range(5):
    subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
`)
	if err := contained("true").Run(); err != nil {
		t.Skipf("no container can be made here: %v", err)
	}
	cmd := contained(binary(), "shop:app", "--chdir", shop.dir, "--workers", "2",
		"--listen", "127.0.0.1:0", "--python", anyPython().path)
	l := startPiped(t, cmd, []string{"GATE=" + shop.gate})
	l.waitListening(1)
	eventually(t, startMax, "orphans to be there, dead or alive", func() bool {
		return len(children(l.process.Pid)) >= 2
	})
	eventually(t, startMax, "no child but the workers", func() bool {
		return len(children(l.process.Pid)) == 2 && zombies(l.process.Pid) == 0
	})
	l.signal(upgradeSignal)
	l.says("no upgrade: pid 1 cannot be replaced")
	victim := l.workers()[0]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.says("ended by signal 9")
	eventually(t, startMax, "another worker", func() bool { return len(l.workers()) == 2 })
	l.signal(terminate)
	<-l.exited
	wantEqual(t, "exit code", l.code, 0)
}

// contained is a command that is pid 1 of a namespace with a /proc of its own.
func contained(args ...string) *exec.Cmd {
	const script = `mount -t proc proc /proc && exec "$0" "$@"`
	cmd := exec.Command("sh", append([]string{"-c", script}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS}
	return cmd
}

// children lists the children of a process, dead ones included.
func children(pid int) []int {
	var found []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if parent(child) == pid {
			found = append(found, child)
		}
	}
	return found
}

func zombies(pid int) int {
	n := 0
	for _, child := range children(pid) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
		if err == nil && bytes.Contains(status, []byte("State:\tZ")) {
			n++
		}
	}
	return n
}
