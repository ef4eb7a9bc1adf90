package reap

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const waitMax = 20 * time.Second

// busySettle is settleTime for tests: shorter, and longer than a busy machine keeps a Wait from its
// status.
const busySettle = time.Second

// fakeSystem has children as a test sets them: dead ones with their start, others by pid only.
type fakeSystem struct {
	dead      map[zombie]Status
	strangers []int
	reaped    []int
	hidden    bool // /proc shows nothing
}

func newFake(dead ...zombie) (*Reaper, *fakeSystem) {
	f := &fakeSystem{dead: map[zombie]Status{}}
	for _, z := range dead {
		f.dead[z] = Status{Code: z.pid}
	}
	r := New()
	r.sys = system{
		wait: f.wait, peek: f.peek, zombies: f.zombies,
		exists: func(pid int) bool { return slices.Contains(f.strangers, pid) },
	}
	return r, f
}

func (f *fakeSystem) peek() int {
	for z := range f.dead {
		return z.pid
	}
	return 0
}

func (f *fakeSystem) zombies() []zombie {
	if f.hidden {
		return nil
	}
	return slices.Collect(maps.Keys(f.dead))
}

func (f *fakeSystem) wait(pid int) (Status, found) {
	for z, status := range f.dead {
		if z.pid == pid {
			delete(f.dead, z)
			f.reaped = append(f.reaped, pid)
			return status, hasEnded
		}
	}
	return Status{}, isStranger
}

func TestUnknownZombieIsReapedAtItsSecondSight(t *testing.T) {
	r, f := newFake(zombie{7, 1}, zombie{8, 1})
	if more := r.sweep(); !more || len(f.reaped) > 0 {
		t.Fatalf("at first sight: more %v, reaped %v, want more and none reaped", more, f.reaped)
	}
	f.wait(8) // its owner did
	f.reaped = nil
	if more := r.sweep(); more || !slices.Equal(f.reaped, []int{7}) {
		t.Errorf("at second sight: more %v, reaped %v, want only 7", more, f.reaped)
	}
}

func TestZombieWithAnOldPidIsNew(t *testing.T) {
	r, f := newFake(zombie{7, 1})
	r.sweep()
	f.wait(7)
	f.dead[zombie{7, 2}] = Status{}
	f.reaped = nil
	if more := r.sweep(); !more || len(f.reaped) > 0 {
		t.Errorf("more %v, reaped %v, want more and none reaped", more, f.reaped)
	}
}

func TestZombieThatProcDoesNotShow(t *testing.T) {
	r, f := newFake(zombie{7, 1})
	f.hidden = true
	if more := r.sweep(); !more || len(f.reaped) > 0 {
		t.Fatalf("at first sight: more %v, reaped %v, want more and none reaped", more, f.reaped)
	}
	if r.sweep(); !slices.Equal(f.reaped, []int{7}) {
		t.Errorf("at second sight: reaped %v, want 7", f.reaped)
	}
}

func TestPeekNamesTheChild(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	got, end := 0, time.Now().Add(waitMax)
	for ; got == 0 && time.Now().Before(end); <-tick.C {
		got = peek()
	}
	if got != cmd.Process.Pid {
		t.Errorf("got %d, want %d", got, cmd.Process.Pid)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := peek(); got != 0 {
		t.Errorf("after Wait: got %d, want none", got)
	}
}

func TestExpectedIsNotSwept(t *testing.T) {
	r, f := newFake(zombie{7, 1})
	ended := r.Expect(7)
	r.sweep()
	r.sweep()
	if len(f.reaped) > 0 {
		t.Fatalf("reaped %v, want none", f.reaped)
	}
	if strangers := r.collect(); strangers {
		t.Error("collect wants to look again")
	}
	if got := <-ended; got.Code != 7 {
		t.Errorf("got %+v, want status 7", got)
	}
}

func TestStrangerThatVanishesIsLost(t *testing.T) {
	r, f := newFake()
	f.strangers = []int{7}
	ended := r.Expect(7)
	if strangers := r.collect(); !strangers || len(ended) > 0 {
		t.Fatalf("collect says %v, %d delivered, want true and none", strangers, len(ended))
	}
	f.strangers = nil
	r.collect()
	if got := <-ended; !got.Lost {
		t.Errorf("got %+v, want lost", got)
	}
}

func TestStatLines(t *testing.T) {
	tail := strings.Repeat(" 0", 17) + " 4711 0 0"
	for text, want := range map[string]string{
		"12 (sh) Z 1" + tail:        "{12 4711} 1 true",
		"12 (a) Z 9 (b) S 1" + tail: "{12 4711} 1 false",
		"12 () ) Z 3" + tail + "\n": "{12 4711} 3 true",
		"12 (sh) Z":                 "{0 0} 0 false",
		"12 sh":                     "{0 0} 0 false",
		"":                          "{0 0} 0 false",
	} {
		z, parent, dead := parseStat([]byte(text))
		if got := fmt.Sprint(z, parent, dead); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// run starts a reaper with its own settle time, ended with the test.
func run(t *testing.T, settle time.Duration) *Reaper {
	if err := Adopt(); err != nil {
		t.Fatal(err)
	}
	if !Needed() {
		t.Fatal("a subreaper needs no reaper")
	}
	r := New()
	r.settle = settle
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// orphan starts a grandchild that runs the script, and returns its pid when its parent is gone.
func orphan(t *testing.T, script string) int {
	out, err := exec.Command("sh", "-c", "("+script+") >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func gone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitMax); exists(pid); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("process %d is there after %v", pid, waitMax)
		}
	}
}

func TestOrphansLeaveNoZombies(t *testing.T) {
	run(t, busySettle)
	var orphans []int
	for range 10 {
		orphans = append(orphans, orphan(t, "exit 3"))
	}
	for _, pid := range orphans {
		gone(t, pid)
	}
}

func TestOrphanThatIsExpected(t *testing.T) {
	r := run(t, settleTime)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := exec.Command("sh", "-c", "(read line; exit 5) <&3 >/dev/null 2>&1 & echo $!")
	cmd.ExtraFiles = []*os.File{reader}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	ended := r.Expect(pid)
	writer.Close()
	wantStatus(t, ended, Status{Code: 5})

	pid = orphan(t, "exec sleep 1000")
	ended = r.Expect(pid)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, ended, Status{Code: -1, Signal: syscall.SIGKILL})
}

func wantStatus(t *testing.T, ended <-chan Status, want Status) {
	t.Helper()
	select {
	case got := <-ended:
		if got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	case <-time.After(waitMax):
		t.Fatalf("no status within %v, want %+v", waitMax, want)
	}
}

// Beside orphans that end and are reaped, each Wait still gets its own status.
func TestCommandsKeepTheirStatus(t *testing.T) {
	run(t, busySettle)
	var orphans []int
	for i := range 50 {
		orphans = append(orphans, orphan(t, "exit 1"))
		err := exec.Command("sh", "-c", fmt.Sprintf("exit %d", i)).Run()
		if got := exitCode(err); got != i {
			t.Fatalf("Wait says %v, want exit status %d", err, i)
		}
	}
	for _, pid := range orphans {
		gone(t, pid)
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}
