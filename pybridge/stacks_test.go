package pybridge

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stacks asks for them until they show what is wanted: a thread may not have got there yet.
func (p *process) stacks(want string) string {
	p.t.Helper()
	shown := regexp.MustCompile(want)
	for end := time.Now().Add(waitMax); ; {
		text, err := p.Stacks(context.Background())
		if err != nil {
			p.t.Fatalf("%v\n%s", err, p.text())
		}
		if shown.MatchString(text) {
			return text
		}
		if time.Now().After(end) {
			p.t.Fatalf("stacks: want %q, got\n%s", want, text)
		}
	}
}

// without fails when a stack shows what is nobody's business.
func without(t *testing.T, stacks string, unwanted ...string) {
	t.Helper()
	for _, text := range append(unwanted, "<gophersnake>", "<string>", "_bootstrap", "format_stack") {
		if strings.Contains(stacks, text) {
			t.Errorf("stacks: %q in\n%s", text, stacks)
		}
	}
}

// What hangs, where, in which thread, for which request; who is idle.
func TestStacks(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		t.Parallel()
		p := launchReady(t, python, "hangs", 3)
		p.submit(path("/lock?secret=1"))
		text := p.stacks(`(?s)Thread gophersnake-\d, GET /lock for \d+\.\d s:` +
			`\n  File ".*/hangs\.py", line 14, in hang\n    WAYS\[way\]\(\)\n  File`)
		without(t, text, "secret")
		if n := strings.Count(text, "gophersnake-"); n != 3 || !strings.Contains(text, "\nIdle: ") {
			t.Errorf("want three threads, two of them idle, in\n%s", text)
		}
	})
}

// One thread, the main one, hangs.
func TestStacksOfMainThread(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), "hangs", 1)
	without(t, p.stacks(`^$`))
	p.submit(path("/lock"))
	without(t, p.stacks(`^Thread MainThread, GET /lock for \d`))
}

// While C code holds the GIL, and while the app is being imported, the stacks come without it.
func TestStacksWithoutGIL(t *testing.T) {
	onEvery(t, func(t *testing.T, python string) {
		t.Parallel()
		p := launchReady(t, python, "holds_gil", 2)
		p.submit(path("/60000?secret=1"))
		text := p.stacks(`Thread gophersnake-\d, GET /60000:\n  File ".*/holds_gil\.py", line \d+, in `)
		without(t, text, "secret")
		if first, second := p.Probe(), p.Probe(); first != 0 || second <= 0 {
			t.Errorf("probes: got %v and %v, want the second one unanswered", first, second)
		}
	})
}

// The stacks that come without the GIL show a slot that may change meanwhile: nothing of it is
// taken for the report's end, and what follows for a report of its own.
func TestStacksOfChangingSlot(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), "holds_gil", 2)
	q := path("/\x00i\nr")
	q.Path = []byte("/60000")
	p.submit(q)
	p.stacks(`Thread gophersnake-\d, GET /\?i\?r:\n  File ".*/holds_gil\.py"`)
	p.Kill()
	if e := p.wantEnd(waitMax); e.ImportFailed {
		t.Errorf("got %+v, want no failure of an import", e)
	}
}

// A probe is answered once the GIL can be had, whatever else waited for it meanwhile: the watchdog
// asks again only after the answer.
func TestProbeIsNeverLost(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), "holds_gil", 2)
	p.submit(path("/700"))
	p.await("holds_gil: begun")
	for range 40 { // more than the worker does at a time
		p.Interrupt(0, 63, 0)
	}
	p.Probe()
	p.wantProbe()
}

func TestStacksOfImport(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate") // nobody opens it
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("IMPORT_GATE", gate)
	p := launch(t, anyPython(t), "import_waits", 2)
	p.await("import_waits: begun")
	without(t, p.stacks(`import_waits\.py", line \d+, in <module>`))
}

// An app may use faulthandler for itself, and take every signal there is.
func TestStacksOfJealousApp(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), "takes_signals", 2)
	p.submit(path("/"))
	p.stacks(`Thread gophersnake-\d, GET /:\n  File ".*/takes_signals\.py"`)
}

// A worker that stands still, or has gone, tells nothing; the call returns in time.
func TestNoStacks(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), DemoApp, 2)
	p.signal(unix.SIGSTOP)
	begun := time.Now()
	if text, err := p.Stacks(context.Background()); err == nil {
		t.Errorf("got %q, want an error", text)
	}
	if took := time.Since(begun); took > StacksTimeMax+time.Second {
		t.Errorf("took %v, want at most %v", took, StacksTimeMax)
	}
	p.Kill()
	<-p.Done()
	if text, err := p.Stacks(context.Background()); err == nil {
		t.Errorf("got %q, want an error", text)
	}
}

// What is asked of a worker that stands still blocks nobody, and is dropped when it cannot be sent;
// but a probe is sent later.
func TestOrdersToWorkerThatStandsStill(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), DemoApp, 2)
	p.signal(unix.SIGSTOP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 { // far more than the socket takes
			p.Interrupt(0, 0, 0)
		}
		p.Quit()
		p.Probe()
	}()
	select {
	case <-done:
	case <-time.After(waitMax):
		t.Error("an order waits for a worker that stands still")
		p.Kill()
		<-done
		return
	}
	p.signal(unix.SIGCONT)
	p.wantProbe()
}

// wantProbe waits for the answer to a probe.
func (p *process) wantProbe() {
	p.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitMax); p.Probe() != 0; <-tick.C {
		if time.Now().After(end) {
			p.t.Fatalf("a probe has no answer within %v", waitMax)
		}
	}
}

// A slot tells which thread has its request since when, and what that thread waited for the GIL.
func TestRunTellsOfTheGIL(t *testing.T) {
	t.Parallel()
	p := launchReady(t, anyPython(t), "holds_gil", 2)
	first, _ := p.submit(path("/3000")) // long enough for the second thread to wait, however late
	p.await("holds_gil: begun")
	second, _ := p.submit(path("/1"))
	for left := 2; left > 0; {
		if p.reply().Flags&ReplyLast != 0 { // whichever thread gets the GIL first
			left--
		}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	one, two := p.lanes[0].Run(first), p.lanes[0].Run(second)
	t.Logf("%+v, then %+v", one, two)
	if one.Thread == two.Thread && two.GIL >= time.Millisecond {
		t.Errorf("got %+v: a thread that goes on waits for nothing", two)
	}
	if one.Thread != two.Thread && (two.GIL < 100*time.Millisecond || two.GIL > waitMax) {
		t.Errorf("got %+v, want a wait of some 100 ms", two)
	}
	if two.TakenNS <= one.TakenNS || two.TakenNS > now.Nano() || one.GIL > waitMax {
		t.Errorf("got %+v, then %+v, and now it is %d", one, two, now.Nano())
	}
}
