package pybridge

import (
	"bufio"
	"bytes"
	_ "embed" // the shim and the Python sources of a worker
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed shim/gophersnake_shim.so
var shimObject []byte

//go:embed boot/boot.py
var bootSource string

//go:embed boot/resolve.py
var resolveSource string

//go:embed boot/template.py
var templateSource string

//go:embed boot/demo.py
var demoSource string

// DemoApp is the App that names the built-in demo.
const DemoApp = "gophersnake:demo"

// Listener is what a worker's environ says of the listener a request came in by.
type Listener struct {
	ServerName string `json:"server_name"` // SERVER_NAME, never empty
	ServerPort string `json:"server_port"` // SERVER_PORT, never empty
	Scheme     string `json:"scheme"`      // wsgi.url_scheme
}

// Config is what all workers of one app share. It is not changed after the first Start.
type Config struct {
	Python       string // the interpreter's path as the user named it: it carries the venv
	App          string // see boot/resolve.py, or DemoApp
	Dir          string // working directory and first entry of sys.path
	Multiprocess bool   // wsgi.multiprocess: more than one worker serves the app
	Listeners    []Listener
	Sizes        Sizes
	// Output takes one line that a worker wrote to its stdout or stderr, without the newline.
	// It is called from several goroutines and may keep the slice only during the call.
	Output func(worker int, line []byte)
}

// outputLineMax bounds one line of a worker's output; longer ones are split.
const outputLineMax = 16384

// Worker is one Python process and its lanes.
type Worker struct {
	id      int
	process osProcess
	control *os.File
	lanes   []*Lane
	region  *region

	ready, done  chan struct{}
	readyOnce    sync.Once
	heard        chan struct{} // closed when there is nothing more to listen to
	watched      watched       // see stacks.go
	gilBack      atomic.Bool
	importFailed bool // valid after heard, as is reason
	reason       string
	exit         Exit // valid after done
}

// osProcess is what a worker needs of the process it runs in: one of its own (executed, below), or
// a fork of a template (birth). pid and kill may be called from any goroutine and do not block.
type osProcess interface {
	pid() int // 0 as long as there is none
	kill()
	quit()      // asks it to finish
	wait() Exit // called once; returns when the process is gone and reaped
}

// Start starts a worker: its process runs when Start returns, its app is not imported yet.
func Start(id int, cfg *Config) (*Worker, error) {
	r, err := newRegion(cfg.Sizes)
	if err != nil {
		return nil, err
	}
	w := newWorker(id, r)
	if err := w.start(cfg); err != nil {
		w.unlink()
		return nil, fmt.Errorf("pybridge: starting worker %d: %w", id, err)
	}
	return w, nil
}

func newWorker(id int, r *region) *Worker {
	return &Worker{id: id, region: r, ready: make(chan struct{}), done: make(chan struct{}),
		heard: make(chan struct{}), watched: newWatched()}
}

// start makes the descriptors the child inherits, in the order that boot.py expects: 3 the
// shim, 4 the settings, 5 and up what link adds.
func (w *Worker) start(cfg *Config) error {
	var inherited inheritance
	defer inherited.close()
	if err := inherited.boot(settingsOf(w.id, cfg)); err != nil {
		return err
	}
	if err := w.link(&inherited, cfg.Sizes.Lanes); err != nil {
		return err
	}
	return w.spawn(cfg, inherited, func(line []byte) { cfg.Output(w.id, line) })
}

// link makes and adds what is between a worker's process and us: the region, the control socket,
// and two sockets for each lane.
func (w *Worker) link(inherited *inheritance, lanes int) error {
	fd, err := unix.FcntlInt(uintptr(w.region.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	inherited.add(os.NewFile(uintptr(fd), "region"))
	ours, theirs, err := socketPair("control")
	if err != nil {
		return err
	}
	w.control = ours
	inherited.add(theirs)
	for i := range lanes {
		ours, theirs, err := socketPair("doorbell")
		if err != nil {
			return err
		}
		inherited.add(theirs)
		files, theirFiles, err := socketPair("files")
		if err != nil {
			_ = ours.Close()
			return err
		}
		inherited.add(theirFiles)
		w.lanes = append(w.lanes, newLane(w.region, w, i, ours, files))
	}
	return nil
}

// unlink gives back what link and newRegion made, where no process came of it.
func (w *Worker) unlink() {
	if w.control != nil {
		_ = w.control.Close()
	}
	for _, l := range w.lanes {
		l.discard()
	}
	w.region.release()
}

// inheritance is what a process gets of us: its descriptors from 3 on. Our copies are closed
// when it has them.
type inheritance []*os.File

func (in *inheritance) add(f *os.File) { *in = append(*in, f) }

func (in *inheritance) close() {
	for _, f := range *in {
		_ = f.Close()
	}
}

// boot adds what the stub and boot.py begin with.
func (in *inheritance) boot(s settings) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	shim, err := sealed("gophersnake-shim", shimObject)
	if err != nil {
		return err
	}
	in.add(shim)
	boot, err := sealed("gophersnake-boot", text)
	if err != nil {
		return err
	}
	in.add(boot)
	return nil
}

// settings is what boot.py reads from descriptor 4.
type settings struct {
	Boot         string     `json:"boot"`
	Resolve      string     `json:"resolve"`
	Demo         string     `json:"demo"`
	App          string     `json:"app"`
	Dir          string     `json:"dir"`
	Worker       int        `json:"worker"`
	Threads      int        `json:"threads"`
	Lanes        int        `json:"lanes"`
	Multiprocess bool       `json:"multiprocess"`
	Listeners    []Listener `json:"listeners"`
	Template     string     `json:"template"` // its source; empty in a worker of its own
	StacksSignal int        `json:"stacks_signal"`
}

func settingsOf(id int, cfg *Config) settings {
	return settings{
		Boot: bootSource, Resolve: resolveSource, Demo: demoSource, App: cfg.App, Dir: cfg.Dir,
		Worker: id, Threads: cfg.Sizes.Threads, Lanes: cfg.Sizes.Lanes,
		Multiprocess: cfg.Multiprocess, Listeners: cfg.Listeners, StacksSignal: stacksSignal,
	}
}

// stub is all that stands on the worker's command line.
const stub = `import json,os
with os.fdopen(4,"rb") as f: c=json.load(f)
exec(compile(c["boot"],"<gophersnake>","exec"),{"__name__":"_gophersnake_boot","settings":c})`

// spawn starts the process and the goroutines that listen to it.
func (w *Worker) spawn(cfg *Config, inherited inheritance, emit func(line []byte)) error {
	outR, outW, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command(cfg.Python, "-c", stub)
	cmd.Dir = cfg.Dir
	cmd.ExtraFiles = inherited
	// Until the shim has its control thread, an import that hangs would outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout, cmd.Stderr = outW, outW
	cmd.Env = append(os.Environ(), "GOPHERSNAKE_WORKER="+strconv.Itoa(w.id))
	if os.Getenv("PYTHONUNBUFFERED") == "" {
		cmd.Env = append(cmd.Env, "PYTHONUNBUFFERED=1")
	}
	err = cmd.Start()
	_ = outW.Close()
	if err != nil {
		_ = outR.Close()
		return err
	}
	w.watched.signal = cmd.Process.Signal
	w.attend(executed{cmd, w.control}, outR, emit)
	return nil
}

// attend starts the goroutines that follow the process until its end.
func (w *Worker) attend(p osProcess, output *os.File, emit func(line []byte)) {
	w.process = p
	outputDone := make(chan struct{})
	go func() {
		defer func() { _ = output.Close() }()
		late := forwardLines(&lastWords{f: output}, emit)
		close(outputDone)
		if late { // a program that the app started may say more
			_ = output.SetReadDeadline(time.Time{})
			forwardLines(output, emit)
		}
	}()
	go w.listen()
	go w.reap(output, outputDone)
}

// lastWords reads from a process that has ended: the deadline says that no more is waited for, and
// what lies in the pipe or socket is read all the same. Read of os.File would not look: with the
// deadline over, a goroutine that had no CPU until then would lose the last words.
type lastWords struct {
	f     *os.File
	after int // bytes read after the deadline
}

func (r *lastWords) Read(b []byte) (int, error) {
	n, err := r.f.Read(b)
	if !errors.Is(err, os.ErrDeadlineExceeded) || r.after >= lastWordsBytesMax {
		return n, err
	}
	raw, failed := r.f.SyscallConn()
	if failed != nil {
		return 0, failed
	}
	var got error
	failed = raw.Control(func(fd uintptr) {
		for got = unix.EINTR; got == unix.EINTR; {
			n, got = unix.Read(int(fd), b)
		}
	})
	switch {
	case failed != nil:
		return 0, failed
	case got != nil: // also that there is nothing
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	r.after += n
	return n, nil
}

// executed is a process of a worker's own.
type executed struct {
	cmd     *exec.Cmd
	control *os.File
}

func (e executed) pid() int { return e.cmd.Process.Pid }
func (e executed) kill()    { _ = e.cmd.Process.Kill() }
func (e executed) quit()    { _ = order(e.control, 'q') }

func (e executed) wait() Exit {
	_ = e.cmd.Wait() // what it returns is in ProcessState
	return exitOf(e.cmd.ProcessState)
}

func exitOf(state *os.ProcessState) Exit {
	e := Exit{Code: state.ExitCode()}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	return e
}

// errStill says that a worker reads no orders.
var errStill = errors.New("pybridge: the worker stands still")

// order writes to a worker's control socket. Nobody waits for a worker that stands still: what the
// socket does not take is dropped, whole. shim/control.c tells of the orders.
func order(control *os.File, b ...byte) error {
	raw, err := control.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		_, sent = unix.Write(int(fd), b)
		return true
	})
	if sent == unix.EAGAIN {
		sent = errStill
	}
	return errors.Join(err, sent)
}

// forwardLines calls emit for each line of f, long ones in pieces, until its end or deadline; true
// when it was the deadline.
func forwardLines(f io.Reader, emit func([]byte)) (late bool) {
	r := bufio.NewReaderSize(f, outputLineMax)
	for {
		line, err := r.ReadSlice('\n')
		if line = bytes.TrimSuffix(line, []byte{'\n'}); len(line) > 0 || err == nil {
			emit(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// reasonBytesMax bounds the traceback of an app that cannot be imported.
const reasonBytesMax = 64 << 10

// listen reads the worker's reports: "r" it is ready; "s" it handles stacksSignal; "p" a thread
// has got the GIL; "d" and "f" stacks, until a NUL; "i" its app cannot be imported, why is what
// follows until the end.
func (w *Worker) listen() {
	defer close(w.heard)
	from := bufio.NewReader(&lastWords{f: w.control})
	for {
		report, err := from.ReadByte()
		if err != nil {
			return
		}
		switch report {
		case 'r':
			w.readyOnce.Do(func() { close(w.ready) })
		case 'g':
			w.gilBack.Store(true)
		case 's':
			w.watched.signalled.Store(true)
		case 'p':
			w.watched.probed.Store(0)
		case 'd', 'f':
			if !w.takeStacks(report, from) {
				return
			}
		case 'i':
			reason, _ := io.ReadAll(io.LimitReader(from, reasonBytesMax))
			w.reason = string(reason)
			w.importFailed = true
			_, _ = io.Copy(io.Discard, from) // else the worker's write blocks for ever
			return
		}
	}
}

// reap waits for the process. What it wrote last is forwarded before Done, also when a child
// of the worker keeps the pipe open; what that writes later is forwarded too.
func (w *Worker) reap(output *os.File, outputDone <-chan struct{}) {
	w.exit = w.process.wait()
	_ = output.SetReadDeadline(time.Now().Add(outputGrace))
	select {
	case <-outputDone:
	case <-time.After(outputGraceMax): // whoever takes the lines blocks
	}
	// Programs that the app started may hold the other end; closing ours ends listen.
	_ = w.control.SetReadDeadline(time.Now().Add(outputGrace))
	<-w.heard
	_ = w.control.Close()
	for _, l := range w.lanes { // those that no loop ever got, as in a crash loop
		l.discard()
	}
	if w.region != nil { // a template's process has none
		w.region.release()
	}
	close(w.done)
}

// sealed makes a read-only anonymous file that holds data.
func sealed(name string, data []byte) (*os.File, error) {
	fd, err := memfd(name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return nil, err
	}
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, all); err != nil {
		_ = f.Close()
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// socketPair makes two connected stream sockets, ours and the worker's.
func socketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}

// ID is the number the supervisor gave the worker.
func (w *Worker) ID() int { return w.id }

// PID is the process's number, or 0 as long as a template has not forked it yet.
func (w *Worker) PID() int { return w.process.pid() }

// Lane returns the link to loop i.
func (w *Worker) Lane(i int) *Lane { return w.lanes[i] }

// Ready is closed when the app is imported and the threads wait for requests.
func (w *Worker) Ready() <-chan struct{} { return w.ready }

// GILBack says that the app's import has turned the GIL of a free-threaded Python on. It is known
// once the worker is ready.
func (w *Worker) GILBack() bool { return w.gilBack.Load() }

// Done is closed when the process is gone and reaped.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Quit asks the worker to finish and exit. Its in-flight requests must be answered before.
func (w *Worker) Quit() { w.process.quit() }

// Kill ends the process at once.
func (w *Worker) Kill() { w.process.kill() }

// Exit says how a worker ended; valid after Done.
type Exit struct {
	Code         int            // -1 when a signal ended it
	Signal       syscall.Signal // 0 when it exited
	ImportFailed bool           // the app could not be imported
	Reason       string         // then: the user's traceback; else why there was no process
}

// Exit says how the worker ended. It must not be called before Done is closed.
func (w *Worker) Exit() Exit {
	e := w.exit
	if w.importFailed {
		e.ImportFailed, e.Reason = true, w.reason
	}
	return e
}

const (
	// outputGrace is how long a dead worker's last lines are waited for; what has been written by
	// then is read and forwarded within outputGraceMax.
	outputGrace    = 200 * time.Millisecond
	outputGraceMax = 2 * time.Second

	// lastWordsBytesMax bounds what is read after outputGrace: more than a pipe or socket holds
	// comes from a program that goes on writing.
	lastWordsBytesMax = 1 << 20
)
