package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answer is one response, read by the letter of RFC 9112: this reader is the tests' oracle, so
// it forgives nothing (no bare LF, no space before a colon, no second Content-Length).
type answer struct {
	status int
	line   string
	fields []field // in order
	body   []byte
	whole  bool // the framing says that nothing is missing
	framed bool // by Content-Length, chunks or its status; else by the connection's end
	chunks int  // of a chunked body, without the last
}

type field struct{ name, value string }

// get joins the values of a field; "" when there is none.
func (a answer) get(name string) string { return strings.Join(a.all(name), ", ") }

func (a answer) all(name string) []string {
	var values []string
	for _, f := range a.fields {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

func (a answer) String() string {
	return fmt.Sprintf("%s %v body %.300q whole=%v", a.line, a.fields, a.body, a.whole)
}

var (
	statusLine = regexp.MustCompile(`^HTTP/1\.1 ([1-5][0-9][0-9]) [^\x00-\x08\x0a-\x1f\x7f]*$`)
	fieldLine  = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$")
	chunkLine  = regexp.MustCompile(`^([0-9A-Fa-f]{1,8})$`)
)

// readAnswer reads one response. io.EOF: the server closed before its first byte.
func readAnswer(r *bufio.Reader, toHead bool) (answer, error) {
	var a answer
	line, err := readLine(r)
	if err != nil {
		return a, err
	}
	a.line = line
	match := statusLine.FindStringSubmatch(line)
	if match == nil {
		return a, fmt.Errorf("status line %q", line)
	}
	a.status, _ = strconv.Atoi(match[1])
	for {
		if line, err = readLine(r); err != nil {
			return a, fmt.Errorf("head: %w", noEOF(err))
		}
		if line == "" {
			break
		}
		match := fieldLine.FindStringSubmatch(line)
		if match == nil || strings.ContainsAny(match[2], "\x00\r\n") {
			return a, fmt.Errorf("header line %q", line)
		}
		a.fields = append(a.fields, field{match[1], match[2]})
	}
	return a, a.readBody(r, toHead)
}

func (a *answer) readBody(r *bufio.Reader, toHead bool) error {
	lengths, codings := a.all("Content-Length"), a.all("Transfer-Encoding")
	switch {
	case len(lengths) > 1 || len(lengths)+len(codings) > 1:
		return fmt.Errorf("framed twice: %v", a.fields)
	// RFC 9112 §6.3: no body, whatever the headers say.
	case toHead || a.status < 200 || a.status == 204 || a.status == 304:
		a.whole, a.framed = true, true
		return nil
	case len(codings) == 1:
		a.framed = true
		return a.readChunks(r)
	case len(lengths) == 1:
		a.framed = true
		size, err := strconv.ParseUint(lengths[0], 10, 40)
		if err != nil {
			return err
		}
		a.body, err = io.ReadAll(io.LimitReader(r, int64(size)))
		a.whole = err == nil && uint64(len(a.body)) == size
		return nil
	}
	var err error
	a.body, err = io.ReadAll(r)
	a.whole = err == nil
	return nil
}

// readChunks leaves whole false where the connection ended early.
func (a *answer) readChunks(r *bufio.Reader) error {
	if a.get("Transfer-Encoding") != "chunked" {
		return fmt.Errorf("transfer coding %q", a.get("Transfer-Encoding"))
	}
	for {
		line, err := readLine(r)
		if err != nil {
			return nil
		}
		if !chunkLine.MatchString(line) {
			return fmt.Errorf("chunk size line %q", line)
		}
		size, _ := strconv.ParseInt(line, 16, 64)
		var data bytes.Buffer
		if _, err = io.CopyN(&data, r, size); err != nil {
			a.body = append(a.body, data.Bytes()...)
			return nil
		}
		a.body = append(a.body, data.Bytes()...)
		if line, err = readLine(r); err != nil {
			return nil
		}
		if line != "" {
			return fmt.Errorf("after a chunk of %d: %q", size, line)
		}
		if size == 0 {
			a.whole = true
			return nil
		}
		a.chunks++
	}
}

// readLine returns a line without its CRLF; io.EOF only where nothing came at all.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil && line != "" {
		return line, noEOF(err)
	}
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(line, "\r\n") {
		return line, fmt.Errorf("a line that ends with LF only: %q", line)
	}
	return line[:len(line)-2], nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// wire is one client connection; every exchange is under answerMax.
type wire struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// dial connects to a URL as the log says it: http://HOST:PORT or unix:PATH.
func dial(t *testing.T, url string) *wire {
	t.Helper()
	network, address := "tcp", strings.TrimPrefix(url, "http://")
	if path, ok := strings.CutPrefix(url, "unix:"); ok {
		network, address = "unix", path
	}
	conn, err := net.DialTimeout(network, address, answerMax)
	if err != nil {
		t.Fatalf("dial %s: %v", url, err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(answerMax))
	return &wire{t, conn, bufio.NewReader(conn)}
}

// dialFar connects as over a network. A segment of the loopback device has 64 KiB, and the kernel
// lets a socket keep twenty of the size at hand: 2.6 MiB for each client that reads slowly, where
// a client far away costs 90 KiB. A thousand such clients would measure net.ipv4.tcp_mem.
func dialFar(address string) (net.Conn, error) {
	const segment = 1460 // bytes: Ethernet's
	d := net.Dialer{Timeout: answerMax, Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, segment)
		})
		return errors.Join(err, set)
	}}
	return d.Dial("tcp", address)
}

func (w *wire) send(text string) *wire {
	w.t.Helper()
	// The server may close while we send: what it answered tells, not this error.
	_, _ = io.WriteString(w.Conn, text)
	return w
}

// finish is the client's half-close.
func (w *wire) finish() {
	_ = w.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// next reads one response; toHead: it answers a HEAD.
func (w *wire) next(toHead bool) answer {
	w.t.Helper()
	a, err := readAnswer(w.r, toHead)
	if err != nil {
		w.t.Fatalf("answer: got %v, want a response; so far %s", err, a)
	}
	return a
}

func (w *wire) want(status int) answer {
	w.t.Helper()
	a := w.next(false)
	if a.status != status {
		w.t.Fatalf("status: got %s, want %d", a, status)
	}
	return a
}

// wantClosed requires the connection's end and no byte before it. It closes too: until then the
// server lingers (RFC 9112 section 9.6), and who waits for the server's end waits for that.
func (w *wire) wantClosed() {
	w.t.Helper()
	rest, err := io.ReadAll(w.r)
	_ = w.Close()
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		w.t.Fatalf("connection: got open after %v, want closed", answerMax)
	}
	if len(rest) > 0 {
		w.t.Fatalf("bytes before the end: got %.300q, want none", rest)
	}
}

// wantOpen requires that another request on the connection is answered, and nothing before it.
func (w *wire) wantOpen(path string) {
	w.t.Helper()
	w.send("GET " + path + " HTTP/1.1\r\nHost: a\r\nX-Probe: open\r\n\r\n")
	if a := w.want(200); !bytes.Contains(a.body, []byte(`"HTTP_X_PROBE": "open"`)) {
		w.t.Fatalf("probe: got %s, want its own answer", a)
	}
}

// get is a GET request of HTTP/1.1 with more header lines.
func get(path string, lines ...string) string { return request("GET", path, "", lines...) }

func request(method, path, body string, lines ...string) string {
	head := method + " " + path + " HTTP/1.1\r\nHost: a\r\n"
	if body != "" {
		lines = append(lines, "Content-Length: "+strconv.Itoa(len(body)))
	}
	for _, line := range lines {
		head += line + "\r\n"
	}
	return head + "\r\n" + body
}
