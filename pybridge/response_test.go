package pybridge

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What an app says, whatever it is, must come out as exactly its answer, as one bare 500, or as
// the beginning of its answer that the client can tell from a whole one. apps/as_asked.py says
// what the test makes up; net/http is the oracle of what a client would see.

const responseCases = 20_000

// asked is what the app shall do. Each rune of a text is a character of Python's; blocks are
// bytes, one rune a byte.
type asked struct {
	Status  string      `json:"status"`
	Headers [][2]string `json:"headers"`
	Blocks  []string    `json:"blocks"`
	How     string      `json:"how"`
	Raises  int         `json:"raises"` // before this block; beyond the last one: not at all

	head, http10, keep bool // of the request
}

// TestResponses makes up answers by a seed. GOPHERSNAKE_SEED repeats a run.
func TestResponses(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("GOPHERSNAKE_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	dice := rand.New(rand.NewPCG(seed, 0))
	p := launchQuiet(t)
	seen := map[string]int{}
	for number := range responseCases {
		a := randomAsked(dice)
		what, err := p.check(a)
		if err != nil {
			t.Fatalf("seed %d, case %d: %v\nof %+v", seed, number, err, a)
		}
		seen[what]++
	}
	t.Logf("seed %d: %v", seed, seen)
	for _, what := range []string{"whole", "500", "cut"} {
		if seen[what] < responseCases/50 {
			t.Errorf("seed %d: got %d cases that are %s, want more", seed, seen[what], what)
		}
	}
}

// FuzzResponse is the same for what the fuzzer makes up: bytes are characters up to U+00FF; a
// header is NAME US VALUE, headers and blocks end with RS.
func FuzzResponse(f *testing.F) {
	f.Add("200 OK", "Content-Type\x1ftext/plain\x1e", "one\x1etwo\x1e", uint8(0), uint8(9))
	f.Add("204 No Content", "content-length\x1f5\x1eX-A\x1f\xe9\t\x1e", "hello\x1e", uint8(1),
		uint8(0))
	f.Add("304", "Connection\x1fclose\x1eTE\x1fx\x1e", "\x1e", uint8(6), uint8(1))
	f.Add("200 \r\nX: y", "A\x1fb\r\nC: d\x1e", "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\x1e",
		uint8(17), uint8(2))
	p := launchQuiet(f)
	f.Fuzz(func(t *testing.T, status, headers, blocks string, kind, raises uint8) {
		p.t = t
		a := asked{Status: wide(status), Raises: int(raises), Headers: [][2]string{},
			Blocks: []string{}, How: hows()[kind&3%3], head: kind&4 != 0, http10: kind&8 != 0,
			keep: kind&16 == 0}
		for field := range strings.SplitSeq(headers, "\x1e") {
			if name, value, ok := strings.Cut(field, "\x1f"); ok {
				a.Headers = append(a.Headers, [2]string{wide(name), wide(value)})
			}
		}
		for block := range strings.SplitSeq(strings.TrimSuffix(blocks, "\x1e"), "\x1e") {
			a.Blocks = append(a.Blocks, wide(block))
		}
		if _, err := p.check(a); err != nil {
			t.Fatalf("%v\nof %+v", err, a)
		}
	})
}

// launchQuiet starts the app with one thread; its tracebacks are nobody's.
func launchQuiet(t testing.TB) *process {
	t.Helper()
	return launchReady(t, anyPython(t), "as_asked", 1, func(c *Config) {
		c.Output = func(int, []byte) {}
	})
}

func hows() []string { return []string{"list", "iterator", "write"} }

// wide makes each byte a character.
func wide(bytes string) string {
	runes := make([]rune, len(bytes))
	for i := range len(bytes) {
		runes[i] = rune(bytes[i])
	}
	return string(runes)
}

// narrow is the reverse; false when a character is no latin-1.
func narrow(text string) (string, bool) {
	var out []byte
	for _, r := range text {
		if r > 0xff {
			return "", false
		}
		out = append(out, byte(r))
	}
	return string(out), true
}

// --- what a client must see ---

// intent is what has to come out for what was asked.
type intent struct {
	refused  bool // a bare 500
	lines    []string
	body     string // bytes
	bodiless bool
	mayCut   bool // the response need not be whole
	mustCut  bool
	length   int64 // of Content-Length; -1 without
}

// textOK: RFC 9110 §5.5, no control characters but HTAB; latin-1 only.
func textOK(text string) (bytes string, ok bool) {
	bytes, ok = narrow(text)
	for i := range len(bytes) {
		ok = ok && (bytes[i] >= 0x20 || bytes[i] == '\t') && bytes[i] != 0x7f
	}
	return bytes, ok
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isToken: RFC 9110 §5.6.2.
func isToken(s string) bool {
	for _, r := range s {
		letter := r|0x20 >= 'a' && r|0x20 <= 'z' && r < 0x80
		if !letter && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r) {
			return false
		}
	}
	return s != ""
}

func (a asked) intent() intent {
	want := intent{length: -1}
	status, ok := textOK(a.Status)
	if !ok || len(status) < 3 || !isDigits(status[:3]) || status < "200" ||
		len(status) > 3 && status[3] != ' ' {
		return intent{refused: true}
	}
	if len(status) == 3 {
		status += " "
	}
	want.lines = []string{"HTTP/1.1 " + status}
	code := status[:3]
	if !want.addHeaders(a.Headers, code) {
		return intent{refused: true}
	}
	want.bodiless = a.head || code == "204" || code == "304"
	a.intendBody(&want)
	return want
}

// addHeaders appends the lines that stay; false when start_response must refuse one.
func (want *intent) addHeaders(headers [][2]string, code string) bool {
	for _, h := range headers {
		value, ok := textOK(h[1])
		if !ok || !isToken(h[0]) {
			return false
		}
		switch strings.ToLower(h[0]) {
		case "content-length":
			// RFC 9110 §8.6: digits only, once; none in a 204.
			if want.length >= 0 || !isDigits(value) || len(value) > 18 {
				return false
			}
			want.length, _ = strconv.ParseInt(value, 10, 64)
			if code == "204" {
				continue
			}
		case "te", "trailer", "trailers", "upgrade", "connection", "keep-alive",
			"proxy-connection", "transfer-encoding", "proxy-authenticate", "proxy-authorization":
			continue
		}
		want.lines = append(want.lines, h[0]+": "+value)
	}
	return true
}

func (a asked) intendBody(want *intent) {
	sent, raises := a.Blocks, a.Raises <= len(a.Blocks)
	if raises {
		sent = a.Blocks[:a.Raises]
	}
	want.body, _ = narrow(strings.Join(sent, ""))
	if raises && (a.How == "list" || want.body == "") {
		*want = intent{refused: true}
		return
	}
	want.mayCut = raises
	want.mustCut = raises
	if want.length >= 0 {
		got := int64(len(want.body))
		want.body = want.body[:min(got, want.length)]
		want.mustCut = !want.bodiless && got < want.length
		// What is too much ends an iteration, and raises in write().
		want.mayCut = raises || want.mustCut || got > want.length && a.How == "write"
	}
	if want.bodiless {
		want.body, want.mustCut = "", false
	}
}

// --- and what it sees ---

// check asks for an answer and judges it: "whole", "cut" or "500".
func (p *process) check(a asked) (string, error) {
	body, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	q := path("/")
	q.IsHead, q.HTTP10, q.KeepAlive, q.HasBody, q.Body = a.head, a.http10, a.keep, true, body
	if a.head {
		q.Method = []byte("HEAD")
	}
	wire, last := p.collect(p.submit(q))
	want := a.intent()
	if want.refused {
		want = intent{lines: []string{"HTTP/1.1 500 Internal Server Error",
			"Content-Type: text/plain; charset=utf-8", "Cache-Control: no-store"},
			body: "Internal Server Error\n", bodiless: a.head, length: -1}
		if a.head {
			want.body = ""
		}
	}
	what, err := want.judge(wire, last, a)
	if err != nil {
		return "", fmt.Errorf("%w\nin %.2000q, flags %d", err, wire, last.Flags)
	}
	if len(want.lines) > 2 && want.lines[2] == "Cache-Control: no-store" && what == "whole" {
		what = "500"
	}
	return what, nil
}

func (want *intent) judge(wire string, last Reply, a asked) (string, error) {
	head, _, ok := strings.Cut(wire, "\r\n\r\n")
	if !ok {
		return "", errors.New("no end of the head")
	}
	if err := want.judgeHead(strings.Split(head, "\r\n"), a); err != nil {
		return "", err
	}
	method := "GET"
	if a.head {
		method = "HEAD"
	}
	r := bufio.NewReader(strings.NewReader(wire))
	response, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		return "", err
	}
	body, bodyErr := io.ReadAll(response.Body)
	if string(body) != want.body {
		return "", fmt.Errorf("body: got %.300q (%v), want %.300q", body, bodyErr, want.body)
	}
	if bodyErr == nil && r.Buffered() > 0 {
		return "", errors.New("bytes after the response")
	}
	cut := bodyErr != nil || last.Flags&ReplyAbort != 0
	switch {
	case cut && !want.mayCut, !cut && want.mustCut:
		return "", fmt.Errorf("cut: got %v (%v), want %v", cut, bodyErr, want.mustCut)
	case cut && last.Flags&ReplyClose == 0:
		return "", errors.New("cut, but the connection stays")
	case cut:
		return "cut", nil
	}
	return "whole", nil
}

// judgeHead: first the app's lines as they were, then the server's own, each at most once.
func (want *intent) judgeHead(lines []string, a asked) error {
	if len(lines) < len(want.lines) {
		return fmt.Errorf("head: got %d lines, want at least %d", len(lines), len(want.lines))
	}
	framed := want.length >= 0
	for i, line := range want.lines {
		if lines[i] != line {
			return fmt.Errorf("line %d: got %q, want %q", i, lines[i], line)
		}
	}
	ours := map[string]bool{}
	for _, line := range want.lines[1:] { // RFC 9110 §6.6.1: the app's own Date is not doubled
		name, _, _ := strings.Cut(line, ":")
		ours["Date"] = ours["Date"] || strings.EqualFold(name, "Date")
		ours["Server"] = ours["Server"] || strings.EqualFold(name, "Server")
	}
	for _, line := range lines[len(want.lines):] {
		name, value, _ := strings.Cut(line, ": ")
		if strings.ContainsAny(line, "\r\n") || ours[name] {
			return fmt.Errorf("line %q: want it once and whole", line)
		}
		ours[name] = true
		switch {
		case name == "Date", line == "Server: gophersnake", line == "Connection: close",
			line == "Connection: keep-alive" && a.http10:
		case name == "Content-Length" && isDigits(value) && !framed,
			line == "Transfer-Encoding: chunked" && !framed && !a.http10 && !want.bodiless:
			framed = true
		default:
			return fmt.Errorf("line %q: want none of that", line)
		}
	}
	if !a.keep && !ours["Connection"] {
		return errors.New("want Connection: close, as the request asked for")
	}
	return nil
}

// --- what is asked ---

func oneOf[T any](dice *rand.Rand, all ...T) T { return all[dice.IntN(len(all))] }

func randomAsked(dice *rand.Rand) asked {
	a := asked{Headers: [][2]string{}, Blocks: []string{}, How: oneOf(dice, hows()...),
		Raises: 1000, head: dice.IntN(8) == 0, http10: dice.IntN(5) == 0,
		keep: dice.IntN(4) > 0}
	total := 0
	for range dice.IntN(6) {
		block := randomBlock(dice)
		total += len([]rune(block))
		a.Blocks = append(a.Blocks, block)
	}
	a.Status = oneOf(dice, "200 OK", "200 OK", "404 Not Found", "204 No Content",
		"304 Not Modified", "200", "299 ", "999 \u00e9\t")
	if dice.IntN(12) == 0 {
		a.Status = oneOf(dice, "", "20", "100 Continue", "abc OK", "2000", "200OK", "-20 x",
			"200 O\r\nK", "200 \x00", "200 \u20ac", "\u0662\u0660\u0660 OK", "200\tOK") +
			oneOf(dice, "", randomText(dice))
	}
	for range dice.IntN(5) {
		name := oneOf(dice, "Content-Type", "X-A", "set-cookie", "Connection", "TE", "Date",
			"Server", "transfer-encoding", "x-"+strings.Repeat("n", dice.IntN(300)))
		value := oneOf(dice, "", "a", "close", "b, c", " padded ", "\u00e9\t\u00ff", "chunked")
		if dice.IntN(25) == 0 {
			name = oneOf(dice, name, "", "a b", "a:", "a\r\nb", "\u00e9", "a\x00") + randomText(dice)
		}
		if dice.IntN(25) == 0 {
			value += oneOf(dice, "\r", "\n", "\r\n\r\nHTTP/1.1 200 OK", "\x00", "\u20ac", "\x7f",
				randomText(dice))
		}
		a.Headers = append(a.Headers, [2]string{name, value})
	}
	if dice.IntN(3) == 0 {
		length := strconv.Itoa(oneOf(dice, total, total, total+1, max(total-1, 0), 0,
			dice.IntN(100)))
		if dice.IntN(10) == 0 {
			length = oneOf(dice, "", "-1", "+5", "0x5", "5, 5", "9999999999999999999", "\u0665")
		}
		a.Headers = append(a.Headers, [2]string{oneOf(dice, "Content-Length", "content-LENGTH"),
			length})
	}
	if dice.IntN(6) == 0 {
		a.Raises = dice.IntN(len(a.Blocks) + 1)
	}
	return a
}

func randomText(dice *rand.Rand) string {
	text := make([]rune, dice.IntN(8))
	for i := range text {
		text[i] = rune(dice.IntN(0x120))
	}
	return string(text)
}

func randomBlock(dice *rand.Rand) string {
	switch dice.IntN(6) {
	case 0:
		return ""
	case 1:
		return "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	case 2:
		return "0\r\n\r\n"
	case 3:
		return strings.Repeat(string(rune(dice.IntN(256))), dice.IntN(3000))
	}
	text := make([]rune, dice.IntN(40))
	for i := range text {
		text[i] = rune(dice.IntN(256))
	}
	return string(text)
}
