package http1

import "strconv"

// RetrySeconds is when the client of a 503 should come again, unless more is known: most shortages
// are over in a moment.
const RetrySeconds = 1

// AppendError appends a whole error response that closes the connection; date is an IMF-fixdate,
// retry the seconds that a 503 names in Retry-After (RFC 9110 §10.2.3).
// Nothing of the request is in it: what came from the wire must not come back as markup or as a
// second response.
func AppendError(dst []byte, status int, date []byte, retry int) []byte {
	text := StatusText(status)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, text...)
	dst = append(dst, "\r\nServer: gophersnake\r\nDate: "...)
	dst = append(dst, date...)
	dst = append(dst, "\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len("999 \n")+len(text)), 10)
	dst = append(dst, "\r\nCache-Control: no-store\r\nConnection: close\r\n"...)
	if status == 503 {
		dst = append(dst, "Retry-After: "...)
		dst = strconv.AppendInt(dst, int64(retry), 10)
		dst = append(dst, "\r\n"...)
	}
	dst = append(dst, "\r\n"...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// StatusText is the reason phrase of a status the server itself answers with, or "Error".
func StatusText(status int) string {
	switch status {
	case 200:
		return "OK"
	case 204:
		return "No Content"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 417:
		return "Expectation Failed"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	case 507:
		return "Insufficient Storage"
	}
	return "Error"
}
