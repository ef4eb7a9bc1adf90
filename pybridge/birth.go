package pybridge

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// errLeft says that a worker was ended before its process existed.
var errLeft = errors.New("ended before it was forked")

// birthState is how far a worker of a template is.
type birthState int

const (
	waiting birthState = iota // for the template to import the app, or for its turn
	ordered                   // the template forks it
	born                      // its process runs
	over                      // it has none and will get none
)

func (s birthState) String() string {
	return [...]string{"waiting", "ordered", "born", "over"}[s]
}

// mayMove lists the legal moves.
func (s birthState) mayMove(to birthState) bool {
	switch s {
	case waiting:
		return to == ordered || to == over
	case ordered:
		return to == born || to == over
	}
	return false
}

// birth is the process of a worker that a template forks, and the way there.
type birth struct {
	template *Template
	worker   *Worker
	// inherited is from 5 on, the last its output. The reap goroutine owns it, and the template's
	// run between births and result.
	inherited inheritance
	left      chan struct{} // closed when it is over before it was asked for
	result    chan error    // of the template's fork

	mu      sync.Mutex // over the rest
	state   birthState
	killed  bool
	told    bool        // to quit, before it was born
	process *os.Process // once born
}

// prepare makes what the worker inherits; it returns the read end of its output.
func (b *birth) prepare() (output *os.File, err error) {
	if err := b.worker.link(&b.inherited, b.template.cfg.Sizes.Lanes); err != nil {
		return nil, err
	}
	output, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	b.inherited.add(theirs)
	return output, nil
}

// move changes the state; false when the worker was ended meanwhile. An illegal move is a mistake
// in this package, so it stops the program with both names.
func (b *birth) move(to birthState) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == over && to != over {
		return false
	}
	b.set(to)
	return true
}

// set is move for those who hold mu.
func (b *birth) set(to birthState) {
	if !b.state.mayMove(to) {
		panic(fmt.Sprintf("pybridge: worker %d cannot go from %v to %v", b.worker.id, b.state, to))
	}
	b.state = to
}

// begin makes p the worker's process, lets it go on, and does what was asked of it before. The
// worker may report at once that it is ready; who hears that must find its process, not a birth
// that is still ordered, or would kill the template in its place. So both happen under mu.
func (b *birth) begin(p *os.Process) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.worker.watched.signalled.Store(b.template.self.watched.signalled.Load())
	if err := order(b.worker.control, 'g'); err != nil {
		return err
	}
	b.set(born)
	b.process = p
	if b.killed {
		_ = p.Kill()
	} else if b.told {
		_ = order(b.worker.control, 'q')
	}
	return nil
}

func (b *birth) pid() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process == nil {
		return 0
	}
	return b.process.Pid
}

// signal sends a signal to the process, once there is one.
func (b *birth) signal(s os.Signal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process == nil {
		return os.ErrProcessDone
	}
	return b.process.Signal(s)
}

// kill ends the process. Where there is none yet it has taken too long: a template that hangs in
// the app's import, or in the app's functions at fork, would let the next worker wait as well.
func (b *birth) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.killed = true
	switch b.state {
	case waiting:
		b.leave()
		select {
		case <-b.template.self.ready:
		default:
			b.template.self.Kill()
		}
	case ordered:
		b.template.self.Kill()
	case born:
		_ = b.process.Kill()
	}
}

func (b *birth) quit() {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case waiting:
		b.leave()
	case ordered:
		b.told = true
	case born:
		_ = order(b.worker.control, 'q')
	}
}

// leave ends a birth that nobody works on. mu is held.
func (b *birth) leave() {
	b.set(over)
	close(b.left)
}

// wait sees the worker through its birth and its life.
func (b *birth) wait() Exit {
	err := b.await()
	b.inherited.close()
	if err != nil {
		return b.stillborn(err)
	}
	state, err := b.process.Wait()
	if err != nil {
		return Exit{Code: -1, Reason: fmt.Sprintf("its end was not seen: %v", err)}
	}
	return exitOf(state)
}

// await returns when the process exists, or why there will be none.
func (b *birth) await() error {
	t := b.template
	select {
	case <-t.self.ready:
	case <-t.self.done:
		return errTemplateEnded
	case <-b.left:
		return errLeft
	}
	select {
	case t.births <- b:
		return <-b.result
	case <-t.self.done:
		return errTemplateEnded
	case <-b.left:
		return errLeft
	}
}

var errTemplateEnded = errors.New("its template ended")

// stillborn is the end of a worker that never had a process.
func (b *birth) stillborn(err error) Exit {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != over {
		b.set(over)
	}
	switch {
	case b.killed:
		return Exit{Code: -1, Signal: unix.SIGKILL}
	case errors.Is(err, errLeft) || b.told:
		return Exit{}
	case errors.Is(err, errTemplateEnded):
		return b.template.Exit()
	}
	return Exit{Code: -1, Reason: err.Error()}
}
