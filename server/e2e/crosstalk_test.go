package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The hunt for cross-talk: no byte of one request may show up in the answer to another.

const (
	crossTalkRequests = 20_000
	crossTalkConns    = 32
	crossTalkDepthMax = 16
	crossTalkBytesMax = 256 << 10 // of one body, either way
	// crossTalkAheadMax keeps a batch below the server's --max-pipelined, which closes.
	crossTalkAheadMax = 200 << 10
	crossTalkErrors   = 10 // after so many mismatches the rest tells nothing new
)

// TestCrossTalk sends requests whose path, query, header, cookie and body hold a canary of their
// own, pipelined and with disconnects at random places, and compares every answer byte by byte.
//
// GOPHERSNAKE_CROSSTALK is another number of requests. Under the race detector (100,000):
//
//	CGO_ENABLED=1 go build -race -o /tmp/race ./server
//	GOPHERSNAKE_BIN=/tmp/race GOPHERSNAKE_CROSSTALK=100000 \
//		go test -count=1 -timeout=1h -run=TestCrossTalk ./server/e2e
//
// With the shim under AddressSanitizer (1,000,000), in a copy of the tree, because the shim that
// is built there is embedded; the worker's interpreter needs the sanitizer's library:
//
//	make -C pybridge/shim clean
//	make -C pybridge/shim CFLAGS='-O1 -g -fsanitize=address -fno-omit-frame-pointer'
//	CGO_ENABLED=0 go build -o /tmp/asan ./server
//	GOPHERSNAKE_BIN=/tmp/asan GOPHERSNAKE_PRELOAD="$(cc -print-file-name=libasan.so)" \
//		GOPHERSNAKE_CROSSTALK=1000000 go test -count=1 -timeout=2h -run=TestCrossTalk ./server/e2e
//
// GOPHERSNAKE_SEED repeats a run's requests.
func TestCrossTalk(t *testing.T) {
	env := []string{"PYTHONMALLOC=debug"}
	if library := os.Getenv("GOPHERSNAKE_PRELOAD"); library != "" {
		env = []string{"LD_PRELOAD=" + library, "ASAN_OPTIONS=detect_leaks=0", "PYTHONMALLOC=malloc"}
	}
	c := fixture(anyPython(), "cross_talk:app", "-w", "2", "-t", "4", "--loops", "2")
	c.env = env
	s := startCommand(t, c)
	hunt := &crossTalk{t: t, address: s.address(), seed: uint64(envNumber(t, "GOPHERSNAKE_SEED",
		int(time.Now().UnixNano())))}
	hunt.left.Store(int64(envNumber(t, "GOPHERSNAKE_CROSSTALK", crossTalkRequests)))
	total := hunt.left.Load()
	began := time.Now()
	var running sync.WaitGroup
	for number := range crossTalkConns {
		running.Go(func() { hunt.client(uint64(number)) })
	}
	running.Wait()
	t.Logf("seed %d: %d requests, %d answers compared, %d disconnects in %v", hunt.seed, total,
		hunt.compared.Load(), hunt.cuts.Load(), time.Since(began).Round(time.Millisecond))
	if compared := hunt.compared.Load(); compared < total*3/4 {
		t.Errorf("compared: got %d answers to %d requests, want three quarters", compared, total)
	}
	report := regexp.MustCompile(`.*(DATA RACE|AddressSanitizer|runtime error|Debug memory|` +
		`worker format|ended by signal).*`)
	if found := report.FindString(s.log.text()); found != "" {
		t.Errorf("log: got %q, want no report", found)
	}
}

func envNumber(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return number
}

// crossTalk is one hunt; its clients share the counters only.
type crossTalk struct {
	t                      *testing.T
	address                string
	seed                   uint64
	left                   atomic.Int64 // requests that may still be sent
	compared, cuts, errors atomic.Int64
}

// crossTalkRequest is one request and what its answer must be.
type crossTalkRequest struct{ text, canary, cookie, body string }

// client sends batches until the hunt's requests are used up.
func (h *crossTalk) client(number uint64) {
	dice := rand.New(rand.NewPCG(h.seed, number))
	var conn net.Conn
	var r *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for h.errors.Load() < crossTalkErrors {
		batch := h.batch(dice)
		if len(batch) == 0 {
			return
		}
		if conn == nil {
			var err error
			if conn, err = net.DialTimeout("tcp", h.address, answerMax); err != nil {
				h.fail("dial: %v", err)
				return
			}
			r = bufio.NewReader(conn)
		}
		_ = conn.SetDeadline(time.Now().Add(answerMax))
		if !h.exchange(conn, r, batch, dice) {
			conn.Close()
			conn = nil
		}
	}
}

func (h *crossTalk) fail(format string, args ...any) {
	h.errors.Add(1)
	h.t.Errorf("seed %d: "+format, append([]any{h.seed}, args...)...)
}

// batch makes the requests that go out in one write.
func (h *crossTalk) batch(dice *rand.Rand) []crossTalkRequest {
	depth := 1
	if dice.IntN(2) == 0 {
		depth += dice.IntN(crossTalkDepthMax)
	}
	var batch []crossTalkRequest
	for ahead := 0; len(batch) < depth && h.left.Add(-1) >= 0; {
		most := crossTalkBytesMax
		if depth > 1 {
			most = (crossTalkAheadMax - ahead) / 2
		}
		q := canaryRequest(dice, most)
		ahead += len(q.text)
		batch = append(batch, q)
	}
	return batch
}

// someSize is up to most, with as many sizes of each magnitude.
func someSize(dice *rand.Rand, most int) int {
	return int(math.Exp(dice.Float64()*math.Log(float64(most+1)))) - 1
}

func canaryRequest(dice *rand.Rand, most int) crossTalkRequest {
	canary := fmt.Sprintf("%016x%016x", dice.Uint64(), dice.Uint64())
	how := []string{"list", "stream", "write"}[dice.IntN(3)]
	size := someSize(dice, crossTalkBytesMax)
	q := crossTalkRequest{canary: "h" + canary, cookie: "c=" + canary}
	sent := strings.Repeat("b"+canary, someSize(dice, most)/(len(canary)+1))
	path := fmt.Sprintf("/%s/%d/%s", canary, size, how)
	head := fmt.Sprintf("POST %s?q%s HTTP/1.1\r\nHost: a\r\nX-Canary: %s\r\nCookie: %s\r\n", path,
		canary, q.canary, q.cookie)
	switch {
	case sent == "":
		q.text = head + "Content-Length: 0\r\n\r\n"
	case dice.IntN(2) == 0:
		q.text = head + "Transfer-Encoding: chunked\r\n\r\n" + chunks(sent)
	default:
		q.text = fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(sent), sent)
	}
	filler := strings.Repeat(canary, size/len(canary)+1)[:size]
	q.body = strings.Join([]string{"POST", path, "q" + canary, q.canary, q.cookie, sent, filler},
		"\n")
	return q
}

// exchange sends a batch, or a part of it, and compares the answers; false when the connection
// is of no more use.
func (h *crossTalk) exchange(conn net.Conn, r *bufio.Reader, batch []crossTalkRequest,
	dice *rand.Rand) bool {
	var all strings.Builder
	for _, q := range batch {
		all.WriteString(q.text)
	}
	text, reads := all.String(), len(batch)
	cut, reset := dice.IntN(25) == 0, dice.IntN(2) == 0
	if cut { // leave in the middle of a request, or with answers still owed
		reads = dice.IntN(len(batch) + 1)
		if reads == 0 {
			text = text[:dice.IntN(len(text))]
		}
	}
	_, sendErr := io.WriteString(conn, text)
	for _, q := range batch[:reads] {
		a, err := readAnswer(r, false)
		if err != nil || !a.whole || a.status != 200 {
			h.fail("%.80q: got %v, %v, %s", q.text, sendErr, err, a)
			return false
		}
		if string(a.body) != q.body || a.get("X-Canary") != q.canary ||
			a.get("Set-Cookie") != q.cookie {
			h.fail("%.80q:\n got %s\nwant %.300q", q.text, a, q.body)
			return false
		}
		h.compared.Add(1)
	}
	if cut {
		h.cuts.Add(1)
		if tcp, ok := conn.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0)
		}
	}
	return !cut
}
