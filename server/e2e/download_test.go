package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Answers that are files, slow streams, or read slowly; apps/downloads.py makes them.

const (
	downloadBytes = 5_000_000
	// How much later than the app made it a block may be at the client. The aim is met by the
	// median; four in five have streamLagMax, and no block waits for the next one: the rest is
	// for a machine that others load too.
	streamLagAim    = 20 * time.Millisecond
	streamLagMax    = 60 * time.Millisecond
	streamGap       = 200 * time.Millisecond
	streamRunsMax   = 3 // a server that delays blocks does so in each
	slowReaders     = 200
	slowReadersFull = 1000
	slowBlocks      = 160 // of 64 KiB: 10 MiB
	// slowReadersAtOnce is how many come together: fewer than the queue holds.
	slowReadersAtOnce = 50
	besideMax         = 500 * time.Millisecond
)

// startDownloads serves apps/downloads.py over a file of random bytes, which it returns.
func startDownloads(t *testing.T, python interpreter, args ...string) (*server, []byte) {
	t.Helper()
	data := make([]byte, downloadBytes)
	seed := rand.NewChaCha8([32]byte{1})
	_, _ = seed.Read(data)
	path := filepath.Join(t.TempDir(), "download")
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = w.Write(data)
	_ = w.Close()
	for name, content := range map[string][]byte{path: data, path + ".gz": packed.Bytes()} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := startCommand(t, command{python: python, env: []string{"DOWNLOAD_FILE=" + path},
		args: append([]string{"downloads:app", "--chdir", absolute(appsDir), "-w", "1"},
			args...)})
	return s, data
}

// PEP 3333, "Optional Platform-Specific File Handling": from the file's position, at most
// Content-Length, and anything that is no plain file by reading it.
func TestDownloads(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s, data := startDownloads(t, python)
		block := []byte(strings.Repeat(string(allBytes()), 256))
		for _, c := range []struct {
			path string
			want []byte
			cut  bool
		}{
			{"/file/0", data, false},
			{"/file/12345", data[12345:], false},
			{"/file/0?100000", data[:100_000], false},
			{"/file/4999999", data[4_999_999:], false},
			{"/file/5000000", nil, false},
			{"/file/12345?0", nil, false},
			{"/file/12345?4987655", data[12345:], false},
			{"/file/12345?4987656", data[12345:], true},
			{"/gzip", data, false},
			{"/gzip/0?70000", data[:70_000], false},
			{"/bytesio", block, false},
			{"/pipe", block[:40_000], false},
		} {
			w := dial(t, s.url()).send(get(c.path))
			a := w.want(200)
			if !bytes.Equal(a.body, c.want) || a.whole == c.cut {
				t.Errorf("%s: got %d bytes, whole=%v; want %d, whole=%v, or got others", c.path,
					len(a.body), a.whole, len(c.want), !c.cut)
			}
			if c.cut {
				w.wantClosed()
				continue
			}
			if a = w.send(get("/bytesio")).want(200); !bytes.Equal(a.body, block) {
				t.Errorf("after %s: got %d bytes, want %d", c.path, len(a.body), len(block))
			}
		}
		dial(t, s.url()).send(get("/text")).want(500)
	})
}

func allBytes() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

// HEAD has the length and no byte of the file; HTTP/1.0 has the file and then the end.
func TestDownloadVersions(t *testing.T) {
	s, data := startDownloads(t, anyPython())
	w := dial(t, s.url())
	for _, target := range []string{"/file/0", "/file/0?100", "/gzip"} {
		a := w.send("HEAD " + target + " HTTP/1.1\r\nHost: a\r\n\r\n").next(true)
		wantEqual(t, "status", a.status, 200)
		length := map[string]string{"/file/0": strconv.Itoa(len(data)), "/file/0?100": "100"}
		wantEqual(t, "Content-Length of HEAD "+target, a.get("Content-Length"), length[target])
	}
	a := w.send(get("/file/0")).want(200)
	wantEqual(t, "Content-Length", a.get("Content-Length"), strconv.Itoa(len(data)))
	for _, target := range []string{"/file/0", "/gzip"} {
		w = dial(t, s.url()).send("GET " + target + " HTTP/1.0\r\n\r\n")
		a = w.want(200)
		wantEqual(t, "Transfer-Encoding", a.get("Transfer-Encoding"), "")
		if !bytes.Equal(a.body, data) {
			t.Errorf("HTTP/1.0 %s: got %d bytes, or others, want %d", target, len(a.body),
				len(data))
		}
		w.wantClosed()
	}
}

// What a file holds never passes through Python: the worker reads next to nothing.
func TestSendfile(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s, data := startDownloads(t, python)
		w := dial(t, s.url())
		w.send(get("/file/0")).want(200) // its imports are read
		before := readChars(t, s.workers()[0])
		const downloads = 4
		for range downloads {
			a := w.send(get("/file/100")).want(200)
			if !bytes.Equal(a.body, data[100:]) {
				t.Fatalf("file: got %d bytes, or others", len(a.body))
			}
		}
		read := readChars(t, s.workers()[0]) - before
		if most := int64(downloads * 128 << 10); read > most {
			t.Errorf("the worker read %d bytes for %d files of %d; want at most %d", read,
				downloads, len(data), most)
		}
	})
}

// readChars is how many bytes a process has read by system calls.
func readChars(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Skip(err)
	}
	number, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil || !strings.HasPrefix(string(text), "rchar:") {
		t.Fatalf("/proc/PID/io: got %q, %v", text, err)
	}
	return number
}

// PEP 3333, "Buffering and Streaming": no block is delayed. Each line holds the time at which the
// app made it, so that what the app's own sleep takes too long does not count.
func TestStreamGaps(t *testing.T) {
	s, _ := startDownloads(t, anyPython())
	for _, path := range []string{"/timed/10", "/written/10"} {
		t.Run(path[1:], func(t *testing.T) {
			var lags []time.Duration
			for range streamRunsMax {
				lags = s.streamLags(t, path)
				t.Logf("lags: median %v, most %v", lags[5], lags[9])
				if lags[5] <= streamLagAim && lags[7] <= streamLagMax && lags[9] < streamGap {
					return
				}
			}
			t.Errorf("lags: got %v, want at most %v and %v", lags, streamLagAim, streamLagMax)
		})
	}
}

// streamLags is how late each of ten blocks is, the quickest first.
func (s *server) streamLags(t *testing.T, path string) (lags []time.Duration) {
	t.Helper()
	w := dial(t, s.url()).send(get(path))
	defer w.Close()
	for len(lags) < 10 {
		line, err := w.r.ReadString('\n')
		if err != nil {
			t.Fatalf("line %d: %v", len(lags), err)
		}
		stamp, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err == nil && stamp > 1e15 {
			lags = append(lags, time.Since(time.Unix(0, stamp)))
		}
	}
	slices.Sort(lags)
	return lags
}

// downloadCounts is what /counts of downloads.py tells.
type downloadCounts struct{ Begun, Finished, Closed, Blocks int }

func (s *server) downloadCounts(t *testing.T) downloadCounts {
	t.Helper()
	var c downloadCounts
	w := dial(t, s.url())
	defer w.Close() // it is asked for often
	a := w.send(get("/counts")).want(200)
	if err := json.Unmarshal(a.body, &c); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
	return c
}

// Clients that read nothing hold no thread: with four threads every generator comes to its end,
// other requests are answered at once, and each of the slow ones still gets all its bytes.
func TestSlowReaders(t *testing.T) {
	readers := slowReaders
	if os.Getenv("GOPHERSNAKE_FAULT") != "" {
		readers = slowReadersFull
	}
	s, _ := startDownloads(t, anyPython(), "--max-spool", "12GiB", "--threads", "4")
	var open []*wire
	for len(open) < readers {
		for range slowReadersAtOnce {
			conn, err := dialFar(s.address())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			w := &wire{t, conn, bufio.NewReader(conn)}
			open = append(open, w.send(get(fmt.Sprintf("/big/%d", slowBlocks))))
		}
		eventually(t, answerMax, "every generator at its end", func() bool {
			return s.downloadCounts(t).Closed == len(open)
		})
	}
	wantEqual(t, "finished", s.downloadCounts(t).Finished, readers)
	took := make([]time.Duration, 50)
	for i := range took {
		began := time.Now()
		dial(t, s.url()).send(get("/bytesio")).want(200)
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	if got := took[len(took)/2]; got > besideMax {
		t.Errorf("requests beside %d slow readers: got a median of %v, want at most %v", readers,
			got, besideMax)
	}
	for _, w := range open[:10] {
		_ = w.SetDeadline(time.Now().Add(answerMax))
		if a := w.want(200); !a.whole || len(a.body) != slowBlocks<<16 {
			t.Errorf("slow reader: got %d bytes, whole=%v; want %d", len(a.body), a.whole,
				slowBlocks<<16)
		}
	}
}

// A client that has gone stops an endless stream at its next block; close() runs once.
func TestVanishedClient(t *testing.T) {
	s, _ := startDownloads(t, anyPython(), "--threads", "2")
	const clients = 8
	for i := range clients {
		w := dial(t, s.url()).send(get("/big/0"))
		if _, err := w.r.Peek(4096); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			_ = w.Conn.(*net.TCPConn).SetLinger(0) // a reset
		}
		w.Close()
		eventually(t, answerMax, "close()", func() bool {
			return s.downloadCounts(t).Closed == i+1
		})
	}
	before := s.downloadCounts(t)
	wantEqual(t, "counts", before, downloadCounts{clients, 0, clients, before.Blocks})
	wantEqual(t, "counts later", s.downloadCounts(t), before)
}
