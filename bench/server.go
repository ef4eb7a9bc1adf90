package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gophersnake/bench/openloop"
)

const (
	startMax    = 20 * time.Second // from exec to the first 200
	stopMax     = 3 * time.Second  // from SIGTERM until it is killed
	startPoll   = time.Millisecond // between two attempts to reach a starting server
	messageMax  = 160              // bytes of a server's last words that we repeat
	backlogMax  = 2048             // connections, if the kernel allows as many
	verifyMax   = 30 * time.Second // for one answer while nothing else runs
	logReadSize = 16 << 10         // bytes at the end of a log that we look at
)

// server is a running peer.
type server struct {
	cmd     *exec.Cmd
	site    *site
	log     string // a file
	exited  chan struct{}
	begin   time.Time     // of the exec
	started time.Duration // from exec to the first 200
}

// newSite prepares a place and a free port for p.
func newSite(root string, p *peer, w *workload) (*site, error) {
	s := &site{root: root, apps: filepath.Join(root, "bench", "apps"),
		dir: filepath.Join(root, "build", "bench", "run", p.name), module: w.app,
		threads: w.threads, backlog: backlog()}
	if p.kit != "" {
		s.venv = venvDir(root, p.kit)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	// Nobody else is likely to get this port in the moment until the server listens.
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = listener.Addr().(*net.TCPAddr).Port
	return s, listener.Close()
}

func backlog() int {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return backlogMax
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return backlogMax
	}
	return min(limit, backlogMax)
}

// environment is ours without what would configure a server behind our back.
func environment(s *site) []string {
	var env []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		switch {
		case name == "PORT", name == "WEB_CONCURRENCY", name == "PATH", name == "VIRTUAL_ENV",
			strings.HasPrefix(name, "GUNICORN_"), strings.HasPrefix(name, "GRANIAN_"),
			strings.HasPrefix(name, "UWSGI_"), strings.HasPrefix(name, "GOPHERSNAKE_"),
			strings.HasPrefix(name, "PYTHON"), strings.HasPrefix(name, "XDG_"),
			strings.HasPrefix(name, "MALLOC_"), strings.HasPrefix(name, "LD_"),
			name == "CADDY_ADMIN", name == "GOMAXPROCS", name == "GOGC", name == "GOMEMLIMIT",
			name == "GODEBUG":
		default:
			env = append(env, pair)
		}
	}
	path := os.Getenv("PATH")
	if s.venv != "" {
		path = filepath.Join(s.venv, "bin") + string(os.PathListSeparator) + path
		env = append(env, "VIRTUAL_ENV="+s.venv)
	}
	// Caddy keeps files of its own, and a fixed port for its administration.
	env = append(env, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "CADDY_ADMIN=127.0.0.1:0")
	return append(env, "PATH="+path, "PYTHONPATH="+s.apps, "PYTHONDONTWRITEBYTECODE=1")
}

// launch starts p on the given CPUs (a list as taskset takes it; "" is all) and waits for the
// first 200.
func launch(ctx context.Context, p *peer, s *site, cpus string) (*server, error) {
	if p.prepare != nil {
		if err := p.prepare(s); err != nil {
			return nil, err
		}
	}
	args := pin(p.command(s), cpus)
	logs := filepath.Join(s.root, "build", "bench", "log")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(logs, p.name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, environment(s), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	sv := &server{cmd: cmd, site: s, log: log.Name(), begin: begin,
		exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is said by its log
		close(sv.exited)
	}()
	if err := sv.firstAnswer(ctx, begin); err != nil {
		sv.stop()
		return nil, err
	}
	sv.started = time.Since(begin)
	return sv, nil
}

// pin puts taskset in front of a command.
func pin(args []string, cpus string) []string {
	if cpus == "" {
		return args
	}
	return append([]string{"taskset", "--cpu-list", cpus}, args...)
}

// firstAnswer asks for / until there is a 200.
func (sv *server) firstAnswer(ctx context.Context, begin time.Time) error {
	ask := request{path: "/", length: -1}
	ask.fill(false)
	m := openloop.Message{Method: "GET", Wire: ask.wire(sv.site.address()), Length: -1}
	ctx, cancel := context.WithDeadline(ctx, begin.Add(startMax))
	defer cancel()
	poll := time.NewTicker(startPoll)
	defer poll.Stop()
	var last error
	for {
		l := openloop.NewLink(sv.dial, begin.Add(startMax))
		_, failed := l.Do(ctx, &m)
		l.Close()
		if failed == nil {
			return nil
		}
		if failed.Kind != openloop.FaultConnect && failed.Kind != openloop.FaultTimeout {
			last = failed
		}
		select {
		case <-sv.exited:
			return fmt.Errorf("ended while starting: %s", sv.lastWords())
		case <-ctx.Done():
			if last == nil {
				last = errors.New(sv.lastWords())
			}
			return fmt.Errorf("no 200 in %v: %w", startMax, last)
		case <-poll.C:
		}
	}
}

func (sv *server) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp4", sv.site.address())
}

// lastWords is the last line of the log.
func (sv *server) lastWords() string {
	text, err := os.ReadFile(sv.log)
	if err != nil {
		return err.Error()
	}
	text = bytes.TrimSpace(text[max(0, len(text)-logReadSize):])
	line := string(text[bytes.LastIndexByte(text, '\n')+1:])
	if line == "" {
		return "it said nothing"
	}
	return line[:min(len(line), messageMax)]
}

// processes of the server that live now.
func (sv *server) processes() ([]stat, error) { return family(sv.cmd.Process.Pid) }

// stop ends the server: politely, then the whole session by force.
func (sv *server) stop() {
	all, _ := sv.processes() // without the list we kill what is found below
	_ = sv.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopMax)
	defer timer.Stop()
	select {
	case <-sv.exited:
	case <-timer.C:
	}
	left, _ := family(sv.cmd.Process.Pid)
	for _, one := range append(all, left...) {
		// A number may have a new owner by now: only members of the session are ours.
		if now, err := readStat(one.pid); err == nil && now.session == sv.cmd.Process.Pid {
			_ = syscall.Kill(one.pid, syscall.SIGKILL)
		}
	}
	<-sv.exited
}

// verify asks each request of w and checks status and body. It returns the mean length of a whole
// answer over the cycle, which the load must show as well.
func (sv *server) verify(ctx context.Context, w *workload) (float64, error) {
	var total int64
	var count int
	for i := range w.requests {
		r := &w.requests[i]
		got, err := sv.ask(ctx, r)
		if err != nil {
			return 0, err
		}
		if err := r.check(got.body); err != nil {
			return 0, err
		}
		if w.close && !got.closes {
			return 0, errors.New("keeps a connection that was asked to close")
		}
		total += got.wire * int64(r.times)
		count += r.times
	}
	return float64(total) / float64(count), nil
}

// answer is what came for one request.
type answer struct {
	body   []byte
	wire   int64 // bytes, the head among them
	closes bool  // the connection is closed after it
}

// ask sends one request on a connection of its own and wants 200.
func (sv *server) ask(ctx context.Context, r *request) (got answer, err error) {
	l := openloop.NewLink(func(ctx context.Context) (net.Conn, error) {
		conn, err := sv.dial(ctx)
		return &countedConn{conn, &got.wire}, err
	}, time.Now().Add(verifyMax))
	defer l.Close()
	var b bytes.Buffer
	m := openloop.Message{Method: r.method, Wire: r.wire(sv.site.address()), Length: -1}
	_, head, failed := l.Exchange(ctx, &m, &b)
	if failed != nil {
		return got, fmt.Errorf("%s %s: %w", r.method, r.path, failed)
	}
	if head.StatusCode != 200 {
		return got, fmt.Errorf("%s %s: status %d", r.method, r.path, head.StatusCode)
	}
	got.body, got.closes = b.Bytes(), head.Close
	return got, nil
}

// countedConn counts the bytes that are read from it.
type countedConn struct {
	net.Conn
	read *int64
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	*c.read += int64(n)
	return n, err
}
