package http1

// Guard is the state of one client's head scan, owned by the client's loop; the zero value is
// ready. It keeps offsets, never bytes, so the buffer may move between two calls.
type Guard struct {
	err           *Error
	contentLength int64

	scanned    uint32 // bytes judged
	targetEnd  uint32
	lineStart  uint32 // first byte of the current field line
	valueStart uint32 // first byte after its ':'
	lines      uint32 // field lines begun
	nameBytes  uint32 // of all field names together
	hostStart  uint32 // the value of Host, untrimmed
	hostEnd    uint32

	flags     flags
	state     state
	kind      kind // of the current field line
	lead      uint8
	methodLen uint8
	minor     uint8
}

type state uint8

const (
	atStart state = iota
	atLeadLF
	inMethod
	inTargetOf
	inVersion
	atRequestLF
	atLine
	inName
	inFieldValue
	atFieldLF
	atHeadLF
	accepted
	refused
)

type flags uint16

const (
	hasHost flags = 1 << iota
	hasLength
	hasTE
	hasType
	hasExpect
	wantsClose
	wantsKeepAlive
	hidesLines     // some field lines are not for the app
	unknownVersion // shaped like a version, but not 1.0 or 1.1
)

// Scan judges the bytes of buf that it has not seen yet. buf starts at the first byte of the
// message (one leading CRLF included) and is the whole head so far: the same bytes and new ones at
// the end on every call, in the same array or another.
//
// n > 0: buf[:n] is a complete accepted head. n == 0 and err == nil: more bytes are needed.
// err != nil: refuse, close, and parse nothing more.
func (g *Guard) Scan(buf []byte, lim *Limits) (n int, err *Error) {
	switch g.state {
	case accepted:
		return int(g.scanned), nil
	case refused:
		return 0, g.err
	}
	// Bytes beyond the limit are not looked at, so that the verdict is the same however much of
	// them came in one read.
	seen := buf
	if len(buf) > lim.HeadBytesMax {
		seen = buf[:lim.HeadBytesMax]
	}
	i, err := g.requestLine(seen, int(g.scanned), lim)
	if err == nil {
		i, err = g.fieldLines(seen, i, lim)
	}
	g.scanned = uint32(i)
	if g.state == accepted {
		return i, nil
	}
	if err == nil && len(buf) > len(seen) {
		err = errHeadLong
	}
	if err != nil {
		g.state, g.err = refused, err
	}
	return 0, err
}

// Reset makes the guard ready for the next head of the same client.
func (g *Guard) Reset() { *g = Guard{} }

// Begun reports whether any byte of a request was seen; a leading CRLF does not count. A client
// that times out is told 408 if it had begun, and nothing otherwise.
func (g *Guard) Begun() bool {
	return g.state == refused || g.state > atLeadLF && g.scanned > uint32(g.lead)
}

// requestLine takes the request line, and what may stand before it.
//
// RFC 9112 §2.2: a server SHOULD ignore at least one empty line (CRLF) received prior to the
// request-line. One and no more: the PROXY v2 signature begins with two.
func (g *Guard) requestLine(b []byte, i int, lim *Limits) (int, *Error) {
	for i < len(b) {
		var err *Error
		switch g.state {
		case atStart:
			g.state = inMethod
			if b[i] == '\r' {
				g.state = atLeadLF
				i++
			}
		case atLeadLF:
			if b[i] != '\n' {
				return i, errBareCR
			}
			g.state, g.lead = inMethod, 2
			i++
		case inMethod:
			i, err = g.method(b, i, lim)
		case inTargetOf:
			i, err = g.target(b, i, lim)
		case inVersion:
			i, err = g.version(b, i, lim)
		default:
			return i, nil
		}
		if err != nil {
			return i, err
		}
	}
	return i, nil
}

// method takes the method and the SP after it. RFC 9112 §3: request-line = method SP
// request-target SP HTTP-version; whitespace of any other shape is how two readers come to see
// two different lines.
func (g *Guard) method(b []byte, i int, lim *Limits) (int, *Error) {
	start := int(g.lead)
	for ; i < len(b); i++ {
		c := b[i]
		if i-start == lim.RequestLineBytesMax {
			return i, errRequestLineLong
		}
		if class[c]&inToken == 0 {
			if c == ' ' && i > start {
				g.methodLen = uint8(i - start)
				g.state = inTargetOf
				return i + 1, nil
			}
			return i, methodRefusal(c, i == start)
		}
		// RFC 9112 §3: a server that receives a method longer than any that it implements SHOULD
		// respond with a 501.
		if i-start == methodBytesMax {
			return i, errMethodLong
		}
	}
	return i, nil
}

// methodRefusal names what a method ends with, or begins with.
func methodRefusal(c byte, first bool) *Error {
	if first {
		switch c {
		case 0x16:
			return errTLS
		case '\r':
			return errLeadingEmpty
		}
	}
	return errMethod
}

// target takes the request target and the SP after it. Which of the four forms it has is decided
// when the head is complete.
func (g *Guard) target(b []byte, i int, lim *Limits) (int, *Error) {
	start := int(g.lead) + int(g.methodLen) + 1
	end := min(len(b), int(g.lead)+lim.RequestLineBytesMax)
	if i < end {
		i = skipTarget(b[:end], i)
	}
	switch {
	case i == len(b):
		return i, nil
	case i >= end:
		return i, errRequestLineLong
	case b[i] != ' ':
		return i, errTargetByte
	case i == start:
		return i, errTargetEmpty
	}
	g.targetEnd = uint32(i)
	g.state = inVersion
	return i + 1, nil
}

// version takes HTTP-version and the CRLF. RFC 9112 §2.3: HTTP-version = HTTP-name "/" DIGIT "."
// DIGIT, and HTTP-name is case-sensitive.
func (g *Guard) version(b []byte, i int, lim *Limits) (int, *Error) {
	const shape = "HTTP/1.1\r\n"
	start := int(g.targetEnd) + 1
	// Only for speed: a byte at a time is a tenth of the cost of a short head.
	if i == start && len(b)-i >= len(shape) && string(b[i:i+len(shape)]) == shape &&
		i+8-int(g.lead) <= lim.RequestLineBytesMax {
		g.minor, g.state = 1, atLine
		return i + len(shape), nil
	}
	for ; i < len(b); i++ {
		at, c := i-start, b[i]
		if i-int(g.lead) == lim.RequestLineBytesMax && at < 8 {
			return i, errRequestLineLong
		}
		switch {
		case at == 5 || at == 7:
			if !isDigit(c) {
				return i, errVersion
			}
			if c != '1' && (at == 5 || c != '0') {
				g.flags |= unknownVersion
			}
			g.minor = c - '0'
		case c != shape[at]:
			return i, errVersion
		case c == '\n':
			if g.flags&unknownVersion != 0 {
				return i, errVersionUnknown
			}
			g.state = atLine
			return i + 1, nil
		}
	}
	return i, nil
}
