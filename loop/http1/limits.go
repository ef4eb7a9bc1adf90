package http1

// Limits bounds one request; every field has its unit in its name. A limit answers when it is
// crossed, not when the message ends.
type Limits struct {
	// RequestLineBytesMax bounds the request line without its CRLF; longer is 414. RFC 9110 §4.1
	// asks for at least 8000.
	RequestLineBytesMax int

	// HeadBytesMax bounds everything Scan sees: a leading CRLF, request line, fields and the empty
	// line. Longer is 431. At most 1 GiB: offsets are kept in 32 bits.
	HeadBytesMax int

	// HeaderCountMax bounds the field lines of the head; more is 431.
	HeaderCountMax int

	// BodyBytesMax bounds the decoded body; more is 413. 0 is no limit.
	BodyBytesMax int64

	// TrailerBytesMax bounds the trailer section of a chunked body without its last CRLF; more is
	// 431.
	TrailerBytesMax int

	// ChunkLineBytesMax bounds one chunk-size line with its extensions, without its CRLF; longer
	// is 400 (RFC 9112 §7.1.1: a recipient ought to limit the extensions it takes).
	ChunkLineBytesMax int

	// ChunkOverheadBytesMax bounds what the framing of a chunked body may cost beyond one byte for
	// each byte of data; more is 400. Without it a client makes the loop read any number of bytes
	// for a body that never grows (CVE-2023-39326). Ten-byte chunks never reach it.
	ChunkOverheadBytesMax int64
}

// DefaultLimits are the limits of a server started without a flag.
func DefaultLimits() Limits {
	return Limits{
		RequestLineBytesMax:   8 << 10,
		HeadBytesMax:          32 << 10,
		HeaderCountMax:        100,
		BodyBytesMax:          100 << 20,
		TrailerBytesMax:       8 << 10,
		ChunkLineBytesMax:     4 << 10,
		ChunkOverheadBytesMax: 128 << 10,
	}
}

const (
	// methodBytesMax is longer than every registered method (the longest has 17 bytes).
	methodBytesMax = 32

	// RFC 9110 §8.6 has no bound for Content-Length; 19 digits hold every int64.
	contentLengthDigitsMax = 19

	// 16 hexadecimal digits hold every uint64; leading zeros count, so that they are bounded too.
	chunkSizeDigitsMax = 16

	// A DNS name has at most 253 bytes (RFC 1035 §2.3.4, as text), a port and its ':' six.
	authorityBytesMax = 253 + 6

	portMax = 65535
)
