package pybridge

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// Environs are made of those of earlier requests (shim/mould.c). Whatever came before, each
// one holds what its own request says, and nothing else.

// repeated is what apps/repeats.py answers.
type repeated struct {
	Environ map[string]string
	Late    int // objects of ended requests that still do something
	Body    string
	Gone    bool
}

// field is a header with values that it may have.
type field struct {
	name   string
	values []string
}

// shapes are the headers of clients of some kinds: more than a thread keeps moulds, among them
// some that can have none.
func shapes() [][]field {
	long := strings.Repeat("a long value ", 30)
	agents := []string{"", "one", "two", "Mozilla/5.0 (X11)", "Mozilla/5.0 (X12)", "mozilla/5.0 (X11)",
		"12345678", "12345679", long[:128], long[:129], long[:127] + "!", "caf\xe9"}
	host := field{"Host", []string{"a", "b", "www.example.com:8000"}}
	all := [][]field{
		{host},
		{{"host", []string{"a", "b"}}},
		{host, {"User-Agent", agents}},
		{host, {"User-Agent", agents}, {"Accept", agents}},
		{{"User-Agent", agents}, {"Accept", agents}, host},
		{host, {"Accept", agents}, {"User-Agent", agents}},
		{host, {"Cookie", agents}, {"X-One", agents}, {"X-Two", agents}},
		{host, {"Cookie", agents}, {"X-Two", agents}, {"X-One", agents}},
		{host, {"X-Odd", agents}, {"X-Two", agents}, {"X-One", agents}},
		{host, {"Content-Type", agents}, {"Content-Length", []string{"0", "1"}}},
		{host, {"X-One", agents}, {"X-One", agents}},
		{host, {"Cookie", agents}, {"x-one", agents}, {"cookie", agents}},
		{host, {"X-" + strings.Repeat("Long-", 12), agents}},
		{host, {"X-" + strings.Repeat("Longer-", 12), agents}},
		{{"X-One", agents}, host, {"X.One", agents}, {"X_One2", agents}},
		{},
	}
	for _, count := range []int{31, 32, 33} {
		many := []field{host}
		for i := 1; i < count; i++ {
			many = append(many, field{"X-" + strconv.Itoa(i), agents})
		}
		all = append(all, many)
	}
	return all
}

func pick[T any](dice *rand.Rand, of []T) T { return of[dice.IntN(len(of))] }

// latin1 is the text that Python has for wire bytes.
func latin1(wire string) string {
	var text strings.Builder
	for _, b := range []byte(wire) {
		text.WriteRune(rune(b))
	}
	return text.String()
}

// anyRequest is a request of one of the shapes, and the str items of its environ.
func anyRequest(dice *rand.Rand, all [][]field) (*Request, map[string]string) {
	paths := []string{"/", "/a", "/b", "/caf\xe9", "/" + strings.Repeat("p", 150)}
	q := &Request{
		Method: []byte(pick(dice, []string{"GET", "GET", "PUT"})), KeepAlive: true,
		Query:      []byte(pick(dice, []string{"", "", "keep", "a=1", strings.Repeat("q", 200)})),
		Path:       []byte(pick(dice, paths)),
		RemoteAddr: []byte(pick(dice, []string{"192.0.2.1", "2001:db8::1"})),
		RemotePort: pick(dice, []uint16{0, 1, 1, 9, 80, 4711, 9999, 65535}),
		Listener:   pick(dice, []uint16{0, 0, 0, 0, 0, 1}),
		HTTP10:     dice.IntN(6) == 0,
	}
	q.Target = q.Path
	if len(q.Query) > 0 || dice.IntN(4) == 0 {
		q.Target = []byte(string(q.Path) + "?" + string(q.Query))
	}
	q.Head, q.Path = q.Target, q.Target[:len(q.Path)] // as in a real one: not copied twice
	want := map[string]string{
		"SCRIPT_NAME": "", "SERVER_NAME": "localhost", "SERVER_SOFTWARE": "gophersnake",
		"SERVER_PORT":       []string{"80", "443"}[q.Listener],
		"GATEWAY_INTERFACE": "CGI/1.1", "wsgi.url_scheme": []string{"http", "https"}[q.Listener],
		"REQUEST_METHOD": string(q.Method), "REMOTE_ADDR": string(q.RemoteAddr),
		"PATH_INFO": latin1(string(q.Path)), "QUERY_STRING": string(q.Query),
		"RAW_URI": latin1(string(q.Target)), "REQUEST_URI": latin1(string(q.Target)),
		"SERVER_PROTOCOL": map[bool]string{false: "HTTP/1.1", true: "HTTP/1.0"}[q.HTTP10],
	}
	if q.RemotePort != 0 {
		want["REMOTE_PORT"] = strconv.Itoa(int(q.RemotePort))
	}
	if q.Listener == 1 {
		want["HTTPS"] = "on"
	}
	for _, f := range pick(dice, all) {
		addHeader(q, want, f.name, pick(dice, f.values))
	}
	if dice.IntN(4) == 0 {
		q.HasBody, q.Body = true, []byte(strings.Repeat("x", dice.IntN(200)))
		want["CONTENT_LENGTH"] = strconv.Itoa(len(q.Body))
	}
	return q, want
}

// addHeader adds a field to a request, and to its environ as PEP 3333 and RFC 9110 §5.3 have it.
func addHeader(q *Request, want map[string]string, name, value string) {
	q.Headers = append(q.Headers, Header{[]byte(name), []byte(value)})
	key := strings.ReplaceAll(strings.ToUpper(name), "-", "_")
	if key != "CONTENT_TYPE" && key != "CONTENT_LENGTH" {
		key = "HTTP_" + key
	}
	text := latin1(value)
	if before, twice := want[key]; twice {
		text = before + map[bool]string{false: ",", true: "; "}[key == "HTTP_COOKIE"] + text
	}
	want[key] = text
}

func TestEnvironsOfManyShapes(t *testing.T) {
	seed := rand.Uint64()
	onEvery(t, func(t *testing.T, python string) {
		dice := rand.New(rand.NewPCG(seed, 0))
		p := launchReady(t, python, "repeats:app", 1, func(c *Config) {
			c.Listeners = append(c.Listeners,
				Listener{ServerName: "localhost", ServerPort: "443", Scheme: "https"})
		})
		all := shapes()
		for n := range 900 {
			among := all
			if n%300 < 200 { // few enough that moulds are hit
				among = all[n/300*3+1:][:3]
			}
			q, want := anyRequest(dice, among)
			status, body := p.ask(q)
			var got repeated
			if err := json.Unmarshal([]byte(body), &got); status != 200 || err != nil {
				t.Fatalf("seed %d, request %d: got %d %q\n%s", seed, n, status, body, p.text())
			}
			if !maps.Equal(got.Environ, want) {
				t.Fatalf("seed %d, request %d:\n got %q\nwant %q", seed, n, got.Environ, want)
			}
			if got.Late != 0 || got.Gone || got.Body != string(q.Body) {
				t.Fatalf("seed %d, request %d: got %d late answers, gone %v, body %q, want %q", seed,
					n, got.Late, got.Gone, got.Body, q.Body)
			}
		}
		p.quit()
	})
}
