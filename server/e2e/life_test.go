package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	terminate = syscall.SIGTERM
	interrupt = syscall.SIGINT
)

// Exit codes, as reference and README have them.
const (
	exitUsage = 2
	exitBoot  = 3
	exitApp   = 4
	exitBind  = 5
)

// fixture is a command that serves one fixture by itself.
func fixture(python interpreter, app string, args ...string) command {
	return command{python: python, args: append([]string{app, "--chdir", absolute(fixturesDir)},
		args...)}
}

// An app that cannot be loaded: exit 4, the user's own traceback, and a hint.
func TestImportFailures(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		for _, c := range []struct {
			app  string
			want []string
		}{
			{"raises_at_import", []string{"Traceback (most recent call last)", "in connect",
				`raise RuntimeError("no database at import")`, "RuntimeError: no database"}},
			{"import_error", []string{"import a_package_nobody_has", "hint:", "--python"}},
			{"syntax_error", []string{"syntax_error.py", "SyntaxError"}},
			{"exits_at_import", []string{"exit(7)", "__main__"}},
			{"no_app", []string{"application is not callable"}},
			{"asgi:app", []string{"this is ASGI; gophersnake serves WSGI", "a2wsgi"}},
			{"no_such_module", []string{"there is no module 'no_such_module'"}},
			{"generator.app", []string{"did you mean 'generator:app'?"}},
			{"generator:ap", []string{"has no 'ap'", "did you mean 'app'?"}},
			{"generator.py:ap", []string{"did you mean 'app'?"}},
			{"nowhere/generator.py", []string{"there is no file"}},
			{"generator:app(open('x'))", []string{"cannot read"}},
		} {
			t.Run(c.app, func(t *testing.T) { wantImportFailure(t, python, c.app, c.want) })
		}
	})
}

func wantImportFailure(t *testing.T, python interpreter, app string, want []string) {
	c := fixture(python, app, "--workers", "2")
	c.listens = []string{"127.0.0.1:0"}
	c.args = append(c.args, "--listen", c.listens[0])
	code, log := run(t, c)
	wantEqual(t, "exit code", code, exitApp)
	for _, text := range want {
		if !strings.Contains(log, text) {
			t.Errorf("log: want %q in it; got:\n%s", text, log)
		}
	}
	for _, ours := range []string{"resolve.py", "<frozen importlib", `File "<`, "bootstrap"} {
		if strings.Contains(log, ours) {
			t.Errorf("log: want no %q in it; got:\n%s", ours, log)
		}
	}
	if strings.Count(log, "Traceback") > 1 {
		t.Errorf("log: want one traceback, not one for each worker; got:\n%s", log)
	}
}

func TestCommandLineFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no such flag", []string{"generator:app", "--thraeds", "3"}, exitUsage, "--thraeds"},
		{"bad number", []string{"generator:app", "--workers", "many"}, exitUsage, "--workers"},
		{"no app", nil, exitUsage, "APP"},
		{"no such Python", []string{"generator:app", "--python", "/nowhere/python"}, exitUsage,
			"/nowhere/python"},
		{"not a Python", []string{"generator:app", "--python", "/bin/true"}, exitUsage,
			"/bin/true"},
		{"no such directory", []string{"generator:app", "--chdir", "/nowhere"}, exitUsage,
			"/nowhere"},
		{"address in use", []string{"generator:app", "--listen", taken.Addr().String(),
			"--python", anyPython().path}, exitBind, taken.Addr().String()},
		{"dies at import", []string{"dies_at_import", "--listen", "127.0.0.1:0", "--python",
			anyPython().path}, exitBoot, "9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, log := run(t, command{args: c.args, dir: absolute(fixturesDir)})
			wantEqual(t, "exit code", code, c.code)
			if !strings.Contains(log, c.want) || strings.Contains(log, "goroutine ") {
				t.Errorf("log: want %q in it and no dump; got:\n%s", c.want, log)
			}
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	for _, c := range []struct{ flag, want string }{
		{"--version", "gophersnake"}, {"--help", "--graceful-timeout"}, {"--help", "--threads"},
	} {
		code, out := run(t, command{args: []string{c.flag}})
		wantEqual(t, "exit code of "+c.flag, code, 0)
		if !strings.Contains(out, c.want) {
			t.Errorf("%s: want %q in it; got:\n%s", c.flag, c.want, out)
		}
	}
}

// Every flag is also an environment variable; APP has several forms.
func TestWaysToStart(t *testing.T) {
	python := anyPython()
	for _, c := range []struct {
		name string
		command
	}{
		{"environment", command{args: []string{"sleeps"}, env: []string{
			"GOPHERSNAKE_CHDIR=" + absolute(fixturesDir), "GOPHERSNAKE_WORKERS=1",
			"GOPHERSNAKE_THREADS=1", "GOPHERSNAKE_PYTHON=" + python.path}}},
		{"serve", command{python: python, args: []string{"serve", "sleeps:app"},
			dir: absolute(fixturesDir)}},
		{"file", command{python: python, args: []string{"sleeps.py"},
			dir: absolute(fixturesDir)}},
		{"file with a name", command{python: python,
			args: []string{absolute(fixturesDir) + "/sleeps.py:app"}}},
		{"factory", command{python: python,
			args: []string{"pyramid_hello", "--chdir", absolute(appsDir)}}},
		{"short flags", command{python: python,
			args: []string{"sleeps", "-C", absolute(fixturesDir), "-w", "1", "-t", "2"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startCommand(t, c.command)
			path := "/1"
			if c.name == "factory" {
				path = "/hello/x"
			}
			dial(t, s.url()).send(get(path)).want(200)
		})
	}
}

func TestDemo(t *testing.T) {
	s := start(t, anyPython(), "demo", "--workers", "1")
	w := dial(t, s.url())
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/plaintext", 200, "Hello, World!"}, {"/json", 200, `{"message":"Hello, World!"}`},
		{"/stream?n=2&ms=1", 200, "line 0\nline 1\n"}, {"/sleep?ms=1", 200, "slept 1 ms\n"},
		{"/cpu?ms=1", 200, "used 1 ms of CPU\n"}, {"/status/418", 418, "418 I'm a Teapot\n"},
		{"/status/x", 400, "CODE must be a whole number from 200 to 599\n"},
		{"/nothing", 404, "not found; / lists what there is\n"}, {"/bytes/0", 200, ""},
	} {
		a := w.send(get(c.path)).want(c.status)
		wantEqual(t, c.path, string(a.body), c.body)
	}
	wantEqual(t, "/bytes", len(w.send(get("/bytes/3000000")).want(200).body), 3_000_000)
	a := w.send(request("POST", "/echo?x=1", "hello", "X-Mine: yes")).want(200)
	for _, part := range []string{`"POST"`, `"hello"`, `"X-Mine": "yes"`, `"x=1"`} {
		if !strings.Contains(string(a.body), part) {
			t.Errorf("/echo: want %s in it; got %s", part, a.body)
		}
	}
	if a := w.send(get("/")).want(200); !strings.Contains(string(a.body), "/plaintext") {
		t.Errorf("/: want a page that lists the rest; got %s", a.body)
	}
}

// SIGTERM and SIGINT: what runs is answered, then exit 0.
func TestDrain(t *testing.T) {
	for _, signal := range []syscall.Signal{terminate, interrupt} {
		for _, threads := range []string{"1", "4"} {
			t.Run(fmt.Sprintf("%v.%s", signal, threads), func(t *testing.T) {
				s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "2",
					"--threads", threads))
				idle := dial(t, s.url())
				idle.send(get("/")).want(200)
				w := dial(t, s.url()).send(get("/700"))
				s.log.wait(t, answerMax, regexp.MustCompile("sleeps: begun"), 1, s.exited)
				if err := s.process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				w.want(200)
				w.wantClosed()
				idle.wantClosed()
				s.wantExit(stopMax, 0)
				if _, err := net.Dial("tcp", s.address()); err == nil {
					t.Errorf("dial after the stop: got a connection, want it refused")
				}
			})
		}
	}
}

// The terminal's Ctrl-C and Heroku's SIGTERM go to every process: workers must not mind.
func TestWorkersIgnoreSignals(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, fixture(python, "sleeps:app", "--workers", "1"))
		w := dial(t, s.url())
		before := string(w.send(get("/")).want(200).body)
		for _, signal := range []syscall.Signal{terminate, interrupt, syscall.SIGHUP,
			syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTTIN, syscall.SIGTTOU} {
			for _, pid := range s.workers() {
				_ = syscall.Kill(pid, signal)
			}
			wantEqual(t, "pid", string(w.send(get("/")).want(200).body), before)
		}
		wantEqual(t, "workers", len(s.workers()), 1)
	})
}

// Requests beyond --graceful-timeout do not hold the server for ever.
func TestDrainDeadline(t *testing.T) {
	for _, app := range []string{"sleeps:app", "ignores_signals:app", "live_thread:app"} {
		t.Run(app, func(t *testing.T) {
			s := startCommand(t, fixture(anyPython(), app, "--workers", "1",
				"--graceful-timeout", "1s"))
			code := 0
			if app == "sleeps:app" {
				dial(t, s.url()).send(get("/60000"))
				s.says("sleeps: begun")
				code = 1
			} else {
				dial(t, s.url()).send(get("/")).want(200)
			}
			began := time.Now()
			_ = s.process.Signal(terminate)
			s.wantExit(stopMax, code)
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("stop: got %v, want about the graceful timeout of 1s", took)
			}
		})
	}
}

// Stopping ends the interpreter in its own way: atexit handlers run.
func TestAtExit(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, fixture(python, "at_exit:app", "--workers", "1"))
		dial(t, s.url()).send(get("/")).want(200)
		s.stop(terminate, 0)
		if !strings.Contains(s.log.text(), "at_exit: ran") {
			t.Errorf("log: want the handler's word in it; got:\n%s", s.log.text())
		}
	})
}

// kill -9 of the parent: workers end by themselves, also deaf ones and busy ones.
func TestNoOrphans(t *testing.T) {
	for _, c := range []struct{ app, threads string }{
		{"sleeps:app", "1"}, {"sleeps:app", "4"}, {"ignores_signals:app", "4"},
		{"live_thread:app", "4"},
	} {
		t.Run(c.app+"."+c.threads, func(t *testing.T) {
			t.Parallel() // they wait, for the most part
			s := startCommand(t, fixture(anyPython(), c.app, "-w", "2", "-t", c.threads))
			s.wantWorkers(t, 2)
			if c.app == "sleeps:app" {
				dial(t, s.url()).send(get("/60000"))
				s.says("sleeps: begun")
			}
			_ = s.process.Kill()
			s.wantExit(stopMax, -1)
		})
	}
}

// A request that takes its process with it is answered 502; then there is another process.
func TestDeadlyRequests(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		for _, c := range []struct{ app, path string }{
			{"segfault:app", "/now"}, {"os_exit:app", "/0"}, {"os_exit:app", "/3"},
		} {
			t.Run(c.app+c.path, func(t *testing.T) {
				s := startCommand(t, fixture(python, c.app, "--workers", "1"))
				w := dial(t, s.url())
				before := string(w.send(get("/")).want(200).body)
				a := w.send(get(c.path)).want(502)
				if a.get("Connection") == "close" {
					w = dial(t, s.url())
				}
				after := string(w.send(get("/")).want(200).body)
				if after == before {
					t.Errorf("pid: got %s twice, want another", after)
				}
				s.says(before) // the log names the worker that died
			})
		}
	})
}

// wantWorkers waits for the workers that start after the first one is ready.
func (s *server) wantWorkers(t *testing.T, count int) {
	t.Helper()
	eventually(t, answerMax, fmt.Sprintf("%d workers", count), func() bool {
		return len(s.workers()) == count
	})
}

// A worker killed while idle is replaced without any client noticing.
func TestKilledIdleWorker(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "--workers", "2"))
	w := dial(t, s.url())
	for range 3 {
		s.wantWorkers(t, 2)
		before := s.workers()
		_ = syscall.Kill(before[0], syscall.SIGKILL)
		eventually(t, answerMax, "another worker", func() bool {
			now := s.workers()
			return len(now) == 2 && !slices.Contains(now, before[0])
		})
		w.send(get("/")).want(200)
	}
}

// The interpreter that serves, by the rules of --python, VIRTUAL_ENV, ./.venv, ./venv, PATH.
func TestWhichPython(t *testing.T) {
	all := pythons()
	first, last := all[0], all[len(all)-1]
	venv := func(p interpreter) string { return filepath.Dir(filepath.Dir(p.path)) }
	at := func(name string) func(t *testing.T) (string, string) {
		return func(t *testing.T) (string, string) {
			dir := t.TempDir()
			if err := os.Symlink(venv(first), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
			return dir, filepath.Join(dir, name)
		}
	}
	none := func(t *testing.T) (string, string) { return t.TempDir(), "" }
	path := "PATH=" + filepath.Dir(last.path) + ":" + os.Getenv("PATH")
	for _, c := range []struct {
		name   string
		place  func(t *testing.T) (dir, prefix string)
		flag   string
		env    []string
		prefix string // where place gives none
	}{
		{"flag wins", at(".venv"), last.path, []string{"VIRTUAL_ENV=" + venv(first)}, venv(last)},
		{"VIRTUAL_ENV", at(".venv"), "", []string{"VIRTUAL_ENV=" + venv(last)}, venv(last)},
		{".venv", at(".venv"), "", []string{path}, ""},
		{"venv", at("venv"), "", []string{path}, ""},
		{"PATH", none, "", []string{path}, venv(last)},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, prefix := c.place(t)
			if c.prefix != "" {
				prefix = c.prefix
			}
			args := []string{absolute(fixturesDir) + "/interpreter.py", "--workers", "1"}
			if c.flag != "" {
				args = append(args, "--python", c.flag)
			}
			s := startCommand(t, command{args: args, env: c.env, dir: dir})
			shown := interpreterOf(t, s)
			wantEqual(t, "sys.prefix", shown["prefix"], prefix)
			wantEqual(t, "sys.path[0]", shown["path"], absolute(fixturesDir))
			wantEqual(t, "directory", shown["directory"], dir)
		})
	}
}

func interpreterOf(t *testing.T, s *server) map[string]string {
	t.Helper()
	var shown map[string]string
	a := dial(t, s.url()).send(get("/")).want(200)
	if err := json.Unmarshal(a.body, &shown); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
	return shown
}

// Each interpreter is the user's own: executable, prefix and version are the environment's.
func TestInterpreter(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, fixture(python, "interpreter"))
		shown := interpreterOf(t, s)
		wantEqual(t, "sys.executable", shown["executable"], python.path)
		wantEqual(t, "sys.prefix", shown["prefix"], filepath.Dir(filepath.Dir(python.path)))
		if !strings.HasPrefix(python.name, shown["version"]) {
			t.Errorf("version: got %s, want that of %s", shown["version"], python.name)
		}
	})
}

// Debian's and the system's own python3, which are no environments of ours.
func TestSystemPython(t *testing.T) {
	const path = "/usr/bin/python3"
	if _, err := os.Stat(path); err != nil {
		t.Skip("there is no " + path)
	}
	s := startCommand(t, fixture(interpreter{"system", path}, "interpreter", "-w", "1"))
	wantEqual(t, "sys.executable", interpreterOf(t, s)["executable"], path)
}

// Nothing is served before the app has been imported.
func TestReadyAfterImport(t *testing.T) {
	c := fixture(anyPython(), "slow_import", "-w", "1")
	c.env = []string{"SLOW_IMPORT_MS=700"}
	began := time.Now()
	s := startCommand(t, c)
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("listening after %v, want not before the import's 700ms", took)
	}
	wantEqual(t, "body", string(dial(t, s.url()).send(get("/")).want(200).body), "imported")
}

// A thread serves while others sleep: T × N requests at a time, and no more processes.
func TestThreadsRunTogether(t *testing.T) {
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "-w", "1", "-t", "8"))
	began := time.Now()
	var open []*wire
	for range 8 {
		open = append(open, dial(t, s.url()).send(get("/500")))
	}
	for _, w := range open {
		pid, _ := strconv.Atoi(string(w.want(200).body))
		wantEqual(t, "pid", pid, s.workers()[0])
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("8 requests of 500ms on 8 threads: got %v, want them at the same time", took)
	}
}
