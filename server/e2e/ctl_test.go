package e2e

import (
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Exit codes of ctl beyond those of the server.
const (
	ctlRefused  = 1
	ctlNoServer = 7
)

// ctlApp answers its version; /held waits until the file "release" is there.
const ctlApp = `import os, time

VERSION = 1

def application(environ, start_response):
    while environ["PATH_INFO"] == "/held" and not os.path.exists("release"):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"version %d" % VERSION]
`

// site is a folder with an app, and what stands for the user's runtime directory.
type site struct {
	t       *testing.T
	dir     string
	runtime string
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), runtime: t.TempDir()}
	s.write(ctlApp)
	return s
}

func (s *site) write(source string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "shop.py"), []byte(source), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) start(args ...string) *server {
	s.t.Helper()
	return startCommand(s.t, command{python: anyPython(), dir: s.dir,
		env: []string{"XDG_RUNTIME_DIR=" + s.runtime}, args: append([]string{"shop"}, args...)})
}

// ctl runs the binary in the folder and returns its exit code and what it prints.
func (s *site) ctl(args ...string) (int, string) {
	s.t.Helper()
	return run(s.t, command{dir: s.dir, env: []string{"XDG_RUNTIME_DIR=" + s.runtime}, args: args})
}

// wantCtl requires this exit code, and a text that matches.
func (s *site) wantCtl(code int, pattern string, args ...string) string {
	s.t.Helper()
	got, text := s.ctl(args...)
	if got != code || !regexp.MustCompile(pattern).MatchString(text) {
		s.t.Errorf("%v: got code %d and %q, want %d and %q", args, got, text, code, pattern)
	}
	return text
}

// answerJSON decodes what a command prints with --json.
func answerJSON[T any](s *site, args ...string) (value T) {
	s.t.Helper()
	code, text := s.ctl(append(args, "--json")...)
	if err := json.Unmarshal([]byte(text), &value); err != nil || code != 0 {
		s.t.Errorf("%v --json: got code %d, %v and %q, want JSON", args, code, err, text)
	}
	return value
}

type ctlStatus struct {
	PID, Workers, Generation int
	Wanted                   int `json:"workers_wanted"`
	Requests, Clients        int
	InFlight                 int `json:"in_flight"`
	State, App               string
}

type ctlWorker struct {
	ID, PID, Generation, Requests int
	State                         string
	RSS                           int64 `json:"rss_bytes"`
	PSS                           int64 `json:"pss_bytes"`
}

type ctlThreads struct {
	Workers []struct {
		ID      int
		Running []struct {
			Thread         int
			Method, Target string
		}
	}
}

func (s *server) get(t *testing.T, path string) string {
	t.Helper()
	response, err := s.client().Get(s.url() + path)
	if err != nil {
		t.Fatal(err)
	}
	return readBody(t, response)
}

func readBody(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	text := new(strings.Builder)
	if err := response.Write(text); err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(text.String(), "\r\n\r\n")
	return body
}

// All commands against one server, from the folder it was started in.
func TestCtl(t *testing.T) {
	site := newSite(t)
	s := site.start("--workers", "2", "--threads", "3")
	s.get(t, "/")
	var status ctlStatus
	eventually(t, answerMax, "two workers", func() bool {
		status = answerJSON[ctlStatus](site, "ctl", "status")
		return status.Workers == 2
	})
	if status.PID != s.process.Pid || status.Generation != 1 ||
		status.State != "serving" || status.App != "shop" || status.Requests != 1 {
		t.Errorf("status: got %+v", status)
	}
	site.wantCtl(0, `2 of 2 ready × 3 threads, 1 loop; generation 1, 0 restarts\n`, "ctl", "status")
	for _, k := range answerJSON[[]ctlWorker](site, "ctl", "workers") {
		if k.State != "ready" || parent(k.PID) != s.process.Pid || k.RSS < 1<<20 || k.PSS > k.RSS {
			t.Errorf("workers: got %+v", k)
		}
	}
	site.wantCtl(0, `recycled in `, "ctl", "recycle", "1")
	site.wantCtl(0, `scaled to 3 workers`, "ctl", "scale", "3")
	eventually(t, answerMax, "three workers", func() bool {
		status := answerJSON[ctlStatus](site, "ctl", "status")
		return status.Workers == 3 && status.Wanted == 3
	})
	site.wantCtl(ctlRefused, `no worker has that number`, "ctl", "recycle", "1")
	site.wantCtl(0, `all workers recycled in `, "ctl", "recycle", "--all")
	site.wantCtl(exitUsage, `give the number of workers`, "ctl", "scale", "x")
	site.wantCtl(0, `drained in `, "ctl", "drain")
	if conn, err := net.Dial("tcp", s.address()); err == nil {
		conn.Close()
		t.Error("drained, it accepts a client")
	}
	site.wantCtl(0, `draining for`, "ctl", "status")
	site.wantCtl(0, `stopped in `, "stop")
	s.wantExit(stopMax, 0)
	site.wantCtl(ctlNoServer, `no server of .* runs`, "ctl", "status")
}

// What a request holds that could be secret appears in no output.
func TestCtlKeepsSecrets(t *testing.T) {
	site := newSite(t)
	s := site.start("--workers", "1", "--threads", "2")
	request, err := http.NewRequest("GET", s.url()+"/held?token=s3cret", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Cookie", "session=s3cret")
	request.Header.Set("Authorization", "Bearer s3cret")
	bodies := make(chan string)
	go func() {
		response, err := s.client().Do(request)
		if err != nil {
			bodies <- err.Error()
			return
		}
		bodies <- readBody(t, response)
	}()
	eventually(t, answerMax, "the request among the threads", func() bool {
		all := answerJSON[ctlThreads](site, "ctl", "threads")
		if len(all.Workers) != 1 || len(all.Workers[0].Running) != 1 {
			return false
		}
		r := all.Workers[0].Running[0]
		return r.Thread > 0 && r.Method == "GET" && r.Target == "/held"
	})
	site.wantCtl(0, `1 of 2 threads busy\n +\d +\S+ m?s +GET +/held +running\n`, "ctl", "threads")
	site.wantCtl(0, `shop.py", line [67], in application\n`, "ctl", "stacks")
	for _, args := range []string{"status", "workers", "threads", "stacks", "stacks 1"} {
		for _, format := range []string{"", " --json"} {
			code, text := site.ctl(strings.Fields("ctl " + args + format)...)
			if code != 0 || strings.Contains(text, "s3cret") || strings.Contains(text, "token") {
				t.Errorf("%s%s: got code %d and %q, want nothing secret", args, format, code, text)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(site.dir, "release"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "body", <-bodies, "version 1")
}

// A version that cannot be imported changes nothing, and whoever reloads sees why.
func TestCtlReload(t *testing.T) {
	site := newSite(t)
	s := site.start("--workers", "1")
	site.write("import a_package_nobody_has\n")
	site.wantCtl(ctlRefused, `import a_package_nobody_has\n(.*\n)*.*ModuleNotFoundError`, "reload")
	wantEqual(t, "body", s.get(t, "/"), "version 1")
	site.wantCtl(0, `last reload .* FAILED: .*ModuleNotFoundError`, "ctl", "status")
	site.write(strings.Replace(ctlApp, "VERSION = 1", "VERSION = 22", 1))
	site.wantCtl(0, `reloaded in \S+ m?s: generation \d serves\n`, "reload")
	wantEqual(t, "body", s.get(t, "/"), "version 22")
	// The latest reload is also known when a signal has asked for it.
	site.write("raise SystemExit(3)\n")
	s.signal(syscall.SIGHUP)
	eventually(t, answerMax, "the failure of the last reload", func() bool {
		_, text := site.ctl("ctl", "status")
		return strings.Contains(text, "FAILED") && strings.Contains(text, "called exit(3)")
	})
}

func TestCtlOfTwoServers(t *testing.T) {
	site := newSite(t)
	first := site.start("--workers", "1")
	path := filepath.Join(site.runtime, "named")
	second := site.start("--workers", "1", "--control-socket", path)
	// The second one's socket was named, so that only the first is found by the folder.
	wantEqual(t, "pid", answerJSON[ctlStatus](site, "ctl", "status").PID, first.process.Pid)
	named := answerJSON[ctlStatus](site, "ctl", "status", "--control", path)
	wantEqual(t, "pid", named.PID, second.process.Pid)
	third := site.start("--workers", "1")
	text := site.wantCtl(ctlNoServer, `2 servers run in .*; name one with`, "stop")
	for _, s := range []*server{first, third} {
		if !strings.Contains(text, "."+strconv.Itoa(s.process.Pid)+".ctl") {
			t.Errorf("got %q, want the socket of process %d in it", text, s.process.Pid)
		}
	}
	off := site.start("--workers", "1", "--control-socket", "off")
	off.stop(terminate, 0)
}

// A killed server leaves its socket behind, where the next one finds it.
func TestCtlAfterAKill(t *testing.T) {
	site := newSite(t)
	path := filepath.Join(site.runtime, "ctl")
	s := site.start("--workers", "1", "--control-socket", path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("got %v and %v, want a socket of mode 600", info.Mode(), err)
	}
	s.stop(syscall.SIGKILL, -1)
	site.wantCtl(ctlNoServer, "no server answers at .*: connection refused", "stop", "--control", path)
	s = site.start("--workers", "1", "--control-socket", path)
	named := answerJSON[ctlStatus](site, "ctl", "status", "--control", path)
	wantEqual(t, "pid", named.PID, s.process.Pid)
	other := site.start("--workers", "1", "--control-socket", path)
	other.says("going on without a control socket")
	wantEqual(t, "body", other.get(t, "/"), "version 1")
	s.stop(terminate, 0)
	eventually(t, answerMax, "the other server at the socket", func() bool {
		code, _ := site.ctl("ctl", "status", "--control", path)
		return code == 0
	})
}

// A free-threaded Python in which an import has turned the GIL on is reported. There is none here,
// so the app plays its part.
func TestGILThatComesBack(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startCommand(t, fixture(python, "gil_back", "--workers", "2"))
		s.says("WARN  the app's import has turned the GIL on")
	})
}

// The new server of an upgrade is found by the folder, and comes to a socket that was named.
func TestCtlAfterAnUpgrade(t *testing.T) {
	for _, named := range []bool{false, true} {
		t.Run(map[bool]string{false: "found", true: "named"}[named], func(t *testing.T) {
			site := newSite(t)
			args := []string{"shop", "--chdir", site.dir, "--workers", "1"}
			ctl := []string{"ctl", "status"}
			if named {
				path := []string{"--control-socket", filepath.Join(site.runtime, "ctl")}
				args, ctl = append(args, path...), append(ctl, path...)
			}
			l := startLine(t, command{python: anyPython(), args: args,
				env: []string{"XDG_RUNTIME_DIR=" + site.runtime}})
			wantEqual(t, "pid", answerJSON[ctlStatus](site, ctl...).PID, l.process.Pid)
			old := l.upgrade()
			l.gone(old)
			eventually(t, answerMax, "the new server", func() bool {
				code, _ := site.ctl(ctl...)
				return code == 0
			})
			wantEqual(t, "pid", answerJSON[ctlStatus](site, ctl...).PID, l.process.Pid)
		})
	}
}
