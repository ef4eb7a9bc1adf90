package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	upgradeSignal  = syscall.SIGUSR2
	upgradeWorkers = 2
	upgradesFull   = 10
	upgradesSample = 4
)

// line is a server with its successors: s.process is the one in charge. They share one log.
type line struct {
	*server
	binary   string // a copy that a test may replace
	upgrades int
	logDone  chan struct{} // closed when the last of them has closed the log
}

// startLine starts a copy of the binary. Its log is a pipe of our own: os/exec would take the
// process for unfinished as long as a successor has the log open.
func startLine(t *testing.T, c command) *line {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gophersnake")
	copyBinary(t, bin)
	if len(c.listens) == 0 {
		c.listens = []string{"127.0.0.1:0"}
	}
	for _, address := range c.listens {
		c.args = append(c.args, "--listen", address)
	}
	cmd := exec.Command(bin, append(c.args, "--python", c.python.path)...)
	l := startPiped(t, cmd, c.env)
	l.binary = bin
	l.waitListening(len(c.listens))
	return l
}

// startPiped starts a command whose log its successors inherit. The test's end stops whoever is in
// charge, and requires that none of them is left.
func startPiped(t *testing.T, cmd *exec.Cmd, env []string) *line {
	t.Helper()
	mark := fmt.Sprintf("GOPHERSNAKE_E2E=%d.%d", os.Getpid(), marks.Add(1))
	cmd.Env = append(cleanEnv(), append(env, mark)...)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = writer, writer
	err = cmd.Start()
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, mark: mark, log: newLog(), exited: make(chan struct{}),
		process: cmd.Process}
	l := &line{server: s, logDone: make(chan struct{})}
	go func() {
		defer close(l.logDone)
		_, _ = io.Copy(s.log, reader)
		reader.Close()
	}()
	exited := s.exited
	go func() {
		_ = cmd.Wait() // the code says all that matters
		s.code = cmd.ProcessState.ExitCode()
		close(exited)
	}()
	t.Cleanup(l.cleanUp)
	return l
}

func (l *line) waitListening(n int) {
	l.t.Helper()
	for range n {
		found := l.log.wait(l.t, startMax, listening, len(l.urls), l.exited)
		l.urls = append(l.urls, found[1])
	}
}

func (l *line) cleanUp() {
	_ = l.process.Signal(terminate)
	if !within(stopMax, func() bool { return len(l.processes()) == 0 }) {
		l.t.Errorf("processes left behind: got %v, want none", l.processes())
		l.killAll()
	}
	<-l.logDone
	if l.t.Failed() {
		l.t.Logf("log of the servers:\n%s", l.log.text())
	}
}

func copyBinary(t *testing.T, to string) {
	t.Helper()
	content, err := os.ReadFile(binary())
	if err == nil {
		err = os.WriteFile(to, content, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// replace puts something else where the binary was, or the binary again if it is empty. The old
// file lives on as long as it runs.
func (l *line) replace(content string) {
	l.t.Helper()
	if content == "" {
		copyBinary(l.t, l.binary+".new")
	} else if err := os.WriteFile(l.binary+".new", []byte(content), 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(l.binary+".new", l.binary); err != nil {
		l.t.Fatal(err)
	}
}

var (
	handedOver = regexp.MustCompile(`the new server is in charge; this one finishes pid=(\d+)`)
	notUpgrade = regexp.MustCompile(`ERROR upgrade failed; this server goes on reason=(.*)`)
)

// upgrade replaces the server in charge and returns the one that is leaving.
func (l *line) upgrade() (old int) {
	l.t.Helper()
	l.signal(upgradeSignal)
	found := l.log.wait(l.t, startMax, handedOver, l.upgrades, l.exited)
	l.upgrades++
	pid, _ := strconv.Atoi(found[1])
	old = l.process.Pid
	l.says(fmt.Sprintf("took over from the old server pid=%d", old))
	next, err := os.FindProcess(pid)
	if err != nil {
		l.t.Fatal(err)
	}
	l.process = next
	l.exited = make(chan struct{}) // it is not our child: nothing tells of its end
	return old
}

// ask makes one request on a connection of its own, and returns the body.
func (l *line) ask(url, path string) string {
	l.t.Helper()
	w := dial(l.t, url)
	defer w.Close()
	return string(w.send(get(path)).want(200).body)
}

func (l *line) gone(pid int) {
	l.t.Helper()
	eventually(l.t, stopMax, fmt.Sprintf("the old server %d to go", pid), func() bool {
		for _, other := range l.processes() {
			if other == pid || parent(other) == pid {
				return false
			}
		}
		return true
	})
}

// upgradable serves faults.py on a TCP and a Unix socket.
func upgradable(t *testing.T, args ...string) *line {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	return startLine(t, command{python: anyPython(), listens: []string{"127.0.0.1:0", "unix:" + path},
		args: append([]string{"faults:app", "--chdir", absolute(appsDir), "--workers",
			strconv.Itoa(upgradeWorkers)}, args...)})
}

// Invariant 11 of the design: the listener outlives everything; upgrades drop no connection.
//
// The load keeps its connections and does not try again. Each upgrade begins as soon as the one
// before it is done, while the old servers still finish.
func TestFaultUpgradesUnderLoad(t *testing.T) {
	upgradeUnderLoad(t)
	if fullFaults() {
		upgradeUnderLoad(t, "--preload")
	}
}

func upgradeUnderLoad(t *testing.T, args ...string) {
	l := upgradable(t, args...)
	first := l.exited
	load := l.startLoad()
	path := strings.TrimPrefix(l.urls[1], "unix:")
	var olds []int
	for range scaled(upgradesFull, upgradesSample) {
		old := l.upgrade()
		olds = append(olds, old)
		wantEqual(t, "on the Unix socket", l.ask(l.urls[1], "/echo"), "|")
	}
	load.stop()
	for _, old := range olds {
		l.gone(old)
	}
	load.wantNoneFailed(t)
	t.Logf("%d requests during %d upgrades", len(load.took), l.upgrades)
	select {
	case <-first:
		wantEqual(t, "exit code of the first server", l.code, 0)
	case <-time.After(stopMax):
		t.Errorf("the first server is there after %v", stopMax)
	}
	eventually(t, startMax, "workers of the last server", func() bool {
		return len(l.workers()) >= upgradeWorkers // and a template
	})
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the socket's file is gone before the last server: %v", err)
	}
	if err := l.process.Signal(terminate); err != nil {
		t.Fatal(err)
	}
	eventually(t, stopMax, "the socket's file to go with the last server", func() bool {
		_, err := os.Stat(path)
		return os.IsNotExist(err)
	})
}

// shop is an app in a folder of its own, which a test may change, and a gate it may wait at.
type shop struct {
	t    *testing.T
	dir  string
	gate string // a FIFO: who opens it waits until it was opened and closed by the test
}

func newShop(t *testing.T) *shop {
	t.Helper()
	dir := t.TempDir()
	s := &shop{t, dir, filepath.Join(dir, "gate")}
	if err := syscall.Mkfifo(s.gate, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

// write makes an app that answers with its version; more comes before it.
func (s *shop) write(version, more string) {
	s.t.Helper()
	source := more + `
import os

def wait(why):
    print("shop:", why, flush=True)
    open(os.environ["GATE"]).read()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        wait("held")
    start_response("200 OK", [("Content-Length", "` + strconv.Itoa(len(version)) + `")])
    return [b"` + version + `"]
`
	if err := os.WriteFile(filepath.Join(s.dir, "shop.py"), []byte(source), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// waits is the source of an app whose import waits at the gate.
const waits = `
import os
print("shop: importing", flush=True)
open(os.environ["GATE"]).read()
`

// open lets through who waits at the gate.
func (s *shop) open() {
	s.t.Helper()
	f, err := os.OpenFile(s.gate, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	f.Close()
}

func (s *shop) start(args ...string) *line {
	s.t.Helper()
	return startLine(s.t, command{python: anyPython(), env: []string{"GATE=" + s.gate},
		listens: []string{"127.0.0.1:0", "unix:" + filepath.Join(s.dir, "s")},
		args:    append([]string{"shop:app", "--chdir", s.dir, "--workers", "1"}, args...)})
}

// A request that runs when its server is replaced is finished by it; a client that was promised to
// keep its connection may use it once more, and is told that this was the last time.
func TestUpgradeKeepsPromises(t *testing.T) {
	shop := newShop(t)
	shop.write("1", "")
	l := shop.start()
	kept, held := dial(t, l.url()), dial(t, l.url())
	wantEqual(t, "version", string(kept.send(get("/")).want(200).body), "1")
	held.send(get("/hold"))
	l.says("shop: held")
	shop.write("2", "")
	old := l.upgrade()
	wantLast(t, kept.send(get("/")), "1")
	wantEqual(t, "version", l.ask(l.url(), "/"), "2")
	shop.open()
	wantEqual(t, "version", string(held.want(200).body), "1")
	wantLast(t, held.send(get("/")), "1")
	l.gone(old)
}

// wantLast requires an answer that says it is the last, and is.
func wantLast(t *testing.T, w *wire, body string) {
	t.Helper()
	a := w.want(200)
	wantEqual(t, "version", string(a.body), body)
	wantEqual(t, "Connection", strings.ToLower(a.get("Connection")), "close")
	w.wantClosed()
}

// One upgrade at a time; a stop while one is on its way stops both servers.
func TestUpgradeThatIsStopped(t *testing.T) {
	shop := newShop(t)
	shop.write("1", "")
	l := shop.start()
	shop.write("2", waits)
	l.signal(upgradeSignal)
	l.says("shop: importing")
	l.signal(upgradeSignal)
	l.says("no upgrade: one is on its way")
	wantEqual(t, "version", l.ask(l.url(), "/"), "1")
	l.stop(terminate, 0)
}

// An old server that dies while the new one starts leaves it in charge.
func TestUpgradeWhoseOldServerDies(t *testing.T) {
	shop := newShop(t)
	shop.write("1", "")
	l := shop.start()
	shop.write("2", waits)
	l.signal(upgradeSignal)
	l.says("shop: importing")
	l.signal(syscall.SIGKILL)
	<-l.exited
	l.exited = make(chan struct{})
	waiting := dial(t, l.urls[1]).send(get("/"))
	shop.open()
	wantEqual(t, "version", string(waiting.want(200).body), "2")
	l.says("took over from the old server")
	for _, pid := range l.processes() {
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); exe == l.binary {
			l.process, _ = os.FindProcess(pid)
		}
	}
	wantEqual(t, "workers", len(l.workers()), 1)
}

// Whatever is wrong with the new binary or the new version of the app, the old server goes on and
// says why.
func TestUpgradesThatFail(t *testing.T) {
	shop := newShop(t)
	shop.write("1", "")
	l := shop.start("--start-timeout", "4s")
	for i, c := range []struct{ name, binary, app, want string }{
		{"garbage", "\x00garbage", "", "exec format error"},
		{"another program", "#!/bin/sh\nexit 7\n", "", "exit status 7"},
		{"a program that waits", "#!/bin/sh\nexec sleep 1000\n", "",
			"was not ready within 4s (see --start-timeout)"},
		{"an app that fails", "", "raise RuntimeError('no database')", "exit status 4"},
	} {
		l.replace(c.binary)
		shop.write("2", c.app)
		l.signal(upgradeSignal)
		reason := l.log.wait(t, startMax, notUpgrade, i, l.exited)[1]
		if !strings.Contains(reason, c.want) {
			t.Errorf("%s: the log says %s, want %q", c.name, reason, c.want)
		}
		for _, url := range l.urls {
			wantEqual(t, c.name, l.ask(url, "/"), "1")
		}
		eventually(t, stopMax, "nothing left of the new server", func() bool {
			return len(l.processes()) == 2
		})
	}
	if !strings.Contains(l.log.text(), "RuntimeError: no database") {
		t.Error("the log does not show why the app cannot be imported")
	}
	shop.write("3", "")
	old := l.upgrade()
	wantEqual(t, "version", l.ask(l.urls[1], "/"), "3")
	l.gone(old)
}
