package logs

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"
	"time"
)

// fixed returns a console on a buffer whose clock stands still.
func fixed(level slog.Level) (*Console, *bytes.Buffer) {
	out := &bytes.Buffer{}
	c := New(out, level)
	c.out.now = func() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 8e6, time.UTC) }
	return c, out
}

// rest cuts the time off the only line in out.
func rest(t *testing.T, out *bytes.Buffer) string {
	t.Helper()
	line := out.String()
	if strings.Count(line, "\n") != 1 || len(line) <= len(timeFormat) {
		t.Fatalf("got %q, want one line", line)
	}
	return strings.TrimSuffix(line[len(timeFormat)+1:], "\n")
}

// A block of lines stands below its record, and none of its lines can be taken for one.
func TestBlocks(t *testing.T) {
	console, out := fixed(slog.LevelInfo)
	slog.New(console).Error("failed", "traceback", Block("a\n  b\x1b\n\nc"), "worker", 1)
	_, got, _ := strings.Cut(out.String(), "ERROR ")
	if want := "failed worker=1\n    a\n      b\\x1b\n    \n    c\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecords(t *testing.T) {
	for _, c := range []struct {
		name string
		log  func(*slog.Logger)
		want string
	}{
		{"plain", func(l *slog.Logger) { l.Info("ready") }, "INFO  ready"},
		{"levels", func(l *slog.Logger) { l.Warn("slow", "ms", 7) }, "WARN  slow ms=7"},
		{"error", func(l *slog.Logger) { l.Error("no", "error", errors.New("a b")) },
			`ERROR no error="a b"`},
		{"empty value", func(l *slog.Logger) { l.Info("m", "k", "") }, `INFO  m k=""`},
		{"group", func(l *slog.Logger) { l.WithGroup("g").With("a", 1).Info("m", "b", 2) },
			"INFO  m g.a=1 g.b=2"},
		{"inner group", func(l *slog.Logger) { l.Info("m", slog.Group("g", "a", 1)) },
			"INFO  m g.a=1"},
		{"escape sequence in a message", func(l *slog.Logger) { l.Info("a\x1b[31mb\r\nc") },
			`INFO  a\x1b[31mb\r\nc`},
		{"escape sequence in a value", func(l *slog.Logger) { l.Info("m", "k", "a\x1b]0;x\a") },
			`INFO  m k="a\x1b]0;x\a"`},
		{"forged pair", func(l *slog.Logger) { l.Info("m", "path", "/ level=ERROR") },
			`INFO  m path="/ level=ERROR"`},
		{"text in other scripts", func(l *slog.Logger) { l.Info("дом 家", "k", "é") },
			"INFO  дом 家 k=é"},
		{"right-to-left override", func(l *slog.Logger) { l.Info("a\u202eb\u009bc") },
			`INFO  a\u202eb\u009bc`},
		{"not UTF-8", func(l *slog.Logger) { l.Info("a\xff\xc3") }, `INFO  a\xff\xc3`},
	} {
		t.Run(c.name, func(t *testing.T) {
			console, out := fixed(slog.LevelInfo)
			c.log(slog.New(console))
			if got := rest(t, out); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLevelHoldsRecordsBack(t *testing.T) {
	console, out := fixed(slog.LevelError)
	slog.New(console).Warn("unseen")
	if out.Len() != 0 {
		t.Errorf("got %q, want nothing", out)
	}
}

func TestWorkerLines(t *testing.T) {
	long := strings.Repeat("x", LineBytesMax+5)
	for _, c := range []struct{ line, want string }{
		{"hello", "worker 3 | hello"},
		{"", "worker 3 | "},
		{"a\tb \x1b[2Jc", `worker 3 | a` + "\t" + `b \x1b[2Jc`},
		{long, "worker 3 | " + long[:LineBytesMax] + "… (5 bytes cut off)"},
	} {
		console, out := fixed(slog.LevelError)
		console.WorkerLine(3, []byte(c.line))
		if got := rest(t, out); got != c.want {
			t.Errorf("line %.40q: got %.80q, want %.80q", c.line, got, c.want)
		}
	}
}

func TestTemplateLine(t *testing.T) {
	console, out := fixed(slog.LevelError)
	console.TemplateLine(2, []byte("imported"))
	if got, want := rest(t, out), "template 2 | imported"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTimeStampIsFirst(t *testing.T) {
	console, out := fixed(slog.LevelInfo)
	console.WorkerLine(1, []byte("x"))
	if want := "2026-03-04 05:06:07.008 worker 1 | x\n"; out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestEscapeKeepsLines(t *testing.T) {
	const text = "Traceback\n  File \"a.py\"\x1b[0m\n"
	if got, want := Escape(text), "Traceback\n  File \"a.py\"\\x1b[0m\n"; got != want {
		t.Errorf("Escape(%q) = %q, want %q", text, got, want)
	}
}

func TestLevels(t *testing.T) {
	for text, want := range map[string]slog.Level{"debug": slog.LevelDebug,
		"info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn,
		"error": slog.LevelError} {
		if got, err := ParseLevel(text); err != nil || got != want {
			t.Errorf("ParseLevel(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("ParseLevel took loud")
	}
}

// TestHandlerContract is the standard library's own check; it reads our lines back.
func TestHandlerContract(t *testing.T) {
	console, out := fixed(slog.LevelInfo)
	err := slogtest.TestHandler(console, func() []map[string]any {
		var all []map[string]any
		for line := range strings.Lines(out.String()) {
			all = append(all, parse(line))
		}
		return all
	})
	if err != nil {
		// Every line begins with a time here, also that of a record without one.
		if !strings.Contains(err.Error(), "a Handler should ignore a zero Record.Time") ||
			len(err.(interface{ Unwrap() []error }).Unwrap()) != 1 {
			t.Error(err)
		}
	}
}

// parse turns "time level message a.b=c" into nested maps.
func parse(line string) map[string]any {
	m := map[string]any{}
	m[slog.TimeKey] = line[:len(timeFormat)]
	words := strings.Fields(line[len(timeFormat):])
	m[slog.LevelKey] = words[0]
	m[slog.MessageKey] = words[1]
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		at := m
		path := strings.Split(key, ".")
		for _, group := range path[:len(path)-1] {
			if at[group] == nil {
				at[group] = map[string]any{}
			}
			at = at[group].(map[string]any)
		}
		at[path[len(path)-1]] = value
	}
	return m
}

func TestLinesOfManyWritersDoNotMix(t *testing.T) {
	console, out := fixed(slog.LevelInfo)
	var all sync.WaitGroup
	for id := range 8 {
		all.Go(func() {
			for range 50 {
				console.WorkerLine(id, []byte("0123456789"))
			}
		})
	}
	all.Wait()
	for line := range strings.Lines(out.String()) {
		if !strings.HasSuffix(line, " | 0123456789\n") {
			t.Fatalf("mixed line %q", line)
		}
	}
}
