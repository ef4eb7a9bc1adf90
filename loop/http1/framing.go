package http1

import (
	"bytes"
	"math"
)

// kind is a field that means something to the server itself.
type kind uint8

const (
	kindOther kind = iota
	kindHost
	kindProxy
	kindExpect
	kindConnection
	kindContentType
	kindContentLength
	kindTransferEncoding
)

// kindOf knows a field by its name, which is a token.
func kindOf(name []byte) kind {
	switch len(name) {
	case len("host"):
		if equalFold(name, "host") {
			return kindHost
		}
	case len("proxy"):
		if equalFold(name, "proxy") {
			return kindProxy
		}
	case len("expect"):
		if equalFold(name, "expect") {
			return kindExpect
		}
	case len("connection"):
		if equalFold(name, "connection") {
			return kindConnection
		}
	case len("content-type"):
		if equalFold(name, "content-type") {
			return kindContentType
		}
	case len("content-length"):
		if equalFold(name, "content-length") {
			return kindContentLength
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			return kindTransferEncoding
		}
	}
	return kindOther
}

// field takes the meaning of the complete field line whose value is b[from:to].
func (g *Guard) field(b []byte, from, to int, lim *Limits) *Error {
	value := trim(b[from:to])
	switch g.kind {
	case kindHost:
		return g.hostField(value, from, to)
	case kindProxy:
		g.flags |= hidesLines
	case kindExpect:
		return g.expectField(value)
	case kindConnection:
		g.connectionField(value)
	case kindContentType:
		// RFC 9110 §5.3 and §8.3: a singleton. Two readers would take two different ones.
		if g.flags&hasType != 0 {
			return errTypeTwice
		}
		g.flags |= hasType
	case kindContentLength:
		return g.lengthField(value, lim)
	case kindTransferEncoding:
		return g.codingField(value)
	}
	return nil
}

// RFC 9112 §3.2: a server MUST respond with 400 to any HTTP/1.1 request that lacks a Host field,
// has more than one Host field line, or one with an invalid value.
func (g *Guard) hostField(value []byte, from, to int) *Error {
	if g.flags&hasHost != 0 {
		return errHostTwice
	}
	if !validAuthority(value) {
		return errHost
	}
	g.flags |= hasHost
	g.hostStart, g.hostEnd = uint32(from), uint32(to)
	return nil
}

// RFC 9110 §10.1.1: a server that receives an Expect field with a member other than 100-continue
// MAY respond with 417. A second line is such a member: nobody sends it.
func (g *Guard) expectField(value []byte) *Error {
	if g.flags&hasExpect != 0 || !equalFold(value, "100-continue") {
		return errExpectUnknown
	}
	g.flags |= hasExpect
	return nil
}

// RFC 9110 §7.6.1: Connection = [ connection-option *( OWS "," OWS connection-option ) ]; options
// are case-insensitive and whole tokens.
func (g *Guard) connectionField(value []byte) {
	for more := true; more; {
		var option []byte
		option, value, more = bytes.Cut(value, comma)
		option = trim(option)
		switch {
		case equalFold(option, "close"):
			g.flags |= wantsClose
		case equalFold(option, "keep-alive"):
			g.flags |= wantsKeepAlive
		}
	}
}

// RFC 9110 §8.6: Content-Length = 1*DIGIT; RFC 9112 §6.3: an invalid one, or a list of different
// ones, is an unrecoverable error and MUST be answered with 400. Equal ones twice are refused too.
func (g *Guard) lengthField(value []byte, lim *Limits) *Error {
	if g.flags&hasLength != 0 {
		return errLengthTwice
	}
	if len(value) == 0 || len(value) > contentLengthDigitsMax {
		return errLength
	}
	var n uint64 // 19 digits cannot overflow it
	for _, c := range value {
		if !isDigit(c) {
			return errLength
		}
		n = n*10 + uint64(c-'0')
	}
	if n > math.MaxInt64 || lim.BodyBytesMax > 0 && n > uint64(lim.BodyBytesMax) {
		return errBodyLong
	}
	g.flags |= hasLength
	g.contentLength = int64(n)
	return nil
}

// codingField takes Transfer-Encoding: the one token chunked, on HTTP/1.1, once. Everything else
// is refused and never falls back to Content-Length (CVE-2024-6827).
//
// RFC 9112 §6.1: a server that receives a transfer coding it does not understand SHOULD respond
// with 501; it MUST treat a Transfer-Encoding in HTTP/1.0 as faulty framing. §6.3: if chunked is
// not the final coding, it MUST respond with 400.
func (g *Guard) codingField(value []byte) *Error {
	switch {
	case g.minor == 0:
		return errTEVersion
	case g.flags&hasTE != 0:
		return errTETwice
	case equalFold(value, "chunked"):
		g.flags |= hasTE | hidesLines
		return nil
	case onlyUnknownCodings(value):
		return errTEUnknown
	}
	return errTE
}

// onlyUnknownCodings reports whether value is well-formed and the only fault is a coding that is
// not implemented: a single unknown token, or unknown tokens that end in chunked.
func onlyUnknownCodings(value []byte) bool {
	for n := 0; ; n++ {
		coding, rest, more := bytes.Cut(value, comma)
		coding = trim(coding)
		chunked := equalFold(coding, "chunked")
		switch {
		case !isToken(coding):
			return false
		case !more:
			return chunked || n == 0
		case chunked:
			return false
		}
		value = rest
	}
}

func isToken(b []byte) bool {
	for _, c := range b {
		if class[c]&inToken == 0 {
			return false
		}
	}
	return len(b) > 0
}

// comma is never written to.
var comma = []byte{','}
