package http1

import "github.com/evanphx/wildcat"

// Parser turns accepted heads into requests. It is owned by one loop and not for concurrent use.
type Parser struct {
	wild    wildcat.HTTPParser
	headers []Header
	dirty   int // of wild.Headers, how many may hold an earlier request's
	req     Request
}

// Request is one parsed head. All slices alias the head (or are constants) and stay valid until
// the head's bytes move or the next Parse, whichever comes first.
type Request struct {
	Method []byte
	Target []byte // verbatim

	// RawPath and Query are the parts of the target, after the scheme and authority of an
	// absolute-form are cut off. RawPath begins with '/', and its escapes are well-formed. Query is
	// nil without a '?'. Both are nil for OPTIONS *.
	RawPath []byte
	Query   []byte

	// Host is the authority for HTTP_HOST: of an absolute-form target, else of the Host field,
	// else nil, which only HTTP/1.0 may have.
	Host []byte

	// Headers are the field lines the app may see, in order. Never among them: Host (above),
	// Transfer-Encoding (the body arrives decoded), Proxy (httpoxy), and names with '_', which
	// would be mistaken for those with '-' in the environ. Connection, Keep-Alive, TE, Trailer,
	// Upgrade and Expect are there, for information.
	Headers []Header

	ContentLength int64 // -1 when absent
	Minor         int   // HTTP/1.Minor: 0 or 1

	PathEscaped    bool // RawPath holds a '%'
	Chunked        bool
	KeepAlive      bool // the client allows another request on this connection
	ExpectContinue bool // a body is announced and the client waits for 100
	IsHead         bool
	Asterisk       bool // OPTIONS *, which the server answers itself
}

// Header is one field line; Value is without the optional whitespace around it.
type Header struct {
	Name, Value []byte
}

// NewParser makes a parser for heads that a guard accepted under lim.
func NewParser(lim Limits) *Parser {
	// wildcat grows its slice, and allocates, when the last element is filled.
	size := lim.HeaderCountMax + 2
	return &Parser{wild: *wildcat.NewSizedHTTPParser(size), headers: make([]Header, 0, size)}
}

// Parse splits a head that g has accepted. The request and all it refers to stay valid until the
// next Parse.
func (p *Parser) Parse(head []byte, g *Guard) (*Request, *Error) {
	r := &p.req
	*r = Request{}
	// A head that is as long as what the guard took, and complete to wildcat, is one it accepted.
	if len(head) != int(g.scanned) {
		return nil, ErrDisagreement
	}
	message := head[g.lead:]
	if !p.split(message) || !p.agreeLine(message, g) || !p.agreeFields(message, g) {
		return nil, ErrDisagreement
	}
	r.Method, r.Target = p.wild.Method, p.wild.Path
	r.Headers = p.headers
	if g.flags&hasHost != 0 {
		r.Host = trim(head[g.hostStart:g.hostEnd])
	}
	if err := r.framing(g); err != nil {
		return nil, err
	}
	if err := r.target(); err != nil {
		return nil, err
	}
	return r, nil
}

// framing decides body and persistence from what the guard found.
func (r *Request) framing(g *Guard) *Error {
	r.Minor = int(g.minor)
	if g.minor == 1 && g.flags&hasHost == 0 {
		return errHostMissing
	}
	r.ContentLength = -1
	if g.flags&hasLength != 0 {
		r.ContentLength = g.contentLength
	}
	r.Chunked = g.flags&hasTE != 0
	// RFC 9112 §6.1: a server MAY reject a request that contains both. There is no honest reason
	// to send them.
	if r.Chunked && g.flags&hasLength != 0 {
		return errLengthAndTE
	}
	// RFC 9112 §9.3: close wins; else HTTP/1.1 persists, and HTTP/1.0 does with keep-alive.
	r.KeepAlive = g.flags&wantsClose == 0 && (g.minor == 1 || g.flags&wantsKeepAlive != 0)
	// RFC 9110 §10.1.1: a server that receives a 100-continue expectation in an HTTP/1.0 request
	// MUST ignore it, and may omit the 100 when there is no content.
	r.ExpectContinue = g.flags&hasExpect != 0 && g.minor == 1 && (r.Chunked || r.ContentLength > 0)
	r.IsHead = string(r.Method) == "HEAD"
	return nil
}
