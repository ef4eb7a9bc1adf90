package http1

import (
	"encoding/binary"
	"math/bits"
)

// A byte's classes: where the grammars of RFC 9110 §5, RFC 9112 §3 and RFC 3986 allow it.
const (
	inToken      = 1 << iota // tchar, RFC 9110 §5.6.2
	inTarget                 // 0x21..0x7E but '#'
	inValue                  // HTAB, SP, VCHAR, obs-text: RFC 9110 §5.5
	inQuoted                 // qdtext, RFC 9110 §5.6.4
	inRegName                // unreserved and sub-delims of RFC 3986 §3.2.2, but ','
	isHex                    // HEXDIG
	isUnderscore             // '_', which a field name must not pass on
)

// class is never written to after initialisation.
var class = classTable()

func classTable() (t [256]uint8) {
	for c := 0; c < 256; c++ {
		b := byte(c)
		alnum := isDigit(b) || lower(b) >= 'a' && lower(b) <= 'z'
		if alnum || inText(b, "!#$%&'*+-.^_`|~") {
			t[c] |= inToken
		}
		if b > ' ' && b < 0x7f && b != '#' {
			t[c] |= inTarget
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= inValue
			if b != '"' && b != '\\' {
				t[c] |= inQuoted
			}
		}
		// A ',' is a sub-delim, but no host has one, and it is what two joined Host lines look like.
		if alnum || inText(b, "-._~!$&'()*+;=") {
			t[c] |= inRegName
		}
		if isDigit(b) || lower(b) >= 'a' && lower(b) <= 'f' {
			t[c] |= isHex
		}
	}
	t['_'] |= isUnderscore
	return t
}

func inText(b byte, text string) bool {
	for i := 0; i < len(text); i++ {
		if text[i] == b {
			return true
		}
	}
	return false
}

func isDigit(b byte) bool { return b-'0' <= 9 }

// lower is only for comparing with letters, digits and '-': it moves bytes that are not letters
// too, but onto those only controls.
func lower(b byte) byte { return b | 0x20 }

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

// equalFold compares in ASCII only: bytes.EqualFold takes 'ſ' for 's' and 'K' (Kelvin) for 'k'.
// text is lower-case letters, digits and '-'; b has no control but HTAB.
func equalFold(b []byte, text string) bool {
	if len(b) != len(text) {
		return false
	}
	for i := range b {
		if lower(b[i]) != text[i] {
			return false
		}
	}
	return true
}

// trim cuts optional whitespace from both ends. RFC 9110 §5.6.3: OWS = *( SP / HTAB ).
func trim(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func hexDigit(b byte) byte {
	if isDigit(b) {
		return b - '0'
	}
	return lower(b) - 'a' + 10
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// below marks the bytes of x that are less than n (n <= 0x80). Only the lowest mark is exact:
// a borrow may mark bytes above it.
func below(x, n uint64) uint64 { return (x - n*ones) & ^x & highs }

// skipValue returns the first index from i on that does not hold a byte of a field value. Eight
// bytes at a time: user agents and cookies are most of a head.
func skipValue(b []byte, i int) int {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		m := below(x, ' ') | below(x^0x7f*ones, 1)
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) >> 3
		if b[i] != '\t' {
			return i
		}
		i++
	}
	for i < len(b) && class[b[i]]&inValue != 0 {
		i++
	}
	return i
}

// skipTarget returns the first index from i on that does not hold a byte of a request target.
func skipTarget(b []byte, i int) int {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		m := below(x, '!') | below(x^0x7f*ones, 1) | below(x^'#'*ones, 1) | x&highs
		if m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for i < len(b) && class[b[i]]&inTarget != 0 {
		i++
	}
	return i
}
