package http1

// fieldLines takes field lines up to and with the empty line that ends the head.
func (g *Guard) fieldLines(b []byte, i int, lim *Limits) (int, *Error) {
	for i < len(b) {
		var err *Error
		switch g.state {
		case atLine:
			i, err = g.beginLine(b, i, lim)
		case inName:
			i, err = g.name(b, i)
		case inFieldValue:
			i, err = g.value(b, i)
		case atFieldLF:
			i, err = g.endLine(b, i, lim)
		case atHeadLF:
			if b[i] != '\n' {
				return i, errBareCR
			}
			g.state = accepted
			return i + 1, nil
		}
		if err != nil {
			return i, err
		}
	}
	return i, nil
}

// beginLine looks at the first byte of a line: a field name, or the end of the head.
func (g *Guard) beginLine(b []byte, i int, lim *Limits) (int, *Error) {
	c := b[i]
	switch {
	case c == '\r':
		g.state = atHeadLF
		return i + 1, nil
	case class[c]&inToken != 0:
	// RFC 9112 §5.2: a server that receives an obs-fold in a request message MUST reject it or
	// replace it. wildcat panics on one in the first line and merges the others.
	case isBlank(c):
		return i, errFold
	case c == ':':
		return i, errNameEmpty
	default:
		return i, errName
	}
	if int(g.lines) == lim.HeaderCountMax {
		return i, errHeaderCount
	}
	g.lines++
	g.lineStart = uint32(i)
	g.state = inName
	return i, nil
}

// name takes a field name and its ':'. RFC 9112 §5.1: no whitespace is allowed between the field
// name and colon; a server MUST reject such a request with 400.
func (g *Guard) name(b []byte, i int) (int, *Error) {
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
	if i == len(b) {
		return i, nil
	}
	if b[i] != ':' {
		return i, errName
	}
	name := b[g.lineStart:i]
	g.nameBytes += uint32(len(name))
	g.kind = kindOf(name)
	g.state = inFieldValue
	g.valueStart = uint32(i + 1)
	return i + 1, nil
}

// value takes a field value and its CR. RFC 9110 §5.5: field values containing CR, LF or NUL are
// invalid and dangerous; a recipient MUST reject them or replace those bytes. Every other control
// but HTAB is refused with them.
func (g *Guard) value(b []byte, i int) (int, *Error) {
	i = skipValue(b, i)
	if i == len(b) {
		return i, nil
	}
	// RFC 9112 §2.2: a recipient MAY recognize a single LF as a line terminator. Not this one: it
	// is half of most request smuggling (CVE-2019-16785).
	if b[i] != '\r' {
		return i, errValue
	}
	g.state = atFieldLF
	return i + 1, nil
}

// endLine takes the LF of a field line and the meaning of the line.
func (g *Guard) endLine(b []byte, i int, lim *Limits) (int, *Error) {
	if b[i] != '\n' {
		return i, errBareCR
	}
	g.state = atLine
	if g.kind != kindOther {
		if err := g.field(b, int(g.valueStart), i-1, lim); err != nil {
			return i, err
		}
	}
	return i + 1, nil
}
