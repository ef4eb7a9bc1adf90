package control

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// place is that of a user with nothing but a directory for temporary files.
func place(t *testing.T) Place {
	return Place{Getenv: func(string) string { return "" }, UID: os.Geteuid(), Temp: t.TempDir(),
		System: "/dev/null/gophersnake"}
}

func open(t *testing.T, path string) *Socket {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestServersAreFoundByDirectory(t *testing.T) {
	p := place(t)
	at := func(dir, startedIn string, pid int) string {
		path, err := p.Path(dir, startedIn, pid)
		if err != nil {
			t.Fatal(err)
		}
		socket, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		answers(t, socket, &fake{})
		return path
	}
	shop := at("/srv/shop app", "/srv", 1)
	blog := at("/srv/blog", "/srv/blog", 2)
	twin := at("/srv/blog", "/srv/blog", 3)
	const served = "  (shop:app in /srv, pid 7)" // as the fake says
	for dir, want := range map[string]string{
		"/srv/shop app": shop,
		"/srv":          shop,
		"/srv/blog": "2 servers run in /srv/blog; name one with --control-socket:\n  " + blog +
			served + "\n  " + twin + served,
		"/home": "no server of /home runs; others do; name one",
	} {
		got, err := Locate(p, dir)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
	_, err := Locate(place(t), "/srv")
	var none *NoServerError
	if !errors.As(err, &none) || !strings.Contains(err.Error(), "no server of /srv runs under") {
		t.Errorf("got %v, want none", err)
	}
}

func TestOrderOfDirectories(t *testing.T) {
	p, run, system := place(t), t.TempDir(), filepath.Join(t.TempDir(), "gophersnake")
	p.Getenv = func(name string) string {
		if name != "XDG_RUNTIME_DIR" {
			t.Errorf("asked for %s", name)
		}
		return run
	}
	p.System = system
	temporary := filepath.Join(p.Temp, filepath.Base(p.dirs()[2]))
	for _, want := range []string{filepath.Join(run, "gophersnake"), system, temporary} {
		path, err := p.Path("/srv", "/srv", 5)
		if err != nil || filepath.Dir(path) != want {
			t.Fatalf("got %s and %v, want it in %s", path, err, want)
		}
		info, err := os.Stat(want)
		if err != nil || info.Mode().Perm() != privateMode {
			t.Errorf("%s: got %v and %v, want mode 700", want, info.Mode(), err)
		}
		// What others can write to will not do, so that the next one is taken.
		if err := os.Chmod(want, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.Path("/srv", "/srv", 5)
	if err == nil || strings.Count(err.Error(), "only its owner") != 3 {
		t.Errorf("got %v, want the reason of each directory", err)
	}
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	p := place(t)
	if err := os.Symlink(t.TempDir(), p.dirs()[1]); err != nil {
		t.Fatal(err)
	}
	if path, err := p.Path("/srv", "/srv", 5); err == nil {
		t.Errorf("a link was followed to %s", path)
	}
	p.UID++
	if path, err := p.Path("/srv", "/srv", 5); err == nil {
		t.Errorf("the directory of another user was taken: %s", path)
	}
}

func TestLongPaths(t *testing.T) {
	p := place(t)
	p.Temp = filepath.Join(p.Temp, strings.Repeat("x", 100))
	if err := os.Mkdir(p.Temp, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Path("/srv", "/srv", 5); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("got %v, want that it is too long", err)
	}
	if _, err := Open(filepath.Join(p.Temp, "s")); err == nil {
		t.Error("got a socket, want that the path is too long")
	}
}

// The mode is there from the first moment, and does not depend on the umask.
func TestModeOfTheSocket(t *testing.T) {
	old := syscall.Umask(0)
	s := open(t, filepath.Join(t.TempDir(), "s"))
	syscall.Umask(old)
	info, err := os.Lstat(s.Path())
	if err != nil || info.Mode() != os.ModeSocket|socketMode {
		t.Errorf("got %v and %v, want a socket of mode 600", info.Mode(), err)
	}
}

func TestWhatIsAtThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := open(t, path)
	if _, err := Open(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a live server: got %v, want %v", err, ErrInUse)
	}
	if err := os.Remove(path); err != nil { // by somebody who tidies up
		t.Fatal(err)
	}
	second := open(t, path)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if got := stateOf(path); got != alive {
		t.Errorf("the first server's end took the second's socket: got state %d", got)
	}
	if err := second.UnixListener.Close(); err != nil { // the file stays, as after a kill
		t.Fatal(err)
	}
	third := open(t, path)
	if err := third.Close(); err != nil {
		t.Error(err)
	}
	if got := stateOf(path); got != absent {
		t.Errorf("after Close: got state %d, want none", got)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("a file: got %v, want that it stays", err)
	}
}

// Sockets of killed servers would pile up, since each has a name of its own.
func TestDeadServersAreSweptAway(t *testing.T) {
	p := place(t)
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	paths := map[int]string{child.Process.Pid: "", os.Getpid(): ""}
	for pid := range paths {
		path, err := p.Path("/srv", "/srv", pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := open(t, path).UnixListener.Close(); err != nil {
			t.Fatal(err)
		}
		paths[pid] = path
	}
	foreign := filepath.Join(filepath.Dir(paths[os.Getpid()]), "notes.txt")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := p.Path("/srv/new", "/srv/new", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	open(t, path)
	for path, want := range map[string]presence{paths[child.Process.Pid]: absent,
		paths[os.Getpid()]: stale, foreign: 3, path: alive} {
		if got := stateOf(path); got != want {
			t.Errorf("%s: got state %d, want %d", path, got, want)
		}
	}
}

func TestWhomACommandTrusts(t *testing.T) {
	p := place(t)
	p.System = filepath.Join(t.TempDir(), "gophersnake")
	for _, dir := range p.dirs() {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	other := p
	other.UID++ // the directories belong to another user then
	root := other
	root.UID = 0
	for _, c := range []struct {
		place Place
		dir   string
		want  bool
	}{
		{p, p.dirs()[0], true},
		{p, p.dirs()[1], true},
		{other, p.dirs()[0], false},
		{other, p.dirs()[1], false},
		{root, p.System, true},
	} {
		if got := c.place.trusts(c.dir); got != c.want {
			t.Errorf("user %d trusts %s: %v, want %v", c.place.UID, c.dir, got, c.want)
		}
	}
}
