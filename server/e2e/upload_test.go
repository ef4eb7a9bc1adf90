package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Request bodies of every size, by both framings; pybridge/apps/upload_digest.py reads them.

const (
	inlineBytes      = 16 << 10 // a body that fits stands in the request's own slot
	stepBytes        = 64 << 10 // a larger one takes steps of this in the lane
	bodyMemoryBytes  = 1 << 20  // and one beyond this is a file
	hugeBytes        = 256 << 20
	hugeBytesFull    = 2 << 30
	hugeGrowthMaxKiB = 32 << 10
	hugeMax          = 5 * time.Minute
	smallDiskBytes   = 2 << 20
)

// borderSizes are those around every limit, up to 3 MB.
func borderSizes() []int {
	sizes := []int{1, 2, 1000, 3_000_000}
	for _, border := range []int{inlineBytes, stepBytes, 2 * stepBytes, 15 * stepBytes,
		bodyMemoryBytes, bodyMemoryBytes + stepBytes, 2 * bodyMemoryBytes} {
		sizes = append(sizes, border-1, border, border+1)
	}
	return sizes
}

func startUploads(t *testing.T, python interpreter, args ...string) *server {
	t.Helper()
	return start(t, python, append([]string{"upload_digest:app", "--chdir",
		absolute(fixturesDir), "-w", "1"}, args...)...)
}

func TestUploadSizes(t *testing.T) {
	onEvery(t, func(t *testing.T, python interpreter) {
		s := startUploads(t, python)
		w := dial(t, s.url())
		body := pattern(3_000_000)
		for _, size := range borderSizes() {
			_ = w.SetDeadline(time.Now().Add(answerMax))
			data := body[:size]
			file := "-"
			if size > bodyMemoryBytes {
				file = sha([]byte(data))
			}
			want := fmt.Sprintf("%d %s %s", size, sha([]byte(data)), file)
			a := w.send(request("POST", "/", data)).want(200)
			wantEqual(t, fmt.Sprintf("%d by Content-Length", size), string(a.body), want)
			a = w.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
				chunks(data)).want(200)
			wantEqual(t, fmt.Sprintf("%d by chunks", size), string(a.body), want)
		}
		w.send(get("/")).want(500) // the fixture wants a body; the connection is in step
	})
}

// The size in memory of neither process grows with an upload's: not while it comes, and not
// while the app reads it, by read() or by its descriptor.
func TestHugeUpload(t *testing.T) {
	size := int64(hugeBytes)
	if os.Getenv("GOPHERSNAKE_FAULT") != "" {
		size = hugeBytesFull
	}
	s := startUploads(t, anyPython(), "--max-body", "4GiB")
	w := dial(t, s.url())
	w.send(request("POST", "/", pattern(2<<20))).want(200) // buffers have grown to their size
	pids := []int{s.process.Pid, s.workers()[0]}
	before := []int64{highWater(t, pids[0]), highWater(t, pids[1])}
	_ = w.SetDeadline(time.Now().Add(hugeMax))
	w.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
	piece, whole := []byte(pattern(1<<20)), sha256.New()
	began := time.Now()
	for range size >> 20 {
		if _, err := w.Write(piece); err != nil {
			t.Fatalf("upload: %v", err)
		}
		_, _ = whole.Write(piece)
	}
	digest := hex.EncodeToString(whole.Sum(nil))
	wantEqual(t, "body", string(w.want(200).body), fmt.Sprintf("%d %s %s", size, digest, digest))
	t.Logf("%d MiB in %v", size>>20, time.Since(began).Round(time.Millisecond))
	for i, who := range []string{"server", "worker"} {
		grown := highWater(t, pids[i]) - before[i]
		t.Logf("%s: VmHWM grew by %d KiB from %d", who, grown, before[i])
		if grown > hugeGrowthMaxKiB {
			t.Errorf("%s: VmHWM grew by %d KiB, want at most %d", who, grown, hugeGrowthMaxKiB)
		}
	}
}

// highWater is the most that a process had in memory, in KiB.
func highWater(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	number, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// RFC 4918 §11.5: 507 says that the server cannot store what it was sent. Only the upload that
// does not fit fails.
func TestUploadDiskFull(t *testing.T) {
	dir := t.TempDir()
	size := fmt.Sprintf("size=%d", smallDiskBytes)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, size); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := startCommand(t, command{python: anyPython(), env: []string{"TMPDIR=" + dir},
		args: []string{"upload_digest:app", "--chdir", absolute(fixturesDir), "-w", "1"}})
	body := pattern(3_000_000)
	small, fits := dial(t, s.url()), dial(t, s.url())
	for _, text := range []string{request("POST", "/", body),
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body)} {
		// One upload is half-way while the other fails.
		small.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + body[:400])
		big := dial(t, s.url())
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.WriteString(big.Conn, text) // cut short by the refusal
		}()
		a := big.want(507)
		wantEqual(t, "Connection", a.get("Connection"), "close")
		big.wantClosed()
		<-sent
		a = small.send(body[400:1000]).want(200)
		wantEqual(t, "the other", strings.Fields(string(a.body))[1], sha([]byte(body[:1000])))
		a = fits.send(request("POST", "/", body[:1_500_000])).want(200)
		wantEqual(t, "one that fits", strings.Fields(string(a.body))[2],
			sha([]byte(body[:1_500_000])))
	}
	s.logSays(t, "cannot store a request body")
}
