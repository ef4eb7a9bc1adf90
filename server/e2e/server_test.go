package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var listening = regexp.MustCompile(`listening on (http://\S+|unix:\S+)`)

// command is how the binary is started; the zero value of each field is the usual.
type command struct {
	python  interpreter // none: the binary finds one
	args    []string
	env     []string // added to a clean environment
	dir     string   // working directory
	listens []string // --listen; none: 127.0.0.1:0
}

// server is a running binary. Its log is read by one goroutine, which ends with the process.
type server struct {
	t       *testing.T
	process *os.Process
	mark    string   // in the environment of it and of all its descendants
	urls    []string // one for each --listen, in the order of the log
	log     *log
	exited  chan struct{} // closed after the process was reaped
	code    int           // valid after exited
	stopped bool          // the test has ended it itself
}

// start runs an app on an interpreter and returns when the log says where it listens. The
// test's end stops it by SIGTERM and requires exit 0 and no process left behind.
func start(t *testing.T, python interpreter, args ...string) *server {
	t.Helper()
	return startCommand(t, command{python: python, args: args})
}

func startCommand(t *testing.T, c command) *server {
	t.Helper()
	if len(c.listens) == 0 {
		c.listens = []string{"127.0.0.1:0"}
	}
	for _, address := range c.listens {
		c.args = append(c.args, "--listen", address)
	}
	s := launch(t, c)
	t.Cleanup(s.cleanUp)
	for range c.listens {
		line := s.log.wait(t, startMax, listening, len(s.urls), s.exited)
		s.urls = append(s.urls, line[1])
	}
	return s
}

var marks atomic.Int64

// launch starts the process and waits for nothing.
func launch(t *testing.T, c command) *server {
	t.Helper()
	if c.python.path != "" {
		c.args = append(c.args, "--python", c.python.path)
	}
	mark := fmt.Sprintf("GOPHERSNAKE_E2E=%d.%d", os.Getpid(), marks.Add(1))
	cmd := exec.Command(binary(), c.args...)
	cmd.Env = append(cleanEnv(), append(c.env, mark)...)
	cmd.Dir = c.dir
	s := &server{t: t, mark: mark, log: newLog(), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// A child of the app that keeps our pipe open must not keep Wait from returning.
	cmd.WaitDelay = orphanMax
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", binary(), err)
	}
	s.process = cmd.Process
	go func() {
		_ = cmd.Wait() // the code says all that matters
		s.code = cmd.ProcessState.ExitCode()
		close(s.exited)
	}()
	return s
}

// cleanEnv is this process's environment without what would steer the server or Python.
func cleanEnv() []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		steers := name == "VIRTUAL_ENV" || name == "PORT" || name == "WEB_CONCURRENCY" ||
			strings.HasPrefix(name, "GOPHERSNAKE_") || strings.HasPrefix(name, "PYTHON")
		if !steers {
			env = append(env, pair)
		}
	}
	return append(env, "PYTHONDONTWRITEBYTECODE=1", "PYTHONWARNINGS=ignore")
}

func (s *server) cleanUp() {
	if !s.stopped {
		s.stop(syscall.SIGTERM, 0)
	}
	if s.t.Failed() {
		s.t.Logf("log of the server:\n%s", s.log.text())
	}
}

// stop sends the signal and requires this exit code, and that nothing outlives the process.
func (s *server) stop(signal syscall.Signal, code int) {
	s.t.Helper()
	_ = s.process.Signal(signal) // it may have ended by itself: then its code tells
	s.wantExit(stopMax, code)
}

func (s *server) wantExit(limit time.Duration, code int) {
	s.t.Helper()
	s.stopped = true
	select {
	case <-s.exited:
	case <-time.After(limit):
		_ = s.process.Signal(syscall.SIGQUIT)
		_ = s.process.Kill()
		<-s.exited
		s.t.Errorf("exit: got none within %v, want %d", limit, code)
		s.killAll()
		return
	}
	if s.code != code {
		s.t.Errorf("exit code: got %d, want %d", s.code, code)
	}
	s.wantNoOrphans()
}

func (s *server) wantNoOrphans() {
	s.t.Helper()
	if !within(orphanMax, func() bool { return len(s.processes()) == 0 }) {
		s.t.Errorf("processes left behind: got %v, want none", s.processes())
		s.killAll()
	}
}

func (s *server) killAll() {
	for _, pid := range s.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// processes finds every living process that carries the mark, the server's own included.
func (s *server) processes() []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file) // empty for a zombie, an error for a foreign process
		if err == nil && bytes.Contains(env, []byte(s.mark+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// workers finds the living children of the server.
func (s *server) workers() []int {
	var pids []int
	for _, pid := range s.processes() {
		if parent(pid) == s.process.Pid {
			pids = append(pids, pid)
		}
	}
	return pids
}

func parent(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// After the name, which may hold anything: state, parent, …
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	number, _ := strconv.Atoi(fields[1])
	return number
}

// url is the first listener's, address its host and port.
func (s *server) url() string     { return s.urls[0] }
func (s *server) address() string { return strings.TrimPrefix(s.urls[0], "http://") }

// client returns a client with its own connections, closed with the test.
func (s *server) client() *http.Client {
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: answerMax}
}

// run starts the binary, waits for its end and returns code and log.
func run(t *testing.T, c command) (int, string) {
	t.Helper()
	s := launch(t, c)
	select {
	case <-s.exited:
	case <-time.After(startMax):
		_ = s.process.Kill()
		<-s.exited
		t.Errorf("exit: got none within %v, args %q\n%s", startMax, c.args, s.log.text())
	}
	s.wantNoOrphans()
	return s.code, s.log.text()
}

// log collects what the server writes and wakes those who wait for a line.
type log struct {
	mu    sync.Mutex // over the rest
	bytes bytes.Buffer
	grown chan struct{} // closed and replaced when bytes grew
}

func newLog() *log { return &log{grown: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.grown)
	l.grown = make(chan struct{})
	return l.bytes.Write(p)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes.String()
}

// wait returns the submatches of the match after skip earlier ones. It gives up when the limit
// is over or the process has ended.
func (l *log) wait(t *testing.T, limit time.Duration, want *regexp.Regexp, skip int,
	exited <-chan struct{}) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		l.mu.Lock()
		found, grown := want.FindAllStringSubmatch(l.bytes.String(), -1), l.grown
		l.mu.Unlock()
		if len(found) > skip {
			return found[skip]
		}
		var err error
		select {
		case <-grown:
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-exited:
			err = errors.New("the process has ended")
		}
		t.Fatalf("log: want a line that matches %q: %v; got:\n%s", want, err, l.text())
	}
}

// says waits for a text in the log.
func (s *server) says(text string) {
	s.t.Helper()
	s.log.wait(s.t, answerMax, regexp.MustCompile(regexp.QuoteMeta(text)), 0, s.exited)
}
