package http1

import (
	"bytes"
	"testing"

	"github.com/evanphx/wildcat"
)

// TestAgreementAlone takes wildcat for something that may return any slices: each row spoils one
// thing in a result that was right, and only the agreement can notice.
func TestAgreementAlone(t *testing.T) {
	const text = "GET /path HTTP/1.1\r\nHost: a\r\nAb: c:d\r\nE:\r\n\r\n"
	message := []byte(text)
	at := func(from, to int) []byte { return message[from:to] }
	line := func(spoil func(w *wildcat.HTTPParser)) func(*Parser, *Guard) {
		return func(p *Parser, _ *Guard) { spoil(&p.wild) }
	}
	for name, spoil := range map[string]func(*Parser, *Guard){
		"method too short":  line(func(w *wildcat.HTTPParser) { w.Method = at(0, 2) }),
		"method moved":      line(func(w *wildcat.HTTPParser) { w.Method = at(1, 4) }),
		"target too short":  line(func(w *wildcat.HTTPParser) { w.Path = at(4, 8) }),
		"target moved":      line(func(w *wildcat.HTTPParser) { w.Path = at(5, 10) }),
		"version too short": line(func(w *wildcat.HTTPParser) { w.Version = at(10, 17) }),
		"version moved":     line(func(w *wildcat.HTTPParser) { w.Version = at(11, 19) }),
		"name moved":        line(func(w *wildcat.HTTPParser) { w.Headers[0].Name = at(21, 25) }),
		"name elsewhere": line(func(w *wildcat.HTTPParser) {
			w.Headers[0].Name = []byte("Host")
		}),
		"name too short, another too long": line(func(w *wildcat.HTTPParser) {
			w.Headers[0].Name, w.Headers[1].Name = at(20, 23), at(29, 32)
		}),
		"name up to a later colon": line(func(w *wildcat.HTTPParser) {
			w.Headers[1].Name, w.Headers[1].Value = at(29, 34), at(34, 35)
		}),
		"no value": line(func(w *wildcat.HTTPParser) { w.Headers[0].Value = nil }),
		"value elsewhere": line(func(w *wildcat.HTTPParser) {
			w.Headers[0].Value = []byte("a")
		}),
		"value with the colon": line(func(w *wildcat.HTTPParser) { w.Headers[0].Value = at(24, 27) }),
		"value too short":      line(func(w *wildcat.HTTPParser) { w.Headers[1].Value = at(33, 35) }),
		"value over a line":    line(func(w *wildcat.HTTPParser) { w.Headers[0].Value = at(26, 36) }),
		"value to the end":     line(func(w *wildcat.HTTPParser) { w.Headers[2].Value = at(40, 44) }),
		"value beyond":         line(func(w *wildcat.HTTPParser) { w.Headers[2].Value = message[44:] }),
		"fewer lines seen": func(_ *Parser, g *Guard) {
			g.lines, g.nameBytes = 2, 6
		},
		"more lines seen": func(_ *Parser, g *Guard) { g.lines++ },
		"more lines than there is room": func(p *Parser, g *Guard) {
			p.wild.Headers = p.wild.Headers[:3]
		},
	} {
		lim := DefaultLimits()
		p := NewParser(lim)
		var g Guard
		if n, err := g.Scan(message, &lim); n != len(text) || err != nil {
			t.Fatal(n, err)
		}
		if !p.split(message) || !p.agreeLine(message, &g) || !p.agreeFields(message, &g) {
			t.Fatal("the result that is right is not agreed to")
		}
		spoil(p, &g)
		if p.agreeLine(message, &g) && p.agreeFields(message, &g) {
			t.Errorf("%s: agreed", name)
		}
		if !bytes.Equal(message, []byte(text)) {
			t.Fatalf("%s: the message was written to", name)
		}
	}
}
