package http1

import (
	"bytes"

	"github.com/evanphx/wildcat"
)

// split calls wildcat, once and with its state reset: it keeps the header slice's old contents, and
// caches the first Host and Content-Length it was ever asked for.
func (p *Parser) split(message []byte) bool {
	w := &p.wild
	clear(w.Headers[:p.dirty])
	*w = wildcat.HTTPParser{Headers: w.Headers, TotalHeaders: len(w.Headers)}
	p.dirty = len(w.Headers)
	_, err := w.Parse(message)
	return err == nil
}

// agreeLine demands that wildcat's words are where the guard saw them. A word that begins in the
// right place says where the one before ended.
func (p *Parser) agreeLine(message []byte, g *Guard) bool {
	w := &p.wild
	method, target := int(g.methodLen), int(g.targetEnd)-int(g.lead)
	return len(w.Method) == method && offset(message, w.Method) == 0 &&
		len(w.Path) == target-method-1 && offset(message, w.Path) == method+1 &&
		len(w.Version) == len("HTTP/1.1") && offset(message, w.Version) == target+1
}

// agreeFields demands that wildcat's field lines tile the head as the guard saw it: each begins
// where the one before ended, and ends at the next line end; there are as many, and their names
// are as long together. It leaves in p.headers what the app may see.
func (p *Parser) agreeFields(message []byte, g *Guard) bool {
	n, host := int(g.lines), int(g.hostStart)-int(g.lead)
	if n >= len(p.wild.Headers) {
		return false
	}
	headers := p.headers[:0]
	at, nameBytes := int(g.targetEnd)-int(g.lead)+len(" HTTP/1.1\r\n"), 0
	for _, field := range p.wild.Headers[:n] {
		name, value := field.Name, field.Value
		nameBytes += len(name)
		from, colon := offset(message, value), at+len(name)
		end := from + len(value)
		// wildcat takes the CR for the value when there is none.
		if len(value) == 1 && value[0] == '\r' {
			end, value = from, value[:0]
		}
		// The line end comes before the colon: it proves that both lie within the message.
		if offset(message, name) != at || from <= colon ||
			bytes.IndexByte(message[at:], '\n') != end+1-at || message[colon] != ':' {
			return false
		}
		at = end + len("\r\n")
		if colon+1 == host {
			continue
		}
		// Only for speed: the guard knows that few heads have lines to hide.
		if g.flags&hidesLines != 0 {
			if hidden(name) {
				continue
			}
		}
		for len(value) > 0 && isBlank(value[len(value)-1]) {
			value = value[:len(value)-1]
		}
		headers = append(headers, Header{name, value})
	}
	if at+len("\r\n") != len(message) || nameBytes != int(g.nameBytes) {
		return false
	}
	p.headers, p.dirty = headers, n
	return true
}

// hidden reports whether the app must not see a field of this name.
func hidden(name []byte) bool {
	k := kindOf(name)
	return k == kindProxy || k == kindTransferEncoding || bytes.IndexByte(name, '_') >= 0
}

// offset finds where part, a slice of whole, begins in it: slicing keeps the end of the capacity.
func offset(whole, part []byte) int { return cap(whole) - cap(part) }
