// Package http1 is the strict request side of HTTP/1.1: it decides which bytes are a request, and
// it does no I/O. wildcat splits a head in place, but alone it panics, lets one header swallow the
// next and re-reads from the start on every call; so it is called once, on a head that the guard
// has accepted byte by byte, and what it returns must agree with what the guard saw.
//
// A client owns one Guard and one Chunked; a loop owns one Parser. The path of one request is
//
//	Guard.Scan     new bytes, until a complete accepted head, or a refusal the moment it is certain
//	Parser.Parse   wildcat, agreement, target, Host, framing
//	Chunked.Next   body bytes out of a chunked body (a Content-Length body needs no help)
//	AppendError    the one answer to a refusal
//
// After a refusal nothing more from that client may be parsed: framing is lost, and what follows
// may be bytes that somebody else chose (CVE-2024-49768). Guard and Chunked enforce it: they go on
// returning the same refusal.
//
// Where the RFCs leave a choice, the strict one is taken: CRLF only, no folds, at most one empty
// line before a request, each of Host, Content-Length, Transfer-Encoding, Content-Type and Expect
// once, targets in printable ASCII, no %00 and no broken escape in a path. Lenient on purpose: the
// raw |^`{}[]"<>\ that browsers send in targets, any method that is a token, a body on any method,
// leading zeros in a length, an empty port, an https target on a plain port. Nothing is normalised:
// dot segments, // and %2F are the app's.
//
// Invariant: a verdict depends on the bytes, never on how they were cut into reads
// (TestEverySplit, FuzzHead, FuzzChunked).
//
// Invariant: nothing is allocated for a request, accepted or refused (TestAllocations).
package http1
