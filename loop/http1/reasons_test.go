package http1

import "testing"

// TestReasons: the log names what was wrong, so each refusal must come for its own reason. Statuses
// alone would not tell.
func TestReasons(t *testing.T) {
	for _, c := range []struct {
		want *Error
		in   string
	}{
		{errTLS, "\x16\x03\x01"},
		{errTLS, "\r\n\x16\x03\x01"},
		{errLeadingEmpty, "\r\n\r\n"},
		{errBareCR, "\rX"},
		{errMethod, "\nGET"},
		{errMethod, " GET"},
		{errMethod, "G\x16"},
		{errMethod, "GET\r\n"},
		{errMethodLong, rep("A", 33)},
		{errTargetByte, "GET /\x00"},
		{errTargetByte, "GET \r\n"},
		{errTargetEmpty, "GET  /"},
		{errVersion, "GET / HTTQ"},
		{errVersion, "GET / HTTP/x.1\r\n"},
		{errVersion, "GET / HTTP/1.x\r\n"},
		{errVersion, "GET / HTTP/1.1\rX"},
		{errVersionUnknown, line("GET / HTTP/2.0")},
		{errRequestLineLong, "GET /" + rep("a", 9000)},
		{errConnect, line("CONNECT a:443 HTTP/1.1")},
		{errTargetForm, line("GET a HTTP/1.1")},
		{errTargetForm, line("GET * HTTP/1.1")},
		{errTargetForm, line("OPTIONS a HTTP/1.1")},
		{errTargetScheme, line("GET ftp://a/ HTTP/1.1")},
		{errTargetHost, line("GET http:///a HTTP/1.1")},
		{errEscape, line("GET /%0 HTTP/1.1")},
		{errHeadLong, get + rep("a", 40000)},
		{errHeaderCount, get + numbered(100)},
		{errFold, get + " x"},
		{errFold, get + "\tx"},
		{errName, get + "@"},
		{errName, get + "x y:"},
		{errNameEmpty, get + ":"},
		{errValue, get + "x:\x00"},
		{errValue, get + "x:y\n"},
		{errBareCR, get + "x:y\rz"},
		{errBareCR, get + "\rz"},
		{errHostMissing, "GET / HTTP/1.1\r\n\r\n"},
		{errHostTwice, get + "Host: a\r\n"},
		{errHost, host(" a b")},
		{errLengthTwice, post + "Content-Length: 5\r\nContent-Length: x\r\n"},
		{errLength, length(" x")},
		{errBodyLong, length(" 999999999999")},
		{errLengthAndTE, post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{errLengthAndTE, post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"},
		{errTETwice, post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"},
		{errTE, coding(" chunked,")},
		{errTEUnknown, coding(" x")},
		{errTEVersion, "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n"},
		{errTypeTwice, get + "Content-Type: a\r\nContent-Type: a\r\n"},
		{errExpectUnknown, get + "Expect: x\r\n"},
		{errChunkSize, chunks("x")},
		{errChunkSize, chunks("\r")},
		{errChunkSize, chunks("1x")},
		{errChunkSize, chunks(rep("0", 17))},
		{errChunkExt, chunks("1;@")},
		{errChunkExt, chunks("1 x")},
		{errChunkEnd, chunks("1\r\nAB")},
		{errChunkEnd, chunks("1\r\nA\rB")},
		{errBareCR, chunks("1\rA")},
		{errBareCR, chunks("0\r\n\rA")},
		{errBareCR, chunks("0\r\nA:b\rC")},
		{errFold, chunks("0\r\nA:b\r\n c")},
		{errName, chunks("0\r\n@")},
		{errName, chunks("0\r\nA :")},
		{errBareCR, chunks("0\r\nA:b\r ")},
		{errName, chunks("0\r\nA\r\n")},
		{errValue, chunks("0\r\nA:\x00")},
		{errChunkLine, chunks("1;" + rep("a", 9000))},
		{errChunkOverhead, chunks(rep("1;"+rep("a", 3000)+"\r\nA\r\n", 50))},
		{errTrailerLong, chunks("0\r\nA:" + rep("a", 9000))},
	} {
		s := play(DefaultLimits(), []byte(c.in))
		if s.err != c.want {
			t.Errorf("got %v, want %v\ninput %.200q", s.err, c.want, c.in)
		}
		if s.err != nil && s.err.Error() != "http1: "+c.want.Reason {
			t.Errorf("got %q", s.err.Error())
		}
	}
}
