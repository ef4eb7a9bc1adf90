package http1

// Error is a refusal: what the client is told and what the log is told. All values are declared
// here and never written to, so a refusal allocates nothing and is comparable by pointer. Reason
// and Limit hold no byte of the request.
type Error struct {
	Status int    // for the client
	Reason string // for the log only
	Limit  string // the flag of the limit that was crossed, or ""
}

func (e *Error) Error() string { return "http1: " + e.Reason }

// ErrDisagreement says that the guard and wildcat read one head differently. It is a defect of
// ours, never the client's: worth a counter that stays at zero.
var ErrDisagreement = &Error{400, "guard and parser disagree", ""}

// Request line.
var (
	errTLS             = &Error{400, "TLS handshake on a plain port", ""}
	errLeadingEmpty    = &Error{400, "more than one empty line before the request line", ""}
	errMethod          = &Error{400, "bad byte in method", ""}
	errMethodLong      = &Error{501, "method longer than any known", ""}
	errTargetByte      = &Error{400, "bad byte in request target", ""}
	errTargetEmpty     = &Error{400, "empty request target", ""}
	errVersion         = &Error{400, "malformed HTTP version", ""}
	errVersionUnknown  = &Error{505, "HTTP version other than 1.0 and 1.1", ""}
	errRequestLineLong = &Error{414, "request line too long", "max-request-line"}
)

// Request target.
var (
	errConnect      = &Error{501, "CONNECT", ""}
	errTargetForm   = &Error{400, "request target of no known form", ""}
	errTargetScheme = &Error{400, "absolute-form with a foreign scheme", ""}
	errTargetHost   = &Error{400, "absolute-form with a bad authority", ""}
	errEscape       = &Error{400, "bad percent-escape in path", ""}
)

// Field lines.
var (
	errHeadLong    = &Error{431, "head too long", "max-header-bytes"}
	errHeaderCount = &Error{431, "too many field lines", "max-headers"}
	errFold        = &Error{400, "folded field line", ""}
	errName        = &Error{400, "bad byte in field name", ""}
	errNameEmpty   = &Error{400, "empty field name", ""}
	errValue       = &Error{400, "bad byte in field value", ""}
	errBareCR      = &Error{400, "CR without LF", ""}
)

// Fields with a meaning for the server.
var (
	errHostMissing   = &Error{400, "HTTP/1.1 without Host", ""}
	errHostTwice     = &Error{400, "Host twice", ""}
	errHost          = &Error{400, "bad Host", ""}
	errLengthTwice   = &Error{400, "Content-Length twice", ""}
	errLength        = &Error{400, "bad Content-Length", ""}
	errBodyLong      = &Error{413, "body too long", "max-body"}
	errLengthAndTE   = &Error{400, "Content-Length and Transfer-Encoding", ""}
	errTETwice       = &Error{400, "Transfer-Encoding twice", ""}
	errTE            = &Error{400, "bad Transfer-Encoding", ""}
	errTEUnknown     = &Error{501, "transfer coding other than chunked", ""}
	errTEVersion     = &Error{400, "Transfer-Encoding in HTTP/1.0", ""}
	errTypeTwice     = &Error{400, "Content-Type twice", ""}
	errExpectUnknown = &Error{417, "expectation other than 100-continue", ""}
)

// Chunked body.
var (
	errChunkSize     = &Error{400, "bad chunk size", ""}
	errChunkExt      = &Error{400, "bad chunk extension", ""}
	errChunkEnd      = &Error{400, "chunk data without its CRLF", ""}
	errChunkLine     = &Error{400, "chunk-size line too long", "max-chunk-overhead"}
	errChunkOverhead = &Error{400, "chunk framing out of proportion", "max-chunk-overhead"}
	errTrailerLong   = &Error{431, "trailer section too long", "max-header-bytes"}
)
