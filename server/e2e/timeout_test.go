package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// Deadlines of these tests. Whatever the app does, a client has its 504 after timeout and a bit.
const (
	slowAfter = 300 * time.Millisecond
	timeout   = 1200 * time.Millisecond
)

func hanging(python interpreter, more ...string) command {
	return command{python: python, args: append([]string{"django_hangs", "--chdir",
		absolute(appsDir), "--timeout", timeout.String(), "--slow-request", slowAfter.String()},
		more...)}
}

// entry waits for a record of the log that begins its message so, and returns it with the lines
// that belong to it.
func (s *server) entry(message, request string) string {
	s.t.Helper()
	want := regexp.MustCompile(fmt.Sprintf("(?m)^.* WARN +%s .*request=%q.*\n((?:    .*\n)+)",
		regexp.QuoteMeta(message), "GET "+request))
	return s.log.wait(s.t, answerMax, want, 0, s.exited)[0]
}

// wantTimeout makes a request and wants a bare 504 in time.
func (s *server) wantTimeout(path string) {
	s.t.Helper()
	begun, w := time.Now(), dial(s.t, s.url())
	defer w.Close()
	a := w.send(get(path)).want(504)
	if took := time.Since(begun); took < timeout || took > timeout+5*time.Second {
		s.t.Errorf("504 to %s: got after %v, want %v", path, took, timeout)
	}
	if got := a.get("Cache-Control"); got != "no-store" {
		s.t.Errorf("504 to %s: got Cache-Control %q, want no-store", path, got)
	}
}

// A Django view that takes the same lock twice, and one that computes for ever: both clients get
// 504, the log shows where they hang and why, the computing one is ended and its thread goes
// on.
func TestTimeoutShowsAndEnds(t *testing.T) {
	t.Parallel()
	onEvery(t, func(t *testing.T, python interpreter) {
		t.Parallel()
		s := startCommand(t, hanging(python, "--workers", "1", "--threads", "3",
			"--graceful-timeout", "2s"))
		var both sync.WaitGroup
		for _, path := range []string{"/compute", "/transfer"} {
			both.Add(1)
			go func() {
				defer both.Done()
				s.wantTimeout(path + "?password=1")
			}()
		}
		both.Wait()
		s.says("compute: cleaned up")
		for _, message := range []string{"slow request", "no answer within --timeout"} {
			wantDump(t, s.entry(message, "/transfer"), python)
		}
		wantOf(t, s.entry("no answer within --timeout", "/compute"),
			`\n    Thread gophersnake-\d, GET /compute for \d.\d s:`+
				`\n      File ".*/django_hangs.py", line \d+, in count`)
		w := dial(t, s.url())
		w.send(get("/")).want(200) // the same worker
		s.says("gophersnake.RequestTimeout: the answer did not begin within --timeout")
		if n := strings.Count(s.log.text(), "Traceback"); n != 1 {
			t.Errorf("tracebacks: got %d, want one of /compute", n)
		}
		s.stop(15, 0) // a thread still hangs, but its client has had its answer
	})
}

// wantDump checks what the log tells of the deadlock.
func wantDump(t *testing.T, entry string, python interpreter) {
	t.Helper()
	wantOf(t, entry, `request="GET /transfer" client=127.0.0.1 worker=1 thread=gophersnake-\d `+
		`queue=\S+ gil=\S+ app=\d\S*\n`)
	wantOf(t, entry, `\n    Thread gophersnake-\d, GET /transfer for \d+\.\d s:`+
		`\n      File ".*/django_hangs\.py", line \d+, in audit\n        with LOCK:`+
		`\n      File ".*/django_hangs\.py", line \d+, in transfer\n        audit\(request\)`+
		`\n      File ".*/django/core/handlers/base\.py", line \d+, in _get_response\n`)
	for _, unwanted := range []string{"password", "<gophersnake>", "_bootstrap", "<string>"} {
		if strings.Contains(entry, unwanted) {
			t.Errorf("%s: %q in the log:\n%s", python.name, unwanted, entry)
		}
	}
}

func wantOf(t *testing.T, entry, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(entry) {
		t.Errorf("log: want %q in\n%s", pattern, entry)
	}
}

// A thread that does not come free costs its worker the place, and nobody else anything: a
// deadlock, and C code that keeps the GIL, which a probe finds.
func TestHungWorkersAreReplaced(t *testing.T) {
	t.Parallel()
	for path, why := range map[string]string{
		"/transfer": `gophersnake-\d still busy 5s after --timeout: GET /transfer`,
		"/hog":      `(no thread has got the GIL for \d+s|.* still busy 5s after .*)`,
	} {
		t.Run(path[1:], func(t *testing.T) {
			t.Parallel()
			s := startCommand(t, hanging(anyPython(), "--workers", "2", "--threads", "2"))
			s.wantWorkers(t, 2)
			first := s.workers()
			s.wantTimeout(path)
			s.entry("no answer within --timeout", path)
			answered, stop := 0, make(chan struct{})
			var load sync.WaitGroup
			load.Add(1)
			go func() { // beside, one after the other: nobody waits for long
				defer load.Done()
				for {
					select {
					case <-stop:
						return
					default:
						s.ask(t, get("/"), 200)
						answered++
					}
				}
			}()
			s.log.wait(t, answerMax, regexp.MustCompile(`worker hangs and is replaced .*why="`+why),
				0, s.exited)
			eventually(t, answerMax, "two workers, one of them new", func() bool {
				now := s.workers()
				return len(now) == 2 && (!contains(now, first[0]) || !contains(now, first[1]))
			})
			close(stop)
			load.Wait()
			if answered < 10 {
				t.Errorf("answered beside: got %d requests, want more", answered)
			}
		})
	}
}

func contains(all []int, one int) bool {
	for _, n := range all {
		if n == one {
			return true
		}
	}
	return false
}

// --timeout is for an answer to begin: a 103 begins none (RFC 9110 §15.2), and a stream that has
// begun takes its time. Neither is slow when the log is not to show it.
func TestTimeoutIsForTheBeginning(t *testing.T) {
	t.Parallel()
	s := start(t, anyPython(), "begins_late:app", "--chdir", absolute(appsDir), "--workers", "1",
		"--threads", "2", "--timeout", timeout.String(), "--slow-request", "0")
	stream := dial(t, s.url()).send(get("/stream"))
	hints := dial(t, s.url()).send(get("/hints"))
	hints.want(103)
	hints.want(504)
	if a := stream.want(200); len(a.body) != 2000 {
		t.Errorf("stream: got %d bytes, want 2000", len(a.body))
	}
	s.entry("no answer within --timeout", "/hints")
	if text := s.log.text(); strings.Contains(text, "slow request") ||
		strings.Contains(text, `request="GET /stream`) {
		t.Errorf("log: want nothing of the stream, in\n%s", text)
	}
}
