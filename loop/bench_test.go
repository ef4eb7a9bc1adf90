package loop

import (
	"bufio"
	"io"
	"strings"
	"testing"
)

// BenchmarkAlone is the reactor answering by itself, a hundred requests in one write: guard, parse,
// answer and a write for each, no lane and no task. It allocates nothing.
func BenchmarkAlone(b *testing.B) {
	const request, batch = "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 100
	g := newRig(b, nil)
	p := g.dial()
	if _, err := io.WriteString(p.TCPConn, request); err != nil {
		b.Fatal(err)
	}
	size := 0
	for reader := bufio.NewReader(p.TCPConn); ; {
		line, err := reader.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		if size += len(line); line == "\r\n" {
			break
		}
	}
	requests, answers := []byte(strings.Repeat(request, batch)), make([]byte, batch*size)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = p.Write(requests)
		if _, err := io.ReadFull(p.TCPConn, answers); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/request")
}
