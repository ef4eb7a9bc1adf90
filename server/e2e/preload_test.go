package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of --preload.
const (
	preloadWorkers = 3
	slowImport     = 400 * time.Millisecond
	forkedInMax    = 100 * time.Millisecond // from a worker's death to the next one's readiness
	memoryRequests = 100                    // of each worker before its memory is measured
)

// imports makes an app slow to import, and counts its imports.
const imports = `import time
time.sleep(0.4)
with open("imports", "a") as f: f.write("x")
`

// imported is how often the app was imported.
func (v *versioned) imported() int {
	v.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(v.path), "imports"))
	if err != nil {
		v.t.Fatal(err)
	}
	return len(text)
}

// startPreloaded serves a fixture with preloadWorkers, all of them ready.
func startPreloaded(t *testing.T, python interpreter, app string, args ...string) *server {
	t.Helper()
	s := startCommand(t, fixture(python, app, append([]string{"--preload", "--log-level", "debug",
		"--workers", strconv.Itoa(preloadWorkers)}, args...)...))
	s.log.wait(t, startMax, workerReady, preloadWorkers-1, s.exited)
	return s
}

var templateStarted = regexp.MustCompile(`template started generation=\d+ pid=(\d+)`)

// template is the process of the nth template, from 0.
func (s *server) template(n int) int {
	s.t.Helper()
	pid, _ := strconv.Atoi(s.log.wait(s.t, answerMax, templateStarted, n, s.exited)[1])
	return pid
}

// One process imports the app; the workers are forks of it, children of the server, and serve.
func TestPreload(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startPreloaded(t, python, "forked:app", "--threads", "2", "--loops", "3")
		template := s.template(0)
		for range 20 {
			a := dial(t, s.url()).send(get("/")).want(200)
			var worker, importer int
			var ran string
			if _, err := fmt.Sscan(string(a.body), &worker, &ran, &importer); err != nil ||
				worker < 1 || worker > preloadWorkers || importer != template {
				t.Fatalf("got %q, want one of %d workers, and template %d", a.body, preloadWorkers,
					template)
			}
		}
		children := s.workers()
		if len(children) != preloadWorkers+1 || !slices.Contains(children, template) {
			t.Errorf("children: got %v, want %d workers and template %d", children,
				preloadWorkers, template)
		}
		s.says("worker 2 | forked: in the child") // the first one's line has no prefix yet
	})
}

// A dead worker's place is filled by a fork: no import, and so at once.
func TestPreloadReplaces(t *testing.T) {
	v := newVersioned(t)
	v.write(1, imports)
	s := v.start("--preload")
	var took []time.Duration
	for i, pid := range s.workers() {
		if pid == s.template(0) {
			continue
		}
		ready := strings.Count(s.log.text(), "DEBUG worker ready")
		began := time.Now()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(i, err)
		}
		s.log.wait(t, startMax, workerReady, ready, s.exited)
		took = append(took, time.Since(began))
	}
	t.Logf("replaced after %v", took)
	if best, most := slices.Min(took), scaled(forkedInMax, slowImport); best > most {
		t.Errorf("replaced: got after %v at best, want within %v", best, most)
	}
	wantEqual(t, "imports", v.imported(), 1)
	wantEqual(t, "version", version(t, dial(t, s.url())), "1")
}

// The workers of a template that was killed live on; the next worker comes from another one.
func TestPreloadTemplateDies(t *testing.T) {
	v := newVersioned(t)
	v.write(1, imports)
	s := v.start("--preload")
	l := s.startLoadOf(&load{every: 10 * time.Millisecond, mix: echoes})
	_ = syscall.Kill(s.template(0), syscall.SIGKILL)
	s.says("the template ended; its workers live on")
	l.stop()
	l.wantNoneFailed(t)
	wantEqual(t, "imports", v.imported(), 1)
	workers := s.workers()
	_ = syscall.Kill(workers[0], syscall.SIGKILL)
	s.log.wait(t, startMax, workerReady, reloadWorkers, s.exited)
	wantEqual(t, "imports", v.imported(), 2)
	s.template(1)
	s.wantWorkers(t, reloadWorkers+1)
	if dead := s.zombies(); len(dead) > 0 {
		t.Errorf("zombies: got %v, want none", dead)
	}
}

// A reload brings in a new version by a new template, and the old one goes. A version that cannot
// be imported changes nothing.
func TestPreloadReloads(t *testing.T) {
	v := newVersioned(t)
	v.write(1, imports)
	s := v.start("--preload")
	old := s.template(0)
	v.write(2, `raise RuntimeError("no database")`)
	s.signal(hangUp)
	s.log.wait(t, startMax, regexp.MustCompile(`ERROR reload failed: .*RuntimeError: no database`),
		0, s.exited)
	wantEqual(t, "version", version(t, dial(t, s.url())), "1")
	s.wantWorkers(t, reloadWorkers+1)
	v.write(3, imports)
	s.reload(1)
	wantEqual(t, "version", version(t, dial(t, s.url())), "3")
	eventually(t, stopMax, "the old template to go", func() bool {
		now := s.workers()
		return !slices.Contains(now, old) && len(now) == reloadWorkers+1
	})
	wantEqual(t, "imports", v.imported(), 2)
}

// An app that cannot be imported: as without --preload, exit 4 and one traceback, or 3.
func TestPreloadImportFailures(t *testing.T) {
	for _, c := range []struct {
		app  string
		code int
		want string
	}{
		{"raises_at_import", exitApp, "RuntimeError: no database at import"},
		{"dies_at_import", exitBoot, "exited with status 9"},
	} {
		code, log := run(t, fixture(anyPython(), c.app, "--preload", "--workers", "2",
			"--listen", "127.0.0.1:0"))
		wantEqual(t, c.app+": exit code", code, c.code)
		if !strings.Contains(log, c.want) || strings.Count(log, "Traceback") > 1 {
			t.Errorf("%s: want %q, with one traceback at most; got:\n%s", c.app, c.want, log)
		}
	}
}

// Twenty deaths leave nothing behind, neither in the server nor in the template.
func TestPreloadLeaksNothing(t *testing.T) {
	const workers = 10
	s := startCommand(t, fixture(anyPython(), "sleeps:app", "--preload", "--log-level", "debug",
		"--workers", strconv.Itoa(workers), "--threads", "1"))
	s.log.wait(t, startMax, workerReady, workers-1, s.exited)
	template := s.template(0)
	files, theirs := s.descriptors(), len(openFiles(t, template))
	for round := range 2 {
		for _, pid := range s.workers() {
			if pid != template {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		s.log.wait(t, startMax, workerReady, (2+round)*workers-1, s.exited)
	}
	s.wantWorkers(t, workers+1)
	eventually(t, answerMax, fmt.Sprintf("%d descriptors, not %d", files, s.descriptors()),
		func() bool { return s.descriptors() <= files })
	if now := openFiles(t, template); len(now) != theirs {
		t.Errorf("the template's descriptors: got %q, want %d", now, theirs)
	}
	eventually(t, answerMax, "no zombies", func() bool { return len(s.zombies()) == 0 })
}

func openFiles(t *testing.T, pid int) []string {
	t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// What the app registered for the exit runs in every worker and in the template.
func TestPreloadStops(t *testing.T) {
	s := startPreloaded(t, anyPython(), "at_exit:app", "--threads", "2")
	s.stop(terminate, 0)
	for _, who := range []string{"worker 1", "worker 2", "worker 3", "template 1"} {
		if want := who + " | at_exit: ran"; strings.Count(s.log.text(), want) != 1 {
			t.Errorf("log: want one %q; got:\n%s", want, s.log.text())
		}
	}
}

// Nobody outlives a server that was killed, at its work or while it starts.
func TestPreloadEndsWithTheServer(t *testing.T) {
	s := startPreloaded(t, anyPython(), "sleeps:app", "--threads", "2")
	s.stop(syscall.SIGKILL, -1)

	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	c := fixture(anyPython(), "import_waits:app", "--preload", "--listen", "127.0.0.1:0")
	c.env = []string{"IMPORT_GATE=" + gate}
	s = launch(t, c)
	s.says("import_waits: begun")
	s.stop(syscall.SIGKILL, -1)
}

// With --preload orphans of the app become children of the server, which reaps them.
func TestPreloadReapsOrphans(t *testing.T) {
	dir := t.TempDir()
	source := `
import subprocess

def app(environ, start_response):
    orphan = subprocess.check_output("sleep 0.3 >&2 & echo $!", shell=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [orphan]
`
	if err := os.WriteFile(filepath.Join(dir, "orphans.py"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, anyPython(), "orphans:app", "--chdir", dir, "--preload", "--workers", "1")
	body := string(dial(t, s.url()).send(get("/")).want(200).body)
	orphan, err := strconv.Atoi(strings.TrimSpace(body))
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "parent of the orphan", parent(orphan), s.process.Pid)
	eventually(t, answerMax, "the orphan to end, and to be reaped", func() bool {
		return syscall.Kill(orphan, 0) == syscall.ESRCH
	})
}

// Recycling, reloads and the death of a template under load: no request fails.
func TestFaultPreload(t *testing.T) {
	lasting := scaled(60*time.Second, 2*time.Second)
	v := newVersioned(t)
	s := v.start("--preload", "--max-requests", "50")
	l := s.startLoadOf(&load{every: 5 * time.Millisecond, mix: echoes, judge: monotone()})
	n := 0
	for began := time.Now(); time.Since(began) < lasting; n++ {
		v.write(n+2, "")
		s.reload(n + 1)
		if n%2 == 0 {
			started := strings.Count(s.log.text(), "template started")
			_ = syscall.Kill(s.template(started-1), syscall.SIGKILL)
		}
	}
	p99 := l.stop()
	l.wantNoneFailed(t)
	t.Logf("%d reloads, %d answers, p99 %v", n, len(l.took), p99)
	if dead := s.zombies(); len(dead) > 1 { // one may just have died
		t.Errorf("zombies: got %v, want none", dead)
	}
}

// Django: the second worker costs at most half of what the template and the first one do; in the
// full test also of what it costs without --preload.
func TestFaultPreloadMemory(t *testing.T) {
	python := anyPython()
	data := "DJANGO_DATA=" + t.TempDir()
	manage(t, python, data, "migrate", "--verbosity", "0")
	cost := map[bool][2]int64{}
	for _, preload := range scaled([]bool{false, true}, []bool{true}) {
		s := startCommand(t, command{python: python, env: []string{data}, args: []string{
			"project.wsgi", "--chdir", absolute(appsDir + "/django_site"), "--workers", "1",
			"--threads", "2", "--log-level", "debug", "--preload=" + onOff(preload)}})
		s.askDjango(t, memoryRequests)
		first := s.shareOfMemory(t)
		s.signal(syscall.SIGTTIN)
		s.log.wait(t, startMax, workerReady, 1, s.exited)
		s.askDjango(t, 4*memoryRequests)
		cost[preload] = [2]int64{first, s.shareOfMemory(t) - first}
		t.Logf("preload %v: first %d KiB, second %d KiB", preload, first, cost[preload][1])
	}
	if c := cost[true]; c[1] > c[0]/2 {
		t.Errorf("the second worker costs %d KiB, want at most half of %d", c[1], c[0])
	}
	if with, without := cost[true][1], cost[false][1]; fullFaults() && with > without/2 {
		t.Errorf("a worker more costs %d KiB, want at most half of the %d without --preload", with,
			without)
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// askDjango asks for a page of the database's so often, by several clients at a time, so that each
// worker gets its part.
func (s *server) askDjango(t *testing.T, requests int) {
	t.Helper()
	var clients sync.WaitGroup
	for range 4 {
		client := s.client()
		clients.Go(func() {
			for range requests / 4 {
				answer, err := client.Get(s.url())
				if err != nil {
					t.Error(err)
					return
				}
				_, err = io.Copy(io.Discard, answer.Body)
				_ = answer.Body.Close()
				if err != nil || answer.StatusCode != 200 {
					t.Errorf("got %d and %v, want 200", answer.StatusCode, err)
					return
				}
			}
		})
	}
	clients.Wait()
}

// shareOfMemory is the proportional set size of all processes beside the server, in KiB.
func (s *server) shareOfMemory(t *testing.T) (sum int64) {
	t.Helper()
	for _, pid := range s.workers() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				sum += n
			}
		}
	}
	return sum
}
