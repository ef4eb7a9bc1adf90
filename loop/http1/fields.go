package http1

// fieldLines takes field lines up to and with the empty line that ends the head.
func (g *Guard) fieldLines(b []byte, i int, lim *Limits) (int, *Error) {
	for i < len(b) {
		var err *Error
		if g.state == atHeadLF {
			if b[i] != '\n' {
				return i, errBareCR
			}
			g.state = accepted
			return i + 1, nil
		}
		if i, err = g.fieldLine(b, i, lim); err != nil {
			return i, err
		}
	}
	return i, nil
}

// fieldLine takes what b holds of one line, from whatever state the bytes before it left.
func (g *Guard) fieldLine(b []byte, i int, lim *Limits) (int, *Error) {
	switch g.state {
	case atLine:
		if b[i] == '\r' {
			g.state = atHeadLF
			return i + 1, nil
		}
		if class[b[i]]&inToken == 0 {
			return i, lineRefusal(b[i])
		}
		if int(g.lines) == lim.HeaderCountMax {
			return i, errHeaderCount
		}
		g.lines++
		g.lineStart = uint32(i)
		g.state = inName
		fallthrough
	case inName:
		i = g.name(b, i)
		if i == len(b) {
			return i, nil
		}
		// RFC 9112 §5.1: no whitespace is allowed between the field name and colon; a server MUST
		// reject such a request with 400.
		if b[i] != ':' {
			return i, errName
		}
		i++
		g.endName(b, i)
		fallthrough
	case inFieldValue:
		i = skipValue(b, i)
		if i == len(b) {
			return i, nil
		}
		// RFC 9110 §5.5: field values containing CR, LF or NUL are invalid and dangerous; a
		// recipient MUST reject them or replace those bytes. RFC 9112 §2.2: a recipient MAY take a
		// single LF for a line end. Not this one: that is half of all request smuggling
		// (CVE-2019-16785).
		if b[i] != '\r' {
			return i, errValue
		}
		i++
		g.state = atFieldLF
		if i == len(b) {
			return i, nil
		}
		fallthrough
	default:
		if b[i] != '\n' {
			return i, errBareCR
		}
		g.state = atLine
		if g.kind != kindOther {
			return i + 1, g.field(b, int(g.valueStart), i-1, lim)
		}
		return i + 1, nil
	}
}

// lineRefusal names what a line begins with.
func lineRefusal(c byte) *Error {
	switch {
	// RFC 9112 §5.2: a server that receives an obs-fold in a request MUST reject it or replace it.
	// wildcat panics on one in the first line and merges the others.
	case isBlank(c):
		return errFold
	case c == ':':
		return errNameEmpty
	}
	return errName
}

// name returns the first index from i on that does not hold a byte of a field name.
func (g *Guard) name(b []byte, i int) int {
	var seen uint8
	for i < len(b) {
		c := class[b[i]]
		if c&inToken == 0 {
			break
		}
		seen |= c
		i++
	}
	if seen&isUnderscore != 0 {
		g.flags |= hidesLines
	}
	return i
}

// endName notes a complete field name; its value begins at i.
func (g *Guard) endName(b []byte, i int) {
	name := b[g.lineStart : i-1]
	g.nameBytes += uint32(len(name))
	g.kind = kindOf(name)
	g.valueStart = uint32(i)
	g.state = inFieldValue
}
