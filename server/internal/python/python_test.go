package python

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeOS is a machine made of a list of executables and an environment.
type fakeOS struct {
	self  string
	env   map[string]string
	files []string
	out   string
	errs  string
	err   error
	hangs bool
}

func (f fakeOS) system() OS {
	return OS{
		Executable: func() (string, error) { return f.self, nil },
		Getenv:     func(name string) string { return f.env[name] },
		Runnable:   func(path string) bool { return slices.Contains(f.files, path) },
		LookPath: func(name string) (string, error) {
			for dir := range strings.SplitSeq(f.env["PATH"], ":") {
				if path := filepath.Join(dir, name); slices.Contains(f.files, path) {
					return path, nil
				}
			}
			return "", errors.New("not found")
		},
		Output: func(ctx context.Context, _ string, _ ...string) ([]byte, []byte, error) {
			if f.hangs {
				<-ctx.Done()
				return nil, nil, ctx.Err()
			}
			return []byte(f.out), []byte(f.errs), f.err
		},
	}
}

func TestOrderOfCandidates(t *testing.T) {
	const beside, beside2 = "/opt/shop/bin/python3", "/opt/shop/bin/python"
	active, dot, plain := "/envs/a/bin/python", "/srv/.venv/bin/python", "/srv/venv/bin/python"
	const path = "/usr/bin/python3"
	for _, c := range []struct {
		name, asked string
		files       []string
		want, from  string
	}{
		{"all there", "", []string{beside, beside2, active, dot, plain, path}, beside,
			"beside gophersnake"},
		{"python beside", "", []string{beside2, active, path}, beside2, "beside gophersnake"},
		{"active environment", "", []string{active, dot, plain, path}, active, "VIRTUAL_ENV"},
		{"dot venv", "", []string{dot, plain, path}, dot, ".venv"},
		{"venv", "", []string{plain, path}, plain, "venv"},
		{"path", "", []string{path}, path, "PATH"},
		{"asked by path", "/x/py", []string{"/x/py", beside}, "/x/py", "--python"},
		{"asked by relative path", "env/bin/python", []string{"/srv/env/bin/python", beside},
			"/srv/env/bin/python", "--python"},
		{"asked by name", "python3", []string{beside, path}, path, "--python"},
	} {
		t.Run(c.name, func(t *testing.T) {
			machine := fakeOS{self: "/opt/shop/bin/gophersnake", files: c.files,
				env: map[string]string{"PATH": "/bin:/usr/bin", "VIRTUAL_ENV": "/envs/a"}}
			got, err := Find(machine.system(), c.asked, "/srv")
			if want := (Found{c.want, c.from}); err != nil || got != want {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}
}

func TestNothingFound(t *testing.T) {
	for asked, want := range map[string]string{
		"":          "no python3 on PATH",
		"python3.9": `--python "python3.9": no such program on PATH`,
		"./py":      `--python "./py": /srv/py is not an executable file`,
	} {
		_, err := Find(fakeOS{self: "/x/gophersnake"}.system(), asked, "/srv")
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("--python %q: got %v, want %q", asked, err, want)
		}
	}
}

func TestProbeAnswers(t *testing.T) {
	const mark = "gophersnake-probe\t"
	for _, c := range []struct {
		name, out string
		want      Interpreter
		wantErr   string
	}{
		{"plain", "\n" + mark + "cpython\t3.13.0\t0\t/usr\t1\n",
			Interpreter{"/p", "CPython", "3.13.0", 3, 13, "/usr", false, true}, ""},
		{"free-threaded", "\n" + mark + "cpython\t3.14.1\t1\t/opt\t0\n",
			Interpreter{"/p", "CPython", "3.14.1", 3, 14, "/opt", true, false}, ""},
		{"free-threaded, PYTHON_GIL=1", "\n" + mark + "cpython\t3.13.0\t1\t/opt\t1\n",
			Interpreter{"/p", "CPython", "3.13.0", 3, 13, "/opt", true, true}, ""},
		{"noise before", "hello from sitecustomize\n" + mark + "cpython\t3.9.18\t0\t/u\t1\n",
			Interpreter{"/p", "CPython", "3.9.18", 3, 9, "/u", false, true}, ""},
		{"too old", "\n" + mark + "cpython\t3.8.18\t0\t/usr\t1\n", Interpreter{},
			"/p is CPython 3.8.18; gophersnake needs 3.9 or newer"},
		{"much too old", "\n" + mark + "cpython\t2.7.18\t0\t/usr\t1\n", Interpreter{},
			"/p is CPython 2.7.18; gophersnake needs 3.9 or newer"},
		{"not CPython", "\n" + mark + "pypy\t3.10.14\t0\t/usr\t1\n", Interpreter{},
			"/p is pypy 3.10.14; gophersnake needs CPython 3.9 or newer"},
		{"odd version", mark + "cpython\tthree\t0\t/usr\t1\n", Interpreter{},
			`/p has the version "three"; is it a Python?`},
		{"not a Python", "-c import sys\n", Interpreter{}, "/p gave no answer; is it a Python?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Probe(t.Context(), fakeOS{out: c.out}.system(), "/p")
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got != c.want || text != c.wantErr {
				t.Errorf("got %+v, %q, want %+v, %q", got, text, c.want, c.wantErr)
			}
		})
	}
}

func TestThreading(t *testing.T) {
	for _, c := range []struct {
		freeThreaded, gil bool
		want              string
	}{
		{false, true, "CPython 3.13.0, GIL"},
		{true, false, "CPython 3.13.0 free-threaded, GIL off"},
		{true, true, "CPython 3.13.0 free-threaded, GIL on"},
	} {
		i := Interpreter{Implementation: "CPython", Version: "3.13.0", GIL: c.gil,
			FreeThreaded: c.freeThreaded}
		if got := i.String() + ", " + i.Threading(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestProbeSaysWhyPythonFails(t *testing.T) {
	machine := fakeOS{err: errors.New("exit status 1"), errs: "Fatal\nNo module encodings\n"}
	_, err := Probe(t.Context(), machine.system(), "/p")
	want := `/p does not run: exit status 1 (it says "No module encodings")`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestProbeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		_, err := Probe(t.Context(), fakeOS{hangs: true}.system(), "/p")
		if err == nil || time.Since(begin) != ProbeMax {
			t.Errorf("got %v after %v, want an error after %v", err, time.Since(begin), ProbeMax)
		}
	})
}

func TestRealInterpreter(t *testing.T) {
	system := System()
	found, err := Find(system, "", t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	got, err := Probe(t.Context(), system, found.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Implementation != "CPython" || got.Major != 3 || got.Prefix == "" ||
		!got.GIL && !got.FreeThreaded {
		t.Errorf("got %+v", got)
	}
}

// The path of a virtual environment's python must stay as it was named: sys.prefix tells.
func TestEnvironmentIsKeptByItsPath(t *testing.T) {
	system := System()
	base, err := Find(system, "", t.TempDir())
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	made := []string{"-m", "venv", "--without-pip", filepath.Join(dir, ".venv")}
	if _, errs, err := system.Output(t.Context(), base.Path, made...); err != nil {
		t.Skipf("python -m venv: %v %s", err, errs)
	}
	system.Getenv = func(string) string { return "" }
	system.Executable = func() (string, error) { return "", os.ErrNotExist }
	found, err := Find(system, "", dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Probe(t.Context(), system, found.Path)
	if want := filepath.Join(dir, ".venv"); err != nil || got.Prefix != want {
		t.Errorf("prefix %q (%v), want %q", got.Prefix, err, want)
	}
}

func TestOldInterpreterIsRefused(t *testing.T) {
	system := System()
	path, err := system.LookPath("python2")
	if err != nil {
		t.Skip(err)
	}
	if _, err := Probe(t.Context(), system, path); err == nil {
		t.Errorf("%s was accepted", path)
	}
}
