package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const hangUp = syscall.SIGHUP

// The reloads under load.
const (
	reloadWorkers   = 2
	reloadUpload    = 3 << 20 // bytes of a body that is sent while reloads happen
	reloadDownload  = 8       // MiB of an answer that is read while reloads happen
	reloadPieces    = 100     // in which both are
	reloadAnswers   = 120_000 // of the full test
	descriptorsMore = 3       // that may be open for a moment: a worker that starts
)

// versioned is an app in a folder of its own whose every answer has its version in X-Version. What
// it answers is apps/faults.py.
type versioned struct {
	t    *testing.T
	path string
}

func newVersioned(t *testing.T) *versioned {
	v := &versioned{t, filepath.Join(t.TempDir(), "shop.py")}
	v.write(1, "")
	return v
}

// write changes the version, and puts more on top of the file.
func (v *versioned) write(version int, more string) {
	v.t.Helper()
	source := more + `
import faults

def app(environ, start_response):
    def start(status, headers):
        return start_response(status, [*headers, ("X-Version", "` + strconv.Itoa(version) + `")])
    return faults.app(environ, start)
`
	// Renamed into place: a worker must not import half a file.
	if err := os.WriteFile(v.path+".new", []byte(source), 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(v.path+".new", v.path); err != nil {
		v.t.Fatal(err)
	}
}

// start returns when all workers are ready: one that still imports would meet the next version.
func (v *versioned) start(args ...string) *server {
	v.t.Helper()
	return v.startOn(anyPython(), args...)
}

func (v *versioned) startOn(python interpreter, args ...string) *server {
	v.t.Helper()
	s := startCommand(v.t, command{python: python,
		args: append([]string{"shop:app", "--chdir", filepath.Dir(v.path), "--workers",
			strconv.Itoa(reloadWorkers), "--threads", "4", "--log-level", "debug"}, args...),
		env: []string{"PYTHONPATH=" + absolute(appsDir)}})
	s.log.wait(v.t, startMax, workerReady, reloadWorkers-1, s.exited)
	return s
}

func (s *server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
}

var reloaded = regexp.MustCompile(`INFO  reloaded generation=(\d+)`)

// reload asks for the nth reload of this server and waits until the new workers serve.
func (s *server) reload(n int) {
	s.t.Helper()
	s.signal(hangUp)
	s.log.wait(s.t, startMax, reloaded, n-1, s.exited)
}

func version(t *testing.T, w *wire) string {
	t.Helper()
	return w.send(get("/echo")).want(200).get("X-Version")
}

// SIGHUP brings in what the app's files say now; old workers go, connections stay.
func TestReload(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		v := newVersioned(t)
		s := v.startOn(python)
		w := dial(t, s.url())
		wantEqual(t, "version", version(t, w), "1")
		old := s.workers()
		v.write(2, "")
		s.reload(1)
		wantEqual(t, "version on the same connection", version(t, w), "2")
		eventually(t, answerMax, "the old workers to go", func() bool {
			now := s.workers()
			for _, pid := range old {
				for _, other := range now {
					if pid == other {
						return false
					}
				}
			}
			return len(now) == reloadWorkers
		})
	})
}

// FI-09: a version that cannot start changes nothing, is told once with its traceback, and the
// next good version comes in.
func TestFaultBrokenVersion(t *testing.T) {
	v := newVersioned(t)
	s := v.start("--start-timeout", "3s")
	l := s.startLoadOf(&load{every: 10 * time.Millisecond, mix: echoes,
		judge: func(_ int, a answer) string { return isVersion(a, "1") }})
	for i, broken := range []struct{ source, want string }{
		{`raise RuntimeError("no database")`, "RuntimeError: no database"},
		{"def x(:", "SyntaxError"},
		{"import os\nos._exit(9)", "exited with status 9"},
		{"import time\ntime.sleep(60)", "was not ready within 3s"},
	} {
		v.write(2, broken.source)
		s.signal(hangUp)
		failed := regexp.MustCompile(`ERROR reload failed: .*`)
		got := s.log.wait(t, startMax, failed, i, s.exited)[0]
		if !strings.Contains(got, broken.want) {
			t.Errorf("log: got %q, want %q in it", got, broken.want)
		}
	}
	l.stop()
	l.wantNoneFailed(t)
	if n := strings.Count(s.log.text(), "Traceback (most"); n != 1 {
		t.Errorf("log: got %d tracebacks, want 1: of the RuntimeError; got:\n%s", n, s.log.text())
	}
	v.write(3, "")
	s.reload(1)
	wantEqual(t, "version", version(t, dial(t, s.url())), "3")
}

func isVersion(a answer, want string) (wrong string) {
	if got := a.get("X-Version"); got != want {
		return "version " + got
	}
	return ""
}

// echoes is a mix of GETs only.
func echoes(_ int, canary string) (text, want string) {
	return get("/echo", "X-Canary: "+canary), canary + "|"
}

// monotone judges that no connection sees an older version after a newer one.
func monotone() func(int, answer) string {
	var mu sync.Mutex
	seen := map[int]int{}
	return func(connection int, a answer) string {
		mu.Lock()
		defer mu.Unlock()
		now, err := strconv.Atoi(a.get("X-Version"))
		if err != nil || now < seen[connection] {
			return fmt.Sprintf("version %d after %d", now, seen[connection])
		}
		seen[connection] = now
		return ""
	}
}

// FI-08: reloads under load, each with a new version, while a long upload and a long download
// are in flight. No request fails, no connection goes back to an older version.
func TestFaultReloadUnderLoad(t *testing.T) {
	between := scaled(10*time.Second, 600*time.Millisecond)
	lasting := scaled(110*time.Second, 3*time.Second)
	every := scaled(900*time.Microsecond, 5*time.Millisecond)
	v := newVersioned(t)
	s := v.start("--graceful-timeout", "60s", "--timeout", "60s")
	l := s.startLoadOf(&load{every: every, judge: monotone(),
		mix: func(kind int, canary string) (string, string) {
			if kind == 0 {
				return mixed(2, canary) // a stream
			}
			return echoes(kind, canary)
		}})
	var transfers sync.WaitGroup
	began, n := time.Now(), 0
	for ; time.Since(began) < lasting; n++ {
		if n%3 == 0 { // each outlives three reloads
			transfers.Go(func() { s.slowUpload(t, 3*between) })
			transfers.Go(func() { s.slowDownload(t, 3*between) })
		}
		next := time.Now().Add(between)
		v.write(n+2, "")
		s.reload(n + 1)
		wait(time.Until(next))
	}
	transfers.Wait()
	if fullFaults() {
		for ; l.answers() < reloadAnswers; wait(time.Second) {
		}
	}
	p99 := l.stop()
	l.wantNoneFailed(t)
	t.Logf("%d reloads, %d answers, p99 %v", n, len(l.took), p99)
	wantEqual(t, "version at the end", version(t, dial(t, s.url())), strconv.Itoa(n+1))
	s.wantWorkers(t, reloadWorkers)
}

func (l *load) answers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.took)
}

// slowUpload sends a body piece by piece, so that it takes so long, and wants it back.
func (s *server) slowUpload(t *testing.T, lasting time.Duration) {
	conn, err := net.DialTimeout("tcp", s.address(), answerMax)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	body := strings.Repeat("0123456789abcdef", reloadUpload/16)
	_ = conn.SetDeadline(time.Now().Add(lasting + answerMax))
	_, err = fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n",
		len(body))
	for i := 0; err == nil && i < reloadPieces; i++ {
		_, err = io.WriteString(conn, body[i*len(body)/reloadPieces:(i+1)*len(body)/reloadPieces])
		wait(lasting / reloadPieces)
	}
	a, readErr := readAnswer(bufio.NewReader(conn), false)
	if readErr != nil || a.status != 200 || string(a.body) != "|"+body {
		t.Errorf("upload: got %d and %d bytes, %v, %v; want 200 and %d", a.status, len(a.body), err,
			readErr, len(body)+1)
	}
}

// slowDownload reads an answer piece by piece and wants all of it.
func (s *server) slowDownload(t *testing.T, lasting time.Duration) {
	conn, err := net.DialTimeout("tcp", s.address(), answerMax)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	_ = conn.SetDeadline(time.Now().Add(lasting + answerMax))
	_, _ = io.WriteString(conn, get(fmt.Sprintf("/big/%d", reloadDownload)))
	slow := &throttled{conn, lasting / reloadPieces, reloadDownload << 20 / reloadPieces, 0}
	a, err := readAnswer(bufio.NewReaderSize(slow, 32<<10), false)
	if err != nil || a.status != 200 || len(a.body) != reloadDownload<<20 {
		t.Errorf("download: got %d and %d bytes, %v; want 200 and %d", a.status, len(a.body), err,
			reloadDownload<<20)
	}
}

// throttled waits after each piece.
type throttled struct {
	io.Reader
	pause time.Duration
	piece int
	got   int
}

func (r *throttled) Read(b []byte) (int, error) {
	if r.got >= r.piece {
		r.got = 0
		wait(r.pause)
	}
	n, err := r.Reader.Read(b)
	r.got += n
	return n, err
}

// FI-10: many reloads leave nothing behind: no descriptor, no thread, no memory.
func TestFaultManyReloads(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		loaded bool
	}{
		{"loaded", scaled(100, 5), true},
		{"idle", scaled(300, 8), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVersioned(t)
			s := v.start()
			var l *load
			if c.loaded {
				l = s.startLoadOf(&load{every: 10 * time.Millisecond, mix: echoes})
			}
			warm := max(c.n/4, 2)
			s.reloads(v, 1, warm)
			files, threads, memory := s.settled()
			s.reloads(v, warm+1, c.n)
			if c.loaded {
				l.stop()
				l.wantNoneFailed(t)
			}
			// What the last old worker had is closed a moment after it.
			within(orphanMax, func() bool { return s.descriptors() <= files+descriptorsMore })
			moreFiles, moreThreads, moreMemory := s.settled()
			t.Logf("%d reloads: descriptors %d to %d, threads %d to %d, RSS %d to %d KiB", c.n-warm,
				files, moreFiles, threads, moreThreads, memory>>10, moreMemory>>10)
			if moreFiles > files+descriptorsMore {
				t.Errorf("descriptors: got %d, want about %d", moreFiles, files)
			}
			// Go keeps the threads it once needed, and its heap breathes.
			if moreThreads > threads+8 {
				t.Errorf("threads: got %d, want about %d", moreThreads, threads)
			}
			if most := memory + 12<<20; moreMemory > most {
				t.Errorf("RSS: got %d, want at most %d", moreMemory, most)
			}
			s.wantWorkers(t, reloadWorkers)
		})
	}
}

// reloads brings in versions from+1 to to+1.
func (s *server) reloads(v *versioned, from, to int) {
	s.t.Helper()
	w := dial(s.t, s.url())
	_ = w.SetDeadline(time.Time{})
	for n := from; n <= to; n++ {
		v.write(n+1, "")
		s.signal(hangUp)
		want := strconv.Itoa(n + 1)
		eventually(s.t, startMax, "version "+want, func() bool {
			return version(s.t, w) == want
		})
	}
}

// settled waits until the old workers have gone, and tells what the server has open and holds.
func (s *server) settled() (files, threads int, memory int64) {
	s.t.Helper()
	s.wantWorkers(s.t, reloadWorkers)
	files = s.descriptors()
	eventually(s.t, answerMax, "descriptors to settle", func() bool {
		was := files
		files = s.descriptors()
		return files == was
	})
	return files, int(s.status("Threads:")), s.rss()
}

// FI-11: a stop under load, with requests in flight: all are answered, the door is closed at
// once, idle connections are closed, exit 0.
func TestFaultStopUnderLoad(t *testing.T) {
	running, lasting := 20, scaled(5*time.Second, time.Second)
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "2", "-t", "12"))
	idle := dial(t, s.url())
	idle.send(get("/0")).want(200)
	var busy []*wire
	for range running {
		busy = append(busy, dial(t, s.url()).send(get(fmt.Sprintf("/%d", lasting.Milliseconds()))))
	}
	s.log.wait(t, answerMax, regexp.MustCompile("sleeps: begun"), running, s.exited)
	began := time.Now()
	s.signal(terminate)
	idle.wantClosed()
	eventually(t, answerMax, "connections refused", func() bool {
		conn, err := net.Dial("tcp", s.address())
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if took := time.Since(began); took > lasting/2 {
		t.Errorf("door: closed after %v, want at once", took)
	}
	s.signal(terminate) // platforms send it again and again
	for _, w := range busy {
		wantEqual(t, "Connection", strings.ToLower(w.want(200).get("Connection")), "close")
		w.wantClosed()
	}
	s.wantExit(stopMax, 0)
}

// A stop answers what waits in the queue too: those clients were let in.
func TestStopAnswersTheQueue(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "1", "-t", "2"))
	var waiting []*wire
	for range 200 {
		waiting = append(waiting, dial(t, s.url()).send(get("/20")))
	}
	s.log.wait(t, answerMax, regexp.MustCompile("sleeps: begun"), 2, s.exited)
	s.signal(terminate)
	for _, w := range waiting {
		w.want(200)
	}
	s.wantExit(stopMax, 0)
}

// SIGQUIT while requests run: what everybody does is in the log, then the end, at once.
func TestQuit(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "2"))
	w := dial(t, s.url()).send(get("/60000"))
	s.says("sleeps: begun")
	began := time.Now()
	s.signal(syscall.SIGQUIT)
	w.want(502)
	s.wantExit(stopMax, 130)
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("stop: got %v, want at once", took)
	}
	for _, want := range []string{"goroutine ", "sleeps.py", "in app"} {
		if !strings.Contains(s.log.text(), want) {
			t.Errorf("log: want %q in it; got:\n%s", want, s.log.text())
		}
	}
}

// SIGTTIN and SIGTTOU: one more, one less, never none.
func TestMoreAndFewerWorkers(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "1"))
	s.signal(syscall.SIGTTIN)
	s.wantWorkers(t, 2)
	s.signal(syscall.SIGTTOU)
	s.wantWorkers(t, 1)
	s.signal(syscall.SIGTTOU)
	s.says("the number of workers stays")
	s.signal(syscall.SIGUSR1)
	s.says("SIGUSR1")
	dial(t, s.url()).send(get("/")).want(200)
}

// PEP 3333: close() is called, also for an answer that the end of the graceful time cuts off.
func TestStreamIsClosedAtTheDeadline(t *testing.T) {
	dir := t.TempDir()
	source := `
import time

class Stream:
    def __iter__(self):
        while True:
            time.sleep(0.05)
            yield b"tick"

    def close(self):
        with open("closed", "w") as f:
            f.write("yes")

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Stream()
`
	if err := os.WriteFile(filepath.Join(dir, "ticks.py"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startCommand(t, command{python: anyPython(), args: []string{"ticks:app", "--chdir", dir,
		"-w", "1", "--graceful-timeout", "2s"}})
	w := dial(t, s.url()).send(get("/"))
	if _, err := w.r.ReadString('k'); err != nil {
		t.Fatal(err)
	}
	s.signal(terminate)
	a, err := readAnswer(w.r, false)
	if err == nil && a.whole {
		t.Errorf("answer: got %s, want it cut off", a)
	}
	s.wantExit(stopMax, 1)
	if _, err := os.Stat(filepath.Join(dir, "closed")); err != nil {
		t.Errorf("close() was not called: %v", err)
	}
}
