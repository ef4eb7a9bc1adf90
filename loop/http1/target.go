package http1

import "bytes"

// target splits the request target into what the app sees. Nothing is normalised: dot segments,
// double slashes and escaped slashes are part of what the CDN in front has judged.
func (r *Request) target() *Error {
	t := r.Target
	// RFC 9110 §9.3.6: an origin server has no tunnel to offer, and the bytes that follow would be
	// the tunnel's.
	if string(r.Method) == "CONNECT" {
		return errConnect
	}
	switch {
	case t[0] == '/':
		return r.split(t)
	// RFC 9112 §3.2.4: the asterisk-form is only used for a server-wide OPTIONS request.
	case len(t) == 1 && t[0] == '*' && string(r.Method) == "OPTIONS":
		r.Asterisk = true
		return nil
	}
	return r.absolute(t)
}

// absolute takes the absolute-form. RFC 9112 §3.2.2: a server MUST accept it, and an origin server
// MUST ignore the received Host and use the host of the target instead. The scheme tells nothing
// about this connection, so https is taken and not believed.
func (r *Request) absolute(t []byte) *Error {
	scheme, rest, ok := bytes.Cut(t, schemeEnd)
	if !ok {
		return errTargetForm
	}
	if !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return errTargetScheme
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	if !validAuthority(rest[:end]) {
		return errTargetHost
	}
	r.Host = rest[:end]
	return r.split(rest[end:])
}

// split cuts path from query. RFC 9110 §4.2.3: an empty path is the same as "/".
func (r *Request) split(t []byte) *Error {
	path := t
	if q := bytes.IndexByte(t, '?'); q >= 0 {
		path, r.Query = t[:q], t[q+1:]
	}
	if len(path) == 0 {
		path = rootPath
	}
	r.RawPath = path
	return r.escapes()
}

// escapes checks the percent-escapes of the path, because it is decoded for the app. The query is
// not: it is passed on as it came. RFC 3986 §2.1: pct-encoded = "%" HEXDIG HEXDIG. %00 has no use
// in a path but to cut it short in somebody's C code.
func (r *Request) escapes() *Error {
	p := r.RawPath
	for {
		i := bytes.IndexByte(p, '%')
		if i < 0 {
			return nil
		}
		r.PathEscaped = true
		p = p[i+1:]
		if len(p) < 2 || class[p[0]]&class[p[1]]&isHex == 0 || p[0] == '0' && p[1] == '0' {
			return errEscape
		}
		p = p[2:]
	}
}

// AppendPath appends the decoded form of a RawPath that Parse accepted.
func AppendPath(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '%')
		if i < 0 || i+2 >= len(raw) {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		dst = append(dst, hexDigit(raw[i+1])<<4|hexDigit(raw[i+2]))
		raw = raw[i+3:]
	}
}

// These are never written to.
var (
	schemeEnd = []byte("://")
	rootPath  = []byte("/")
)
