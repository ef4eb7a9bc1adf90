package pybridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// StacksBytesMax bounds what Stacks returns; the rest is cut off.
	StacksBytesMax = 256 << 10

	// StacksTimeMax is how long Stacks takes at most.
	StacksTimeMax = 2 * time.Second

	// stacksPatience is how long the GIL is waited for before the stacks are read without it.
	stacksPatience = 500 * time.Millisecond

	// stacksSignal is the signal for which boot.py installs faulthandler: SIGRTMAX - 7, which
	// nobody else is known to use.
	stacksSignal = 57
)

// ErrNoStacks says that a worker did not tell its stacks.
var ErrNoStacks = errors.New("pybridge: the worker did not tell its stacks in time")

// watched is what the worker reports on request. The orders are in shim/control.c.
type watched struct {
	born      time.Time
	turn      chan struct{} // holds an element while somebody is in Stacks
	texts     chan string   // stacks, as they come; one waits at most
	signalled atomic.Bool   // the process handles stacksSignal
	// signal reaches this process and never another one; nil where there is no such way. Not
	// changed after the start.
	signal func(os.Signal) error
	probed atomic.Int64 // time since born of the probe that waits for an answer; 0: none
	unsent bool         // the worker was not even asked; Probe's own
}

func newWatched() watched {
	return watched{born: time.Now(), turn: make(chan struct{}, 1), texts: make(chan string, 1)}
}

// Stacks returns the Python stacks of all threads of the worker, the last call of each first, and
// which request they run (without its query). It works also while a thread holds the GIL for
// ever, then without lines of source, and while the app is being imported. Calls take turns. At
// most StacksBytesMax bytes, after at most StacksTimeMax.
func (w *Worker) Stacks(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, StacksTimeMax)
	defer cancel()
	select {
	case w.watched.turn <- struct{}{}:
		defer func() { <-w.watched.turn }()
	case <-ctx.Done():
		return "", ErrNoStacks
	}
	select {
	case <-w.watched.texts: // came too late for an earlier call
	default:
	}
	again := time.NewTicker(stacksPatience)
	defer again.Stop()
	for n := 0; ; n++ {
		if err := w.askForStacks(n == 0); err != nil {
			return "", err
		}
		select {
		case text := <-w.watched.texts:
			return text, nil
		case <-w.done:
			return "", fmt.Errorf("%w: it has ended", ErrNoStacks)
		case <-ctx.Done():
			return "", ErrNoStacks
		case <-again.C:
		}
	}
}

// askForStacks asks politely first: a thread that has the GIL sees the others stand still.
func (w *Worker) askForStacks(first bool) error {
	how := byte('f')
	if first {
		how = 's'
	}
	select {
	case <-w.ready:
		return order(w.control, how)
	default: // its control thread does not run yet
	}
	if signal := w.watched.signal; signal != nil && w.watched.signalled.Load() {
		return signal(syscall.Signal(stacksSignal))
	}
	return nil
}

// Interrupt raises gophersnake.RequestTimeout in the thread that runs this request, if one still
// does. It takes effect when that thread next runs Python code. Any goroutine may call it.
func (w *Worker) Interrupt(lane int, slot, generation uint32) {
	target := []byte{'t'}
	for _, n := range []uint32{uint32(lane), slot, generation} {
		target = binary.NativeEndian.AppendUint32(target, n)
	}
	_ = order(w.control, target...)
}

// Probe returns for how long the worker has owed the answer to an earlier probe, which any thread
// gives that gets the GIL; 0 when it owes none, and then it is asked again. One goroutine calls it,
// after Ready.
func (w *Worker) Probe() time.Duration {
	now := time.Since(w.watched.born)
	at := w.watched.probed.Load()
	if at == 0 {
		w.watched.probed.Store(int64(now))
	}
	if at == 0 || w.watched.unsent {
		w.watched.unsent = order(w.control, 'p') != nil
	}
	if at == 0 {
		return 0
	}
	return now - time.Duration(at)
}

// takeStacks reads one report of stacks, to its NUL. False at the end of the worker.
func (w *Worker) takeStacks(kind byte, from *bufio.Reader) bool {
	var text []byte
	for {
		piece, err := from.ReadSlice(0)
		room := StacksBytesMax - len(text)
		text = append(text, piece[:min(len(piece), room)]...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return false
		}
	}
	said := string(bytes.TrimSuffix(text, []byte{0}))
	if kind == 'f' {
		said = readable(said)
	}
	select {
	case w.watched.texts <- said:
	default: // nobody waits for it
	}
	return true
}

var (
	threadLine = regexp.MustCompile(`^(?:Current t|T)hread (0x[0-9a-f]+)`)
	frameLine  = regexp.MustCompile(`^(  File ".*", line (?:\d+|\?\?\?)),? in (.*)$`)
	oursLine   = regexp.MustCompile(`File "(<gophersnake>|<string>)"|` +
		`threading\.py", line \d+, in (_bootstrap|_bootstrap_inner|run)$`)
)

// readable makes of faulthandler's text what boot.py's format_stacks would have written: without
// frames of ours, and with the names of threads, which follow in lines that begin with a #.
func readable(text string) string {
	names := make(map[string]string)
	lines := strings.Split(text, "\n")
	for _, line := range lines {
		ident, name, ok := strings.Cut(line, " ")
		if ok && strings.HasPrefix(ident, "#") {
			thread, request, runs := strings.Cut(name, " ")
			if runs {
				thread += ", " + request
			}
			names[ident[1:]] = thread
		}
	}
	var out, idle []string
	for i := 0; i < len(lines); i++ {
		thread := threadLine.FindStringSubmatch(lines[i])
		if thread == nil {
			continue
		}
		var frames []string
		for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], "  "); i++ {
			if frameLine.MatchString(lines[i+1]) &&
				!strings.Contains(lines[i+1], `"<frozen importlib`) {
				frames = append(frames, frameLine.ReplaceAllString(lines[i+1], "$1, in $2"))
			}
		}
		for len(frames) > 0 && oursLine.MatchString(frames[len(frames)-1]) {
			frames = frames[:len(frames)-1]
		}
		name, known := names[thread[1]]
		switch {
		case len(frames) > 0 && known:
			out = append(out, "Thread "+name+":")
		case len(frames) > 0:
			out = append(out, "Thread "+thread[1]+":")
		case known:
			idle = append(idle, name)
		}
		out = append(out, frames...)
	}
	if len(idle) > 0 {
		slices.Sort(idle)
		out = append(out, "Idle: "+strings.Join(idle, ", "))
	}
	return strings.Join(out, "\n")
}
