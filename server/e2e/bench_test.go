package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"
)

// firstApp says when the first request has come.
const firstApp = `import sys

first = True

def application(environ, start_response):
    global first
    if first:
        print("the first request", file=sys.stderr, flush=True)
        first = False
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
`

// A server that stands still for half a second shows in a tenth of the requests of three seconds,
// as it would to people who come whether or not others have been served.
func TestBenchShowsAStall(t *testing.T) {
	const stall = 500 * time.Millisecond
	site := newSite(t)
	site.write(firstApp)
	s := site.start("--workers", "1")
	type result struct {
		code int
		text string
	}
	ended := make(chan result, 1)
	go func() {
		code, text := site.ctl("bench", s.url(), "--rate", "400", "--duration", "3s", "--json")
		ended <- result{code, text}
	}()
	s.says("the first request")
	_ = s.process.Signal(syscall.SIGSTOP)
	wait(stall) // it is the stall
	_ = s.process.Signal(syscall.SIGCONT)
	r := <-ended
	var seen struct {
		Due, Done int
		All       []struct {
			Percent float64
			Micros  int64 `json:"us"`
		}
	}
	_, object, _ := strings.Cut(r.text, "{")
	err := json.NewDecoder(strings.NewReader("{" + object)).Decode(&seen)
	if r.code != 0 || err != nil {
		t.Fatalf("code %d, %v: %q", r.code, err, r.text)
	}
	if seen.Done != seen.Due || seen.Due != 1200 {
		t.Errorf("%d of %d requests were answered, want all of 1200", seen.Done, seen.Due)
	}
	for _, point := range seen.All {
		least := map[float64]time.Duration{95: stall / 4, 100: stall * 9 / 10}[point.Percent]
		if got := time.Duration(point.Micros) * time.Microsecond; got < least {
			t.Errorf("p%v: got %v, want %v and more", point.Percent, got, least)
		}
	}
}
