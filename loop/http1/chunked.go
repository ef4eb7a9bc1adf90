package http1

import "math"

// Chunked decodes one chunked body incrementally; the zero value is ready. It is owned by the
// client's loop.
//
// RFC 9112 §7.1:
//
//	chunked-body = *chunk last-chunk trailer-section CRLF
//	chunk        = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
//	last-chunk   = 1*("0") [ chunk-ext ] CRLF
type Chunked struct {
	err      *Error
	size     uint64 // of the current chunk; while its data arrives: what is left
	decoded  int64  // data bytes so far
	overhead int64  // framing bytes so far
	line     int32  // bytes of the current size line or of the trailer section
	state    chunkState
	digits   uint8
}

type chunkState uint8

const (
	inSize chunkState = iota
	atExtension
	atExtName
	inExtName
	afterExtName
	atExtValue
	inExtToken
	inExtQuoted
	inExtEscape
	afterExtQuoted
	atSizeLF
	inData
	atDataCR
	atDataLF
	atTrailerLine
	inTrailerName
	inTrailerValue
	atTrailerLF
	atLastLF
	chunksDone
	chunksRefused
)

// Next takes n bytes of src; data, which aliases src, are the body bytes among them, possibly none.
// done says that the body and its trailer section are complete: the bytes after src[:n] belong to
// the next request. Until then the caller loops while src has bytes left. Trailers are judged,
// bounded and dropped: RFC 9110 §6.5.1 forbids merging them where they could be taken for fields.
func (d *Chunked) Next(src []byte, lim *Limits) (n int, data []byte, done bool, err *Error) {
	if d.state >= chunksDone {
		return 0, nil, d.state == chunksDone, d.err
	}
	for n < len(src) {
		switch {
		case d.state == inData:
			take := len(src) - n
			if uint64(take) >= d.size {
				take = int(d.size)
				d.state = atDataCR
			}
			d.size -= uint64(take)
			d.decoded += int64(take)
			return n + take, src[n : n+take], false, nil
		case d.state == inTrailerValue:
			n, err = d.trailerValue(src, n, lim)
		case d.state >= atTrailerLine:
			n, err = d.trailer(src, n, lim)
		default:
			n, err = d.frame(src, n, lim)
		}
		if err != nil {
			d.state, d.err = chunksRefused, err
			return n, nil, false, err
		}
		if d.state == chunksDone {
			return n, nil, true, nil
		}
	}
	return n, nil, false, nil
}

// frame takes one byte of a size line or of the CRLF after chunk data.
func (d *Chunked) frame(src []byte, n int, lim *Limits) (int, *Error) {
	c := src[n]
	d.overhead++
	if d.overhead-d.decoded > lim.ChunkOverheadBytesMax {
		return n, errChunkOverhead
	}
	var err *Error
	switch d.state {
	case inSize:
		err = d.sizeByte(c)
	case atSizeLF:
		if c != '\n' {
			return n, errBareCR
		}
		return n + 1, d.beginData(lim)
	case atDataCR:
		// CVE-2025-43859: two bytes that are taken for CRLF without a look move the next chunk.
		if c != '\r' {
			return n, errChunkEnd
		}
		d.state = atDataLF
		return n + 1, nil
	case atDataLF:
		if c != '\n' {
			return n, errChunkEnd
		}
		d.state = inSize
		return n + 1, nil
	default:
		err = d.extensionByte(c)
	}
	if err != nil {
		return n, err
	}
	if d.state != atSizeLF {
		d.line++
		if int(d.line) > lim.ChunkLineBytesMax {
			return n, errChunkLine
		}
	}
	return n + 1, nil
}

// sizeByte takes a byte of chunk-size = 1*HEXDIG, or what ends it.
func (d *Chunked) sizeByte(c byte) *Error {
	if class[c]&isHex != 0 {
		if d.digits == chunkSizeDigitsMax {
			return errChunkSize
		}
		d.digits++
		d.size = d.size<<4 | uint64(hexDigit(c))
		return nil
	}
	if d.digits == 0 {
		return errChunkSize
	}
	switch c {
	case '\r':
		d.state = atSizeLF
	case ';':
		d.state = atExtName
	case ' ', '\t':
		d.state = atExtension
	default:
		return errChunkSize
	}
	return nil
}

// extensionByte takes a byte of chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS
// chunk-ext-val ] ). RFC 9112 §7.1.1: a recipient MUST ignore unrecognized extensions. Ignored
// means read by the grammar: a byte that may not be there is how two readers lose each other
// (CVE-2025-55315).
func (d *Chunked) extensionByte(c byte) *Error {
	token, blank := class[c]&inToken != 0, isBlank(c)
	s := d.state
	switch {
	case s == inExtQuoted && class[c]&inQuoted != 0:
	case s == inExtQuoted && c == '\\':
		d.state = inExtEscape
	case s == inExtQuoted && c == '"':
		d.state = afterExtQuoted
	case s == inExtEscape && class[c]&inValue != 0:
		d.state = inExtQuoted
	case blank && s == inExtName:
		d.state = afterExtName
	case blank && (s == inExtToken || s == afterExtQuoted):
		d.state = atExtension
	case blank:
	case token && (s == atExtName || s == inExtName):
		d.state = inExtName
	case token && (s == atExtValue || s == inExtToken):
		d.state = inExtToken
	case c == '"' && s == atExtValue:
		d.state = inExtQuoted
	case c == '=' && (s == inExtName || s == afterExtName):
		d.state = atExtValue
	case c == ';' && s != atExtName && s != atExtValue:
		d.state = atExtName
	case c == '\r' && (s == inExtName || s == inExtToken || s == afterExtQuoted):
		d.state = atSizeLF
	default:
		return errChunkExt
	}
	return nil
}

// beginData acts on a complete size line. A body limit answers here, before the data comes.
func (d *Chunked) beginData(lim *Limits) *Error {
	room := uint64(math.MaxInt64 - d.decoded)
	if lim.BodyBytesMax > 0 {
		room = uint64(lim.BodyBytesMax - d.decoded)
	}
	if d.size > room {
		return errBodyLong
	}
	d.state = inData
	if d.size == 0 {
		d.state = atTrailerLine
	}
	d.line, d.digits = 0, 0
	return nil
}

// trailer takes one byte of the trailer section, which has the grammar of field lines.
func (d *Chunked) trailer(src []byte, n int, lim *Limits) (int, *Error) {
	c := src[n]
	token := class[c]&inToken != 0
	switch s := d.state; {
	case s == atTrailerLine && c == '\r':
		d.state = atLastLF
		return n + 1, nil
	case s == atLastLF && c == '\n':
		d.state = chunksDone
		return n + 1, nil
	case s == atTrailerLine && isBlank(c):
		return n, errFold
	case token && (s == atTrailerLine || s == inTrailerName):
		d.state = inTrailerName
	case c == ':' && s == inTrailerName:
		d.state = inTrailerValue
	case c == '\n' && s == atTrailerLF:
		d.state = atTrailerLine
	case s == atLastLF || s == atTrailerLF:
		return n, errBareCR
	default:
		return n, errName
	}
	return n + 1, d.trailerBytes(1, lim)
}

// trailerValue takes what src holds of a trailer's value and its CR.
func (d *Chunked) trailerValue(src []byte, n int, lim *Limits) (int, *Error) {
	// One byte more than the limit is enough to cross it.
	room := max(lim.TrailerBytesMax-int(d.line), 0) + 1
	end := skipValue(src[:min(len(src), n+room)], n)
	if err := d.trailerBytes(end-n, lim); err != nil || end == len(src) {
		return end, err
	}
	if src[end] != '\r' {
		return end, errValue
	}
	d.state = atTrailerLF
	return end + 1, d.trailerBytes(1, lim)
}

func (d *Chunked) trailerBytes(n int, lim *Limits) *Error {
	d.line += int32(n)
	if int(d.line) > lim.TrailerBytesMax {
		return errTrailerLong
	}
	return nil
}
