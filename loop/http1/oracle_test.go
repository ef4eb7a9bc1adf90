package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Other readers of the same bytes. Where they take what we refuse, we are stricter by decision;
// where we take it, they must have understood the same.

// compareHead demands of a head that was accepted that a plain splitter and net/http read the same.
func compareHead(t testing.TB, in []byte, n int, req *Request) {
	t.Helper()
	in = bytes.TrimPrefix(in[:n], []byte("\r\n"))
	compareSplitter(t, in, req)
	if !goRefuses(req) {
		compareNetHTTP(t, in, req)
	}
}

// compareSplitter reads the head by cutting at CRLF and ':'.
func compareSplitter(t testing.TB, in []byte, req *Request) {
	t.Helper()
	lines := strings.Split(string(in), "\r\n")
	words := strings.Split(lines[0], " ")
	if len(words) != 3 || words[0] != string(req.Method) || words[1] != string(req.Target) ||
		words[2] != "HTTP/1."+strconv.Itoa(req.Minor) {
		t.Fatalf("got %q %q 1.%d, splitter %q\ninput %q", req.Method, req.Target, req.Minor, words, in)
	}
	fields := lines[1 : len(lines)-2]
	if lines[len(lines)-2] != "" || lines[len(lines)-1] != "" || slices.Contains(fields, "") {
		t.Fatalf("accepted head does not end at its first empty line: %q", in)
	}
	var got, want []string
	for _, h := range req.Headers {
		got = append(got, string(h.Name)+"\x00"+string(h.Value))
	}
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ":")
		switch strings.ToLower(name) {
		case "host", "proxy", "transfer-encoding":
			continue
		}
		if !strings.Contains(name, "_") {
			want = append(want, name+"\x00"+strings.Trim(value, " \t"))
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got fields %q, splitter %q\ninput %q", got, want, in)
	}
}

// goRefuses lists what net/http does not take, or changes, though it is right.
func goRefuses(req *Request) bool {
	for _, h := range req.Headers {
		switch strings.ToLower(string(h.Name)) {
		// net/http cuts Trailer out and refuses some of its values; it rewrites Pragma.
		case "trailer", "pragma":
			return true
		}
	}
	// net/url knows no escapes in a host but those of a zone.
	return bytes.IndexByte(req.Host, '%') >= 0
}

func compareNetHTTP(t testing.TB, in []byte, req *Request) {
	t.Helper()
	std, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(in), len(in)+16))
	if err != nil {
		t.Fatalf("accepted, but net/http says %v\ninput %q", err, in)
	}
	if std.Method != string(req.Method) || std.RequestURI != string(req.Target) ||
		std.ProtoMinor != req.Minor || std.Close == req.KeepAlive || std.Host != string(req.Host) {
		t.Fatalf("got %s, net/http %s %s 1.%d close=%v host=%q\ninput %q", transcript(req),
			std.Method, std.RequestURI, std.ProtoMinor, std.Close, std.Host, in)
	}
	wantLength := max(req.ContentLength, 0)
	if req.Chunked {
		wantLength = -1
	}
	if std.ContentLength != wantLength || req.Chunked != (len(std.TransferEncoding) > 0) {
		t.Fatalf("got length %d chunked %v, net/http %d %q\ninput %q",
			req.ContentLength, req.Chunked, std.ContentLength, std.TransferEncoding, in)
	}
	if !req.Asterisk && (std.URL.Path != string(AppendPath(nil, req.RawPath)) ||
		std.URL.RawQuery != string(req.Query)) && std.URL.Path != "" {
		t.Fatalf("got %q?%q, net/http %q?%q\ninput %q",
			req.RawPath, req.Query, std.URL.Path, std.URL.RawQuery, in)
	}
	got := http.Header{}
	for _, h := range req.Headers {
		key := textproto.CanonicalMIMEHeaderKey(string(h.Name))
		got[key] = append(got[key], string(h.Value))
	}
	for key, values := range std.Header {
		if strings.Contains(key, "_") || key == "Proxy" {
			delete(std.Header, key)
			continue
		}
		if !slices.Equal(got[key], values) {
			t.Fatalf("%s: got %q, net/http %q\ninput %q", key, got[key], values, in)
		}
	}
	if len(got) != len(std.Header) {
		t.Fatalf("got %q, net/http %q\ninput %q", got, std.Header, in)
	}
}

// chunkLine is RFC 9112 §7.1 for a size line: 1*HEXDIG, bounded, and extensions.
var chunkLine = regexp.MustCompile(`^([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*` + rfcToken +
	`(?:[ \t]*=[ \t]*(?:` + rfcToken + `|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?)*$`)

const rfcToken = "[!#$%&'*+\\-.^_`|~0-9A-Za-z]+"

var trailerLine = regexp.MustCompile(`^` + rfcToken + `:[\t -~\x80-\xff]*$`)

// latin1 makes one rune of each byte, so that regexp classes mean bytes.
func latin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}

// readChunked is the grammar read the slow way: n is 0 while the body is not complete.
func readChunked(in []byte) (n int, body []byte, ok bool) {
	rest := in
	for {
		line, after, found := bytes.Cut(rest, []byte("\r\n"))
		if !found {
			return 0, nil, true
		}
		match := chunkLine.FindStringSubmatch(latin1(line))
		if match == nil {
			return 0, nil, false
		}
		size, err := strconv.ParseUint(match[1], 16, 63)
		if err != nil {
			return 0, nil, false
		}
		rest = after
		if size == 0 {
			break
		}
		if uint64(len(rest)) < size+2 {
			return 0, nil, true
		}
		body = append(body, rest[:size]...)
		if string(rest[size:size+2]) != "\r\n" {
			return 0, nil, false
		}
		rest = rest[size+2:]
	}
	for {
		line, after, found := bytes.Cut(rest, []byte("\r\n"))
		if !found {
			return 0, nil, true
		}
		rest = after
		if len(line) == 0 {
			return len(in) - len(rest), body, true
		}
		if !trailerLine.MatchString(latin1(line)) {
			return 0, nil, false
		}
	}
}

// decode runs a Chunked over in, cut at the offsets; n counts all bytes taken.
func decode(in []byte, lim *Limits, cuts ...int) (n int, body []byte, done bool, err *Error) {
	var d Chunked
	from := 0
	for _, cut := range append(slices.Clone(cuts), len(in)) {
		read := slices.Clip(bytes.Clone(in[from:cut]))
		from = cut
		for len(read) > 0 {
			took, data, end, err := d.Next(read, lim)
			n += took
			body = append(body, data...)
			read = read[took:]
			if end || err != nil {
				return n, body, end, err
			}
		}
	}
	return n, body, false, nil
}

// compareChunked demands that the decoder, the grammar and net/http agree on one body.
func compareChunked(t testing.TB, in []byte) {
	t.Helper()
	lim := DefaultLimits()
	lim.BodyBytesMax, lim.ChunkLineBytesMax, lim.TrailerBytesMax = 0, 1<<20, 1<<20
	lim.ChunkOverheadBytesMax = 1 << 40
	n, body, done, err := decode(in, &lim)
	wantN, wantBody, ok := readChunked(in)
	if done != (wantN > 0) || done && (n != wantN || !bytes.Equal(body, wantBody)) {
		t.Fatalf("got %d %q %v %v, grammar %d %q\ninput %q", n, body, done, err, wantN, wantBody, in)
	}
	if !ok && err == nil {
		t.Fatalf("grammar refuses, decoder waits after %d bytes\ninput %q", n, in)
	}
	if !done {
		return
	}
	text := post + "Transfer-Encoding: chunked\r\n\r\n" + string(in)
	std, stdErr := http.ReadRequest(bufio.NewReaderSize(strings.NewReader(text), len(text)+16))
	if stdErr != nil {
		t.Fatal(stdErr)
	}
	stdBody, stdErr := io.ReadAll(std.Body)
	if stdErr != nil && !goRefusesBody(in, stdErr) || stdErr == nil && !bytes.Equal(stdBody, body) {
		t.Fatalf("got %q, net/http %q, %v\ninput %q", body, stdBody, stdErr, in)
	}
}

// goRefusesBody lists the errors of net/http on bodies that are right.
func goRefusesBody(in []byte, err error) bool {
	// It knows no whitespace before ';', bounds extensions, and judges the meaning of trailers.
	return bytes.Contains(in, []byte(" ;")) || bytes.Contains(in, []byte("\t;")) ||
		strings.Contains(err.Error(), "too long") || strings.Contains(err.Error(), "excess") ||
		strings.Contains(err.Error(), "trailer") || strings.Contains(err.Error(), "MIME header")
}

// rfcHost is RFC 3986 §3.2.2 and §3.2.3 without IP literals: at least one byte, and no ','.
var rfcHost = regexp.MustCompile("^(?:[A-Za-z0-9\\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})+(?::([0-9]*))?$")

var rfcLiteral = regexp.MustCompile(`^\[([0-9A-Fa-f:.]*)\](?::([0-9]*))?$`)

// compareHost demands that validAuthority and the grammar agree.
func compareHost(t testing.TB, in []byte) {
	t.Helper()
	want, port := false, ""
	if m := rfcLiteral.FindSubmatch(in); m != nil {
		addr, err := netip.ParseAddr(string(m[1]))
		want, port = err == nil && addr.Is6(), string(m[2])
	} else if m := rfcHost.FindSubmatch(in); m != nil {
		want, port = true, string(m[1])
	}
	if port = strings.TrimLeft(port, "0"); port != "" {
		_, err := strconv.ParseUint(port, 10, 16)
		want = want && err == nil
	}
	want = want && len(in) <= 259
	if got := validAuthority(in); got != want {
		t.Fatalf("host: got %v, grammar %v\ninput %q", got, want, in)
	}
}

// compareTarget demands that a target that is taken means to net/url what it means to us.
func compareTarget(t testing.TB, target []byte) {
	t.Helper()
	lim := DefaultLimits()
	req, n, err := parseHere(lim, []byte("GET "+string(target)+" HTTP/1.1\r\nHost: a\r\n\r\n"))
	if err != nil || n == 0 {
		return
	}
	if !bytes.Equal(req.Target, target) {
		t.Fatalf("got target %q\ninput %q", req.Target, target)
	}
	if goRefuses(req) {
		return
	}
	u, stdErr := url.ParseRequestURI(string(target))
	if stdErr != nil {
		t.Fatalf("taken, but net/url says %v\ninput %q", stdErr, target)
	}
	path := string(AppendPath(nil, req.RawPath))
	if u.Path != path && !(u.Path == "" && path == "/") || u.RawQuery != string(req.Query) ||
		u.Host != "" && u.Host != string(req.Host) || u.User != nil || u.Fragment != "" {
		t.Fatalf("got %q %q %q, net/url %#v\ninput %q", path, req.Query, req.Host, u, target)
	}
	// PEP 3333: PATH_INFO is the decoded path as latin-1; escaping it again gives the bytes back.
	if back := AppendPath(nil, []byte((&url.URL{Path: path}).EscapedPath())); string(back) != path {
		t.Fatalf("got %q back\ninput %q", back, target)
	}
}

// TestOracles runs every case past the other readers.
func TestOracles(t *testing.T) {
	lim := DefaultLimits()
	for _, c := range allCases() {
		in := []byte(c.in)
		req, n, err := parseHere(lim, in)
		if err == nil && n > 0 {
			compareHead(t, in, n, req)
		}
		if words := strings.SplitN(c.in, " ", 3); len(words) == 3 {
			compareTarget(t, []byte(words[1]))
		}
		if _, value, ok := strings.Cut(c.in, "Host: "); ok {
			value, _, _ = strings.Cut(value, "\r\n")
			compareHost(t, []byte(value))
		}
		if _, body, ok := strings.Cut(c.in, "chunked\r\n\r\n"); ok && len(body) < 20000 {
			compareChunked(t, []byte(body))
		}
	}
}
