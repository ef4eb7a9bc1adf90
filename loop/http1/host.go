package http1

import "bytes"

// validAuthority judges the value of Host and the authority of an absolute-form target.
//
// RFC 9110 §7.2: Host = uri-host [ ":" port ]; RFC 3986 §3.2.2: host = IP-literal / IPv4address /
// reg-name. An empty host, userinfo, a ',', an IPvFuture literal and a name that DNS could not hold
// are refused as well: no client has a use for them, and the next reader of the value may take them
// for something else.
func validAuthority(b []byte) bool {
	if len(b) == 0 || len(b) > authorityBytesMax {
		return false
	}
	if b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		return end > 0 && validIPv6(b[1:end]) && validPort(b[end+1:])
	}
	i := 0
	for i < len(b) && b[i] != ':' {
		switch {
		case class[b[i]]&inRegName != 0:
			i++
		case b[i] == '%' && i+2 < len(b) && class[b[i+1]]&class[b[i+2]]&isHex != 0:
			i += 3
		default:
			return false
		}
	}
	return i > 0 && validPort(b[i:])
}

// validPort judges what follows the host: nothing, or ':' and a port. RFC 3986 §3.2.3: port =
// *DIGIT, so an empty one is legal.
func validPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if b[0] != ':' {
		return false
	}
	port := 0
	for _, c := range b[1:] {
		if !isDigit(c) {
			return false
		}
		port = port*10 + int(c-'0')
		if port > portMax {
			return false
		}
	}
	return true
}

// validIPv6 judges what stands between the brackets. RFC 3986 §3.2.2: eight groups of one to four
// hexadecimal digits, one run of zero groups written as "::", the last two groups as IPv4 or not.
func validIPv6(b []byte) bool {
	groups, i := 0, 0
	elided := false
	if bytes.HasPrefix(b, doubleColon) {
		elided, i = true, 2
	}
	for i < len(b) {
		end := i
		for end < len(b) && class[b[end]]&isHex != 0 {
			end++
		}
		if end < len(b) && b[end] == '.' {
			if !validIPv4(b[i:]) {
				return false
			}
			groups += 2
			break
		}
		if end == i || end-i > 4 {
			return false
		}
		groups++
		i = end
		if i == len(b) {
			break
		}
		if b[i] != ':' || i+1 == len(b) {
			return false
		}
		i++
		if b[i] == ':' {
			if elided {
				return false
			}
			elided = true
			i++
		}
	}
	// RFC 3986 lets "::" stand for one group or more.
	return groups == 8 && !elided || groups <= 7 && elided
}

// validIPv4 judges dotted decimal. RFC 3986 §3.2.2: dec-octet is 0 to 255 without leading zeros.
func validIPv4(b []byte) bool {
	for octet := 1; octet <= 4; octet++ {
		n, digits := 0, 0
		for len(b) > 0 && isDigit(b[0]) {
			n = n*10 + int(b[0]-'0')
			digits++
			if n > 255 || digits > 1 && n < 10 {
				return false
			}
			b = b[1:]
		}
		if digits == 0 {
			return false
		}
		if octet < 4 {
			if len(b) == 0 || b[0] != '.' {
				return false
			}
			b = b[1:]
		}
	}
	return len(b) == 0
}

// doubleColon is never written to.
var doubleColon = []byte("::")
