package http1

import (
	"fmt"
	"strings"
	"testing"
)

// browserHead is what a current browser sends for a page, cookies of two sites included.
const browserHead = "GET /articles/2024/03/some-title?utm_source=feed&page=2 HTTP/1.1\r\n" +
	"Host: www.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:124.0) Gecko/20100101 Firefox/124.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: sessionid=9f86d081884c7d659a2feaa0c55ad015; csrftoken=3bf1114a986ba87e\r\n" +
	"Upgrade-Insecure-Requests: 1\r\n" +
	"Sec-Fetch-Dest: document\r\n" +
	"Sec-Fetch-Mode: navigate\r\n\r\n"

const wrkHead = "GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n"

func bigHead() string {
	var b strings.Builder
	b.WriteString("GET / HTTP/1.1\r\nHost: www.example.com\r\n")
	for i := range 30 {
		fmt.Fprintf(&b, "X-Forwarded-Thing-%d: %s\r\n", i, strings.Repeat("value, ", 34))
	}
	b.WriteString("\r\n")
	return b.String()
}

func BenchmarkScan(b *testing.B) {
	for name, text := range benchHeads() {
		b.Run(name, func(b *testing.B) {
			head, lim := []byte(text), DefaultLimits()
			b.ReportAllocs()
			for b.Loop() {
				var g Guard
				if _, err := g.Scan(head, &lim); err != nil {
					b.Fatal(err)
				}
			}
			perByte(b, len(head))
		})
	}
}

func BenchmarkScanAndParse(b *testing.B) {
	for name, text := range benchHeads() {
		b.Run(name, func(b *testing.B) {
			head, lim := []byte(text), DefaultLimits()
			p := NewParser(lim)
			b.ReportAllocs()
			for b.Loop() {
				var g Guard
				n, err := g.Scan(head, &lim)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := p.Parse(head[:n], &g); err != nil {
					b.Fatal(err)
				}
			}
			perByte(b, len(head))
		})
	}
}

// BenchmarkTrickle must cost the same per byte as one read does, give or take a call.
func BenchmarkTrickle(b *testing.B) {
	head, lim := []byte(bigHead()), DefaultLimits()
	for b.Loop() {
		var g Guard
		for i := 1; i <= len(head); i++ {
			if _, err := g.Scan(head[:i], &lim); err != nil {
				b.Fatal(err)
			}
		}
	}
	perByte(b, len(head))
}

func BenchmarkChunked(b *testing.B) {
	lim := DefaultLimits()
	for _, size := range []int{10, 100, 4096} {
		chunk := fmt.Sprintf("%x\r\n%s\r\n", size, strings.Repeat("d", size))
		body := []byte(strings.Repeat(chunk, 1+40960/size) + "0\r\n\r\n")
		b.Run(fmt.Sprintf("chunks of %d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var d Chunked
				for rest, done := body, false; !done; {
					n, _, end, err := d.Next(rest, &lim)
					if err != nil {
						b.Fatal(err)
					}
					rest, done = rest[n:], end
				}
			}
			perByte(b, len(body))
		})
	}
}

func benchHeads() map[string]string {
	return map[string]string{
		fmt.Sprintf("wrk-%d", len(wrkHead)):         wrkHead,
		fmt.Sprintf("browser-%d", len(browserHead)): browserHead,
		fmt.Sprintf("big-%d", len(bigHead())):       bigHead(),
	}
}

func perByte(b *testing.B, bytes int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(bytes), "ns/byte")
}
