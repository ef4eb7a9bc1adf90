package pybridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// templateGrace is what a template gets to run its exit functions.
const templateGrace = 2 * time.Second

// Template is a process that has imported the app and forks workers, which share its memory and
// are ready in milliseconds. It serves no request. Workers outlive their template.
type Template struct {
	cfg    *Config
	self   *Worker     // the process; it has no lanes
	births chan *birth // workers to be forked, one at a time
	ended  chan struct{}
	end    sync.Once

	orders *os.File // owned by run; shim/template.c tells what is said there
}

// StartTemplate starts a template: its process runs when StartTemplate returns, its app is not
// imported yet. output takes one line of its stdout or stderr, as Config.Output does.
//
// Workers become children of this process when the process between them and their template ends:
// from now on this process is a subreaper, which inherits other orphans of theirs too. Somebody
// has to reap those.
func StartTemplate(cfg *Config, output func(line []byte)) (*Template, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("pybridge: becoming a subreaper: %w", err)
	}
	t := &Template{cfg: cfg, self: newWorker(0, nil), births: make(chan *birth),
		ended: make(chan struct{})}
	if err := t.start(output); err != nil {
		for _, f := range []*os.File{t.orders, t.self.control} {
			if f != nil {
				_ = f.Close()
			}
		}
		return nil, fmt.Errorf("pybridge: starting a template: %w", err)
	}
	go t.run()
	return t, nil
}

// start makes the same descriptors as a worker's: the orders socket is where a worker has its
// region, and the places of the lanes' sockets are taken.
func (t *Template) start(output func([]byte)) error {
	var inherited inheritance
	defer inherited.close()
	s := settingsOf(0, t.cfg)
	s.Template = templateSource
	if err := inherited.boot(s); err != nil {
		return err
	}
	ours, theirs, err := socketPair("orders")
	if err != nil {
		return err
	}
	t.orders = ours
	inherited.add(theirs)
	if ours, theirs, err = socketPair("control"); err != nil {
		return err
	}
	t.self.control = ours
	inherited.add(theirs)
	for range 2 * t.cfg.Sizes.Lanes {
		place, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		inherited.add(place)
	}
	return t.self.spawn(t.cfg, inherited, output)
}

// PID is the process's number.
func (t *Template) PID() int { return t.self.PID() }

// Done is closed when the process is gone and reaped.
func (t *Template) Done() <-chan struct{} { return t.self.done }

// Exit says how the template ended. It must not be called before Done is closed.
func (t *Template) Exit() Exit { return t.self.Exit() }

// End lets the process exit, at once while it still imports the app, else with the functions it
// registered for that, and kills it when it does not. Workers that it has forked live on. Any
// goroutine may call it, also again; it does not block.
func (t *Template) End() {
	t.end.Do(func() {
		close(t.ended)
		go func() {
			select {
			case <-t.self.ready:
			default:
				t.self.Kill()
			}
			select {
			case <-t.self.done:
			case <-time.After(templateGrace):
				t.self.Kill()
			}
		}()
	})
}

// run hands births to the process until its end; it owns the orders socket.
func (t *Template) run() {
	defer func() { _ = t.orders.Close() }() // which tells it to exit
	select {
	case <-t.self.ready:
	case <-t.self.done:
		return
	case <-t.ended:
		return
	}
	go func() {
		<-t.self.done
		// A program that the app has started may hold the other end.
		_ = t.orders.SetReadDeadline(time.Unix(0, 1))
	}()
	for {
		select {
		case b := <-t.births:
			b.result <- t.bear(b)
		case <-t.self.done:
			return
		case <-t.ended:
			return
		}
	}
}

// bear has the process fork one worker.
func (t *Template) bear(b *birth) error {
	if !b.move(ordered) {
		return errLeft
	}
	if err := t.order(b); err != nil {
		return fmt.Errorf("ordering a fork: %w", err)
	}
	pid, err := t.report()
	if err != nil {
		return err
	}
	if pid <= 0 {
		return errors.New("the process between template and worker died")
	}
	// It cannot be reaped before the answer: its parent waits for that.
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_, err = t.orders.Write([]byte{'y'})
	if err == nil {
		_, err = t.report()
	}
	if err == nil {
		b.inherited.close() // the worker has them: who sees it ready finds no copies of ours
		err = b.begin(p)
	}
	if err != nil {
		_ = p.Kill() // and whoever reaps orphans reaps it
		_ = p.Release()
		return fmt.Errorf("the template ended amid a fork: %w", err)
	}
	return nil
}

// order sends the worker's number, with its descriptors beside.
func (t *Template) order(b *birth) error {
	var fds []int
	for _, f := range b.inherited {
		fds = append(fds, int(f.Fd()))
	}
	number := binary.NativeEndian.AppendUint32(nil, uint32(b.worker.id))
	raw, err := t.orders.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), number, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN
	})
	return errors.Join(err, sent)
}

// report reads one answer: a worker's number, or 0 when the process between is gone.
func (t *Template) report() (int, error) {
	b := make([]byte, 4)
	if _, err := io.ReadFull(t.orders, b); err != nil {
		return 0, err
	}
	n := int32(binary.NativeEndian.Uint32(b))
	if n >= 0 {
		return int(n), nil
	}
	_, _ = io.ReadFull(t.orders, b) // the report that follows each fork
	return 0, fmt.Errorf("fork: %w", syscall.Errno(-n))
}

// Start makes a worker that the template will fork once it has imported the app. Until then the
// worker's PID is 0; it ends as the template does when that cannot import the app. Any goroutine
// may call it.
func (t *Template) Start(id int) (*Worker, error) {
	r, err := newRegion(t.cfg.Sizes)
	if err != nil {
		return nil, err
	}
	w := newWorker(id, r)
	b := &birth{template: t, worker: w, left: make(chan struct{}), result: make(chan error, 1)}
	output, err := b.prepare()
	if err != nil {
		b.inherited.close()
		w.unlink()
		return nil, fmt.Errorf("pybridge: starting worker %d: %w", id, err)
	}
	w.watched.signal = b.signal
	w.attend(b, output, func(line []byte) { t.cfg.Output(id, line) })
	return w, nil
}
