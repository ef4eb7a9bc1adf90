// Package logs writes what happens to a person's terminal or a service's journal: one line an
// event, with time, level, message and key=value pairs, and the workers' own output between.
package logs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/valyala/bytebufferpool"
)

// Limits of one line.
const (
	LineBytesMax   = 32 << 10 // of a worker's output; the rest is cut off and counted
	bufferBytesMax = 64 << 10 // a buffer that grew beyond it does not go back to the pool
)

const timeFormat = "2006-01-02 15:04:05.000"

// Console is a slog.Handler; each record is one Write. Handlers made from one another share
// the writer and its lock.
type Console struct {
	out    *output
	level  slog.Leveler
	fields []byte // ready made " key=value" pairs of WithAttrs; never written to again
	prefix string // of the open groups: "a.b."
}

type output struct {
	mu sync.Mutex // held during a Write
	w  io.Writer
	// now is the clock; tests set another one.
	now func() time.Time
}

// New returns a handler that writes records of at least level to w.
func New(w io.Writer, level slog.Leveler) *Console {
	return &Console{out: &output{w: w, now: time.Now}, level: level}
}

// ParseLevel reads the value of --log-level.
func ParseLevel(text string) (slog.Level, error) {
	switch text {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warning", "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("give debug, info, warning or error")
}

// Enabled implements slog.Handler.
func (c *Console) Enabled(_ context.Context, level slog.Level) bool {
	return level >= c.level.Level()
}

// Handle implements slog.Handler.
func (c *Console) Handle(_ context.Context, r slog.Record) error {
	b := bytebufferpool.Get()
	defer giveBack(b)
	b.B = c.out.appendTime(b.B, r.Time)
	b.B = append(b.B, levelName(r.Level)...)
	b.B = appendEscaped(b.B, r.Message)
	b.B = append(b.B, c.fields...)
	r.Attrs(func(a slog.Attr) bool {
		if _, below := a.Value.Any().(Block); !below {
			b.B = appendAttr(b.B, c.prefix, a)
		}
		return true
	})
	b.B = append(b.B, '\n')
	r.Attrs(func(a slog.Attr) bool {
		if block, below := a.Value.Any().(Block); below {
			b.B = block.append(b.B)
		}
		return true
	})
	return c.out.write(b.B)
}

// Block is a value of several lines, such as a traceback. It stands below its record's line, each
// of its lines indented: a person can read it, and none of them can be taken for a record.
type Block string

const blockIndent = "    "

func (t Block) append(b []byte) []byte {
	for line := range strings.Lines(string(t)) {
		b = append(b, blockIndent...)
		b = appendEscaped(b, strings.TrimSuffix(line, "\n"))
		b = append(b, '\n')
	}
	return b
}

// WithAttrs implements slog.Handler.
func (c *Console) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *c
	with.fields = append([]byte(nil), c.fields...)
	for _, a := range attrs {
		with.fields = appendAttr(with.fields, c.prefix, a)
	}
	return &with
}

// WithGroup implements slog.Handler.
func (c *Console) WithGroup(name string) slog.Handler {
	if name == "" {
		return c
	}
	with := *c
	with.prefix = c.prefix + name + "."
	return &with
}

// WorkerLine writes one line of a worker's own output. It is the app's log, not ours, so no
// level holds it back. Terminal control sequences are made visible: apps log what clients send.
// A write error has nowhere to go and is dropped.
func (c *Console) WorkerLine(id int, line []byte) { c.line("worker ", id, line) }

// TemplateLine writes one line of the output of a template: the process that imports the app for
// all workers of a generation.
func (c *Console) TemplateLine(generation int, line []byte) {
	c.line("template ", generation, line)
}

func (c *Console) line(who string, number int, line []byte) {
	b := bytebufferpool.Get()
	defer giveBack(b)
	cut := 0
	if len(line) > LineBytesMax {
		line, cut = line[:LineBytesMax], len(line)-LineBytesMax
	}
	b.B = c.out.appendTime(b.B, time.Time{})
	b.B = append(b.B, who...)
	b.B = strconv.AppendInt(b.B, int64(number), 10)
	b.B = append(b.B, " | "...)
	b.B = appendEscaped(b.B, line)
	if cut > 0 {
		b.B = fmt.Appendf(b.B, "… (%d bytes cut off)", cut)
	}
	b.B = append(b.B, '\n')
	_ = c.out.write(b.B)
}

// PlainLine writes a line of a worker without time and number: while one worker starts, what it
// says is for the person who waits, and a traceback reads best as it is.
func (c *Console) PlainLine(line []byte) {
	b := bytebufferpool.Get()
	defer giveBack(b)
	b.B = append(appendEscaped(b.B, line[:min(len(line), LineBytesMax)]), '\n')
	_ = c.out.write(b.B)
}

func (o *output) appendTime(b []byte, at time.Time) []byte {
	if at.IsZero() {
		at = o.now()
	}
	b = at.AppendFormat(b, timeFormat)
	return append(b, ' ')
}

func (o *output) write(line []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.w.Write(line)
	return err
}

func giveBack(b *bytebufferpool.ByteBuffer) {
	if cap(b.B) <= bufferBytesMax {
		bytebufferpool.Put(b)
	}
}

func levelName(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "ERROR "
	case level >= slog.LevelWarn:
		return "WARN  "
	case level >= slog.LevelInfo:
		return "INFO  "
	}
	return "DEBUG "
}

// appendAttr appends " key=value"; a group becomes one pair for each of its members.
func appendAttr(b []byte, prefix string, a slog.Attr) []byte {
	value := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return b
	}
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range value.Group() {
			b = appendAttr(b, prefix, member)
		}
		return b
	}
	b = append(b, ' ')
	b = appendEscaped(b, prefix)
	b = appendEscaped(b, a.Key)
	b = append(b, '=')
	text := value.String()
	if needsQuotes(text) {
		return strconv.AppendQuote(b, text)
	}
	return append(b, text...)
}

func needsQuotes(text string) bool {
	for _, r := range text {
		if r <= ' ' || r == '=' || r == '"' || !printable(r) {
			return true
		}
	}
	return text == ""
}

// Escape makes text safe for a terminal: what controls one becomes visible, and new lines
// stay, since tracebacks have them.
func Escape(text string) string {
	b := make([]byte, 0, len(text))
	start := 0
	for i := range len(text) {
		if text[i] == '\n' {
			b = append(appendEscaped(b, text[start:i]), '\n')
			start = i + 1
		}
	}
	return string(appendEscaped(b, text[start:]))
}

// appendEscaped appends text with control characters, invalid UTF-8 and invisible runes (which
// can reorder or hide what a person reads) written as Go escapes; tabs stay.
func appendEscaped[T string | []byte](b []byte, text T) []byte {
	for i := 0; i < len(text); {
		if c := text[i]; c < utf8.RuneSelf {
			if c == '\t' || c >= ' ' && c != 0x7f {
				b = append(b, c)
			} else {
				b = appendHex(b, c)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(string(text[i:min(i+utf8.UTFMax, len(text))]))
		switch {
		case r == utf8.RuneError && size == 1:
			b = appendHex(b, text[i])
		case printable(r):
			b = utf8.AppendRune(b, r)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
		i += size
	}
	return b
}

func appendHex(b []byte, c byte) []byte {
	switch c {
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	}
	return fmt.Appendf(b, `\x%02x`, c)
}

// printable also takes the spaces that strconv and unicode leave out, such as U+00A0.
func printable(r rune) bool {
	return unicode.IsPrint(r) || unicode.Is(unicode.Zs, r)
}
