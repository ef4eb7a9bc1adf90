// Package python finds the interpreter that runs the app and asks it what it is. Nothing here
// follows a symbolic link: the path of python inside a virtual environment is a link to the
// base interpreter, and the environment is known by the path it was started with.
package python

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Limits of the probe.
const (
	ProbeMax      = 20 * time.Second // pyenv's shims and cold disks are slow
	probeBytesMax = 64 << 10         // of output; what is beyond is dropped
)

// Oldest CPython that can be served.
const (
	MajorMin = 3
	MinorMin = 9
)

// OS is what this package needs of the system, so that tests need none.
type OS struct {
	Executable func() (string, error)            // our own binary
	LookPath   func(name string) (string, error) // as exec.LookPath
	Getenv     func(name string) string
	Runnable   func(path string) bool // an executable file, links followed
	// Output runs a program to its end and returns both its outputs.
	Output func(ctx context.Context, path string, args ...string) (out, errs []byte, err error)
}

// System is the real one.
func System() OS {
	return OS{Executable: os.Executable, LookPath: exec.LookPath, Getenv: os.Getenv,
		Runnable: runnable, Output: output}
}

// Found is an interpreter by path, with the rule that chose it.
type Found struct {
	Path string // absolute, links not followed
	From string // for people: "--python", "VIRTUAL_ENV", …
}

// Find chooses the interpreter. Asked is the value of --python or empty; dir is the absolute
// directory of the app. The order: what was asked for; the one beside our own binary, since pip
// puts us into an environment's bin; an active environment; ./.venv and ./venv; python3 on PATH.
func Find(system OS, asked, dir string) (Found, error) {
	if asked != "" {
		return findAsked(system, asked, dir)
	}
	if self, err := system.Executable(); err == nil {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(filepath.Dir(self), name)
			if system.Runnable(path) {
				return Found{path, "beside gophersnake"}, nil
			}
		}
	}
	for _, env := range []struct{ dir, from string }{
		{system.Getenv("VIRTUAL_ENV"), "VIRTUAL_ENV"},
		{filepath.Join(dir, ".venv"), ".venv"},
		{filepath.Join(dir, "venv"), "venv"},
	} {
		path := absolute(filepath.Join(env.dir, "bin", "python"), dir)
		if env.dir != "" && system.Runnable(path) {
			return Found{path, env.from}, nil
		}
	}
	path, err := system.LookPath("python3")
	if err != nil {
		return Found{}, errors.New("no python3 on PATH and no virtual environment here; " +
			"install Python 3.9 or newer (Debian, Ubuntu: apt install python3) " +
			"or name it with --python")
	}
	return Found{absolute(path, dir), "PATH"}, nil
}

func findAsked(system OS, asked, dir string) (Found, error) {
	if !strings.ContainsRune(asked, filepath.Separator) {
		path, err := system.LookPath(asked)
		if err != nil {
			return Found{}, fmt.Errorf("--python %q: no such program on PATH; "+
				"give the path of an interpreter", asked)
		}
		return Found{absolute(path, dir), "--python"}, nil
	}
	path := absolute(asked, dir)
	if !system.Runnable(path) {
		return Found{}, fmt.Errorf("--python %q: %s is not an executable file; "+
			"give the path of an interpreter", asked, path)
	}
	return Found{path, "--python"}, nil
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// Interpreter is what the probe found out.
type Interpreter struct {
	Path           string
	Implementation string // "CPython"
	Version        string // "3.13.0"
	Major, Minor   int
	Prefix         string // sys.prefix: the environment
	FreeThreaded   bool   // a build that can run without the GIL (PEP 703)
	GIL            bool   // it is on at start; with a free-threaded build that is PYTHON_GIL=1
}

func (i Interpreter) String() string {
	threads := ""
	if i.FreeThreaded {
		threads = " free-threaded"
	}
	return i.Implementation + " " + i.Version + threads
}

// Threading says how many threads of one worker run Python code at a time: one under the GIL, or
// all of them.
func (i Interpreter) Threading() string {
	switch {
	case !i.FreeThreaded:
		return "GIL"
	case i.GIL:
		return "GIL on"
	}
	return "GIL off"
}

// probeMark begins the answer: site customisations may print before it.
const probeMark = "gophersnake-probe"

// probe runs on every Python since 2.7, so that an old one can be named in the error. A
// free-threaded build carries a t in sys.abiflags (PEP 703).
const probe = `import sys
i = getattr(sys, 'implementation', None)
f = ['` + probeMark + `', i.name if i else 'cpython', '.'.join(map(str, sys.version_info[:3])),
     str(int('t' in getattr(sys, 'abiflags', ''))), sys.prefix,
     str(int(getattr(sys, '_is_gil_enabled', lambda: True)()))]
sys.stdout.write('\n' + '\t'.join(f).encode('ascii', 'backslashreplace').decode('ascii') + '\n')
`

// Probe starts the interpreter once, bounded by ProbeMax, and refuses what cannot be served.
func Probe(ctx context.Context, system OS, path string) (Interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, ProbeMax)
	defer cancel()
	out, errs, err := system.Output(ctx, path, "-c", probe)
	if ctx.Err() != nil {
		return Interpreter{}, fmt.Errorf("%s did not answer within %v; is it a Python?",
			path, ProbeMax)
	}
	if err != nil {
		return Interpreter{}, fmt.Errorf("%s does not run: %w%s", path, err, lastLine(errs))
	}
	for line := range bytes.Lines(out) {
		fields := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
		if fields[0] == probeMark && len(fields) == 6 {
			return judge(path, fields[1:])
		}
	}
	return Interpreter{}, fmt.Errorf("%s gave no answer; is it a Python?%s", path, lastLine(errs))
}

// judge reads the fields: implementation, version, free-threaded, prefix, whether the GIL is on.
func judge(path string, fields []string) (Interpreter, error) {
	i := Interpreter{Path: path, Implementation: fields[0], Version: fields[1],
		FreeThreaded: fields[2] == "1", Prefix: fields[3], GIL: fields[4] == "1"}
	if i.Implementation != "cpython" {
		return Interpreter{}, fmt.Errorf("%s is %s %s; gophersnake needs CPython %d.%d or newer",
			path, i.Implementation, i.Version, MajorMin, MinorMin)
	}
	i.Implementation = "CPython"
	numbers := strings.Split(i.Version, ".")
	var errMajor, errMinor error
	if len(numbers) > 1 {
		i.Major, errMajor = strconv.Atoi(numbers[0])
		i.Minor, errMinor = strconv.Atoi(numbers[1])
	}
	if errMajor != nil || errMinor != nil || len(numbers) < 2 {
		return Interpreter{}, fmt.Errorf("%s has the version %q; is it a Python?", path, i.Version)
	}
	if i.Major != MajorMin || i.Minor < MinorMin {
		return Interpreter{}, fmt.Errorf("%s is CPython %s; gophersnake needs %d.%d or newer",
			path, i.Version, MajorMin, MinorMin)
	}
	return i, nil
}

// lastLine quotes the end of what a program said on stderr, where Python puts the reason.
func lastLine(errs []byte) string {
	lines := bytes.Split(bytes.TrimSpace(errs), []byte("\n"))
	if last := bytes.TrimSpace(lines[len(lines)-1]); len(last) > 0 {
		return fmt.Sprintf(" (it says %q)", last)
	}
	return ""
}

func runnable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func output(ctx context.Context, path string, args ...string) (out, errs []byte, err error) {
	var stdout, stderr capped
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A killed shim script can leave a child that holds the pipes open.
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	return stdout.kept, stderr.kept, err
}

// capped keeps the last probeBytesMax bytes written to it.
type capped struct{ kept []byte }

func (c *capped) Write(p []byte) (int, error) {
	c.kept = append(c.kept, p...)
	if extra := len(c.kept) - probeBytesMax; extra > 0 {
		c.kept = append(c.kept[:0], c.kept[extra:]...)
	}
	return len(p), nil
}
