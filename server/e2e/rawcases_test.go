package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Limits of one raw case.
const (
	rawAnswerMax    = 10 * time.Second // for all its answers
	trickleBytesMax = 600              // longer inputs are not sent byte by byte
	rawFields       = 5
)

// rawCase is one line of testdata/rawcases.txt; the format is described there.
type rawCase struct {
	id, want, check, why string
	steps                []step
}

// step is one thing to do: send text, or wait for an answer, or finish.
type step struct {
	send   string
	await  string // "100": an interim answer, "answer": a final one
	finish bool
}

// outcome is what a case got: its answers, and whether the connection ended.
type outcome struct {
	answers []answer
	closed  bool
}

func TestRawCases(t *testing.T) {
	cases := readRawCases(t)
	fixtures := startFixtures(t, anyPython())
	plain := startEcho(t)
	for _, mode := range []string{"whole", "trickled"} {
		t.Run(mode, func(t *testing.T) {
			for _, c := range cases {
				s := plain
				if strings.HasPrefix(c.id, "RS-") {
					s = fixtures
				}
				steps := c.steps
				if mode == "trickled" {
					if steps = trickled(c.steps); steps == nil {
						continue
					}
				}
				t.Run(c.id, func(t *testing.T) { c.run(t, s, steps) })
			}
		})
	}
}

func readRawCases(t *testing.T) []rawCase {
	t.Helper()
	data, err := os.ReadFile("testdata/rawcases.txt")
	if err != nil {
		t.Fatal(err)
	}
	var cases []rawCase
	seen := map[string]bool{}
	for number, line := range strings.Split(string(data), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, "|")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		if len(parts) != rawFields || seen[parts[0]] {
			t.Fatalf("line %d: got %d parts of %q, want %d and an id of its own", number+1,
				len(parts), line, rawFields)
		}
		seen[parts[0]] = true
		cases = append(cases, rawCase{id: parts[0], want: parts[1], check: expandAll(t, parts[2]),
			steps: readSteps(t, parts[3]), why: parts[4]})
	}
	return cases
}

var (
	macro  = regexp.MustCompile(`\{([^{}]+)\}`)
	escape = regexp.MustCompile(`\\(x[0-9a-f]{2}|.)`)
)

// readSteps turns the INPUT column into what to do.
func readSteps(t *testing.T, input string) []step {
	t.Helper()
	var steps []step
	text := ""
	flush := func(more ...step) {
		if text != "" {
			steps = append(steps, step{send: text})
		}
		text = ""
		steps = append(steps, more...)
	}
	at := 0
	for _, m := range macro.FindAllStringSubmatchIndex(input, -1) {
		text += unescape(input[at:m[0]])
		at = m[1]
		switch name := input[m[2]:m[3]]; name {
		case "cut":
			flush()
		case "fin":
			flush(step{finish: true})
		case "100", "answer":
			flush(step{await: name})
		default:
			text += expand(t, name)
		}
	}
	text += unescape(input[at:])
	flush()
	return steps
}

// expandAll is for texts that are no input: macros and escapes, no steps.
func expandAll(t *testing.T, text string) string {
	return macro.ReplaceAllStringFunc(unescape(text), func(m string) string {
		return expand(t, m[1:len(m)-1])
	})
}

// expand returns the text of a macro.
func expand(t *testing.T, name string) string {
	t.Helper()
	switch name {
	case "G":
		return "GET / HTTP/1.1\r\nHost: a\r\n"
	case "P":
		return "POST / HTTP/1.1\r\nHost: a\r\n"
	case "T":
		return "Transfer-Encoding: chunked\r\n"
	case "N":
		return get("/next")
	case "M":
		return get("/echo/next")
	}
	if path, ok := strings.CutPrefix(name, "get "); ok {
		return get(path)
	}
	if path, ok := strings.CutPrefix(name, "head "); ok {
		return request("HEAD", path, "")
	}
	what, times, ok := strings.Cut(name, "*")
	count, err := strconv.Atoi(times)
	if !ok || err != nil {
		t.Fatalf("macro {%s}: want one that the table's head describes", name)
	}
	switch what {
	case "headers":
		var b strings.Builder
		for i := range count {
			fmt.Fprintf(&b, "H%d: v\r\n", i)
		}
		return b.String()
	case "chunks":
		return strings.Repeat("1\r\nA\r\n", count)
	case "bloated":
		return strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nA\r\n", count)
	}
	return strings.Repeat(unescape(what), count)
}

func unescape(text string) string {
	return escape.ReplaceAllStringFunc(text, func(e string) string {
		switch e[1] {
		case 'r':
			return "\r"
		case 'n':
			return "\n"
		case 't':
			return "\t"
		case 'x':
			if number, err := strconv.ParseUint(e[2:], 16, 8); err == nil {
				return string([]byte{byte(number)})
			}
		}
		return e[1:]
	})
}

// trickled cuts every text into single bytes; nil where that would take too long.
func trickled(steps []step) []step {
	var all []step
	for _, s := range steps {
		if len(all)+len(s.send) > trickleBytesMax {
			return nil
		}
		if s.send == "" {
			all = append(all, s)
		}
		for i := range len(s.send) {
			all = append(all, step{send: s.send[i : i+1]})
		}
	}
	return all
}

func (c rawCase) run(t *testing.T, s *server, steps []step) {
	w := dial(t, s.url())
	_ = w.SetDeadline(time.Now().Add(rawAnswerMax))
	var got outcome
	for _, step := range steps {
		switch {
		case step.finish:
			w.finish()
		case step.await != "":
			c.readOne(t, w, &got)
		default:
			w.send(step.send)
		}
	}
	c.readAll(t, w, &got)
	if !c.accepts(got) {
		t.Fatalf("%s (%s)\ninput %.300q\n  got %s\n want %s", c.id, c.why, fmt.Sprint(c.steps),
			got, c.want)
	}
	for check := range strings.SplitSeq(c.check, " && ") {
		if check != "" && !holds(check, got) {
			t.Errorf("%s (%s)\ninput %.300q\n  got %s\n want %s", c.id, c.why,
				fmt.Sprint(c.steps), got, check)
		}
	}
}

func (o outcome) String() string {
	conn := "keep"
	if o.closed {
		conn = "close"
	}
	return fmt.Sprintf("%v %s %v", o.statuses(), conn, o.answers)
}

func (o outcome) statuses() []int {
	var statuses []int
	for _, a := range o.answers {
		statuses = append(statuses, a.status)
	}
	return statuses
}

// readOne reads the next answer; false at the connection's end.
func (c rawCase) readOne(t *testing.T, w *wire, got *outcome) bool {
	t.Helper()
	a, err := readAnswer(w.r, c.answersHead(got.answers))
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		got.closed = true
		return false
	}
	if err != nil {
		t.Fatalf("%s (%s)\ninput %.300q\n  got %s, then %v\n want %s", c.id, c.why,
			fmt.Sprint(c.steps), got, err, c.want)
	}
	got.answers = append(got.answers, a)
	if !a.whole || !a.framed {
		got.closed = true
		return false
	}
	return true
}

// answersHead tells whether the next answer is that to the case's HEAD, which is always first.
func (c rawCase) answersHead(before []answer) bool {
	return len(before) == 0 && len(c.steps) > 0 && strings.HasPrefix(c.steps[0].send, "HEAD ")
}

// readAll reads until the connection ends. Where the answers so far may be all, and the last
// does not announce the end, another request asks whether the connection is alive.
func (c rawCase) readAll(t *testing.T, w *wire, got *outcome) {
	t.Helper()
	for !got.closed {
		last := len(got.answers) - 1
		announced := last >= 0 && strings.EqualFold(got.answers[last].get("Connection"), "close")
		if !announced && c.accepts(*got) {
			w.send(get("/echo/probe", "X-Probe: alive"))
			if !c.readOne(t, w, got) {
				return
			}
			if probe := got.answers[last+1]; bytes.Contains(probe.body, []byte(`"alive"`)) {
				got.answers = got.answers[:last+1]
			}
			return
		}
		if !c.readOne(t, w, got) {
			return
		}
	}
}

// accepts tells whether one of the alternatives is what was got.
func (c rawCase) accepts(got outcome) bool {
	for alternative := range strings.SplitSeq(c.want, " or ") {
		words := strings.Fields(alternative)
		statuses, conn := words[:len(words)-1], words[len(words)-1]
		if slices.Equal(statuses, []string{"none"}) {
			statuses = nil
		}
		if (conn == "close") == got.closed && slices.EqualFunc(statuses, got.statuses(), isStatus) {
			return true
		}
	}
	return false
}

// isStatus matches 200, 400/413 or 2xx.
func isStatus(want string, got int) bool {
	if class, ok := strings.CutSuffix(want, "xx"); ok {
		return strconv.Itoa(got/100) == class
	}
	return slices.Contains(strings.Split(want, "/"), strconv.Itoa(got))
}

var (
	httpDate = regexp.MustCompile(`^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|` +
		`Jul|Aug|Sep|Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT$`)
	onAnswer = regexp.MustCompile(`^(header:|text=|cut$|chunked$|date$|bare$)`)
)

// holds makes one check of the CHECK column.
func holds(check string, got outcome) bool {
	if onAnswer.MatchString(check) {
		return len(got.answers) > 0 && holdsOnAnswer(check, got.answers[0])
	}
	var echoes []echoed
	for _, a := range got.answers {
		var e echoed
		if a.status == 200 && json.Unmarshal(a.body, &e) == nil {
			echoes = append(echoes, e)
		}
	}
	if len(echoes) == 0 {
		return true // refused: an alternative that WANT allows
	}
	e := echoes[len(echoes)-1]
	if rest, ok := strings.CutPrefix(check, "1."); ok {
		check, e = rest, echoes[0]
	}
	if absent, ok := strings.CutPrefix(check, "!"); ok {
		_, present := e.Environ[absent]
		return !present
	}
	if key, want, ok := strings.Cut(check, "~"); ok {
		return strings.ReplaceAll(e.Environ[key], " ", "") == want
	}
	key, want, _ := strings.Cut(check, "=")
	switch key {
	case "body":
		return latin1(e.Body) == want
	case "readable":
		return e.Readable
	}
	value, present := e.Environ[key]
	return present && latin1(value) == want
}

func holdsOnAnswer(check string, a answer) bool {
	switch {
	case check == "cut":
		return !a.whole
	case check == "chunked":
		return a.get("Transfer-Encoding") == "chunked"
	case check == "date":
		return len(a.all("Date")) == 1 && httpDate.MatchString(a.get("Date"))
	case check == "bare":
		return !regexp.MustCompile(`secret|Traceback|File "`).Match(a.body)
	case strings.HasPrefix(check, "text="):
		if a.status >= 500 && check != "text=oops" {
			return true
		}
		return string(a.body) == strings.TrimPrefix(check, "text=")
	}
	name, want, _ := strings.Cut(strings.TrimPrefix(check, "header:"), "=")
	if absent, ok := strings.CutPrefix(name, "!"); ok {
		return len(a.all(absent)) == 0
	}
	return a.get(name) == want
}
