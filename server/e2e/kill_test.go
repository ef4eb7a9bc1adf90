package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The load of TestKillUnderLoad.
const (
	killCount    = 50
	killWorkers  = 4
	killThreads  = 2
	killClients  = 8
	killBodyMax  = 100_000                 // bytes of the largest request body
	killSleepMax = 8                       // milliseconds that a request sleeps at most
	killLifeMin  = 1100 * time.Millisecond // a younger worker's death counts as a crash loop
)

// tally is what the clients saw. One mutex; the clients and the killer add to it.
type tally struct {
	mu     sync.Mutex
	born   map[string]time.Time // by pid: when it was first seen
	good   int
	failed int
	wrong  []string // answers that are neither right nor a clean failure
}

func (r *tally) add(pid, wrong string, good bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case wrong != "":
		r.wrong = append(r.wrong, wrong)
	case good:
		r.good++
		if _, seen := r.born[pid]; !seen {
			r.born[pid] = time.Now()
		}
	default:
		r.failed++
	}
}

// old returns a pid that has lived long enough, or 0, and how many answers there were.
func (r *tally) old(seed *rand.Rand) (pid, good int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var pids []string
	for pid, born := range r.born {
		if time.Since(born) > killLifeMin {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return 0, r.good
	}
	slices.Sort(pids) // a map's order is no seed's
	pid, _ = strconv.Atoi(pids[seed.IntN(len(pids))])
	delete(r.born, strconv.Itoa(pid))
	return pid, r.good
}

// TestKillUnderLoad kills workers at random moments. Every answer must be its request's own
// (a canary in header and body), or a clean failure of a request that the dead worker ran.
//
// Invariant 10 of the design: a death costs at most the worker's own requests in flight.
func TestKillUnderLoad(t *testing.T) {
	kills := killCount
	if testing.Short() {
		kills = 8
	}
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	s := startCommand(t, fixture(anyPython(), "canary:app", "--workers",
		fmt.Sprint(killWorkers), "--threads", fmt.Sprint(killThreads)))
	seen := &tally{born: map[string]time.Time{}}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for number := range killClients {
		clients.Go(func() { s.load(number, rand.New(rand.NewPCG(seed, uint64(number))), seen, stop) })
	}
	s.killWorkers(t, rand.New(rand.NewPCG(seed, 99)), seen, kills)
	close(stop)
	clients.Wait()

	t.Logf("%d kills: %d good answers, %d failed", kills, seen.good, seen.failed)
	if len(seen.wrong) > 0 {
		t.Errorf("wrong answers: got %d, want 0; the first: %s", len(seen.wrong), seen.wrong[0])
	}
	if most := kills * killThreads; seen.failed > most {
		t.Errorf("failed requests: got %d, want at most %d (%d kills, %d threads)", seen.failed,
			most, kills, killThreads)
	}
	s.wantWorkers(t, killWorkers)
	canaried(t, s)
}

// killWorkers kills one worker after another, each at its own moment: after some more answers,
// at an instruction that nobody chose.
func (s *server) killWorkers(t *testing.T, seed *rand.Rand, seen *tally, kills int) {
	t.Helper()
	for kill := range kills {
		var victim, good int
		eventually(t, stopMax, fmt.Sprintf("a worker to kill (%d killed)", kill), func() bool {
			victim, good = seen.old(seed)
			return victim != 0
		})
		_ = syscall.Kill(victim, syscall.SIGKILL)
		more := 1 + seed.IntN(50)
		eventually(t, answerMax, fmt.Sprintf("%d answers after kill %d", more, kill), func() bool {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			return seen.good >= good+more
		})
	}
}

// load is one client: requests one after the other over kept connections.
func (s *server) load(number int, seed *rand.Rand, seen *tally, stop <-chan struct{}) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: answerMax}
	for request := 0; ; request++ {
		select {
		case <-stop:
			return
		default:
		}
		canary := fmt.Sprintf("%d.%d.%d", number, request, seed.Uint64())
		body := bytes.Repeat([]byte(canary+","), 1+seed.IntN(killBodyMax/len(canary)))
		if seed.IntN(3) > 0 {
			body = nil
		}
		url := fmt.Sprintf("%s/%d", s.url(), seed.IntN(killSleepMax))
		pid, wrong, good := exchangeCanary(client, url, canary, body)
		seen.add(pid, wrong, good)
	}
}

// exchangeCanary makes one request. A failure is clean when the client can tell: 502, or a
// connection that ended before the answer was whole. No answer in time is a hang, so wrong.
func exchangeCanary(client *http.Client, url, canary string, body []byte) (pid, wrong string,
	good bool) {
	// POST: net/http would repeat a GET by itself and hide a failure.
	request, err := http.NewRequest("POST", url, bytes.NewReader(body))
	if err != nil {
		return "", err.Error(), false
	}
	request.Header.Set("X-Canary", canary)
	answer, err := client.Do(request)
	if err != nil {
		return "", hang(err), false
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return "", hang(err), false
	case answer.StatusCode == http.StatusBadGateway:
		return "", "", false
	case answer.StatusCode != http.StatusOK:
		return "", fmt.Sprintf("status %d for canary %s", answer.StatusCode, canary), false
	}
	want := append([]byte(canary+"|"), body...)
	if !bytes.Equal(got, want) || answer.Header.Get("X-Canary") != canary {
		return "", fmt.Sprintf("canary %s and a body of %d: got %s and %d bytes, %.80q", canary,
			len(body), answer.Header.Get("X-Canary"), len(got), got), false
	}
	return answer.Header.Get("X-Pid"), "", true
}

func hang(err error) string {
	if os.IsTimeout(err) {
		return "no answer in time: " + err.Error()
	}
	return ""
}

// canaried requires that everything works at the end.
func canaried(t *testing.T, s *server) {
	t.Helper()
	client := s.client()
	for i := range 20 {
		canary := fmt.Sprintf("last.%d", i)
		if _, wrong, good := exchangeCanary(client, s.url()+"/0", canary, nil); !good {
			t.Errorf("after the kills: got %q, want a right answer", wrong)
		}
	}
}
