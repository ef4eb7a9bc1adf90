package pybridge

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

// defines are the constants of shim/lane.h and what they are here.
var defines = map[string]uint64{ // never written to
	"GS_MAGIC": magic, "GS_VERSION": version, "GS_LINE": lineBytes, "GS_BELL_OFF": bellOff,
	"GS_WAKE_OFF": wakeOff, "GS_THREADS_MAX": threadsMax, "GS_LANES_MAX": lanesMax,
	"GS_SLOTS_MAX": slotsMax, "GS_REQ_TAIL_OFF": reqTailOff, "GS_REP_TAIL_OFF": repTailOff,
	"GS_ASLEEP_OFF": asleepOff, "GS_ACKS_OFF": acksOff, "GS_SLEEPS": sleeps, "GS_NAPS": naps,
	"SLOT_FREE": slotFree, "SLOT_QUEUED": slotQueued, "SLOT_TAKEN": slotTaken,
	"SLOT_STATE_MASK": slotStateMask, "SLOT_GENERATION_SHIFT": slotGenerationShift,
	"REQ_HTTP10": flagHTTP10, "REQ_KEEP_ALIVE": flagKeepAlive, "REQ_HEAD": flagHead,
	"REQ_BODY_ARENA": flagBodyArena, "REQ_BODY_FILE": flagBodyFile, "REQ_BODY": flagBody,
	"REQ_SOCKET": flagSocket,
	"REPLY_LAST": ReplyLast, "REPLY_ABORT": ReplyAbort, "REPLY_CLOSE": ReplyClose,
	"REPLY_END": ReplyEnd, "REPLY_INTERIM": ReplyInterim, "REPLY_FILE": replyFile,
	"GONE_CLOSED": goneClosed, "GONE_HALF_CLOSED": goneHalfClosed,
	"GS_BLOCK_ALIGN": blockAlign, "GS_BLOCK_MAX": blockMax,
}

// layouts are the sizes and offsets of the shared structs: a C expression and its value here.
func layouts() map[string]uint64 {
	var (
		head   regionHead
		slot   slotHead
		reply  replyEntry
		header slotHeader
		part   filePart
		place  span
	)
	m := map[string]uint64{
		"sizeof(struct span)":           uint64(unsafe.Sizeof(place)),
		"sizeof(struct slot)":           uint64(unsafe.Sizeof(slot)),
		"sizeof(struct reply)":          uint64(unsafe.Sizeof(reply)),
		"sizeof(struct header)":         uint64(unsafe.Sizeof(header)),
		"sizeof(struct region_head)":    uint64(unsafe.Sizeof(head)),
		"offsetof(struct ack, count)":   ackCountOff,
		"offsetof(struct ack, waiting)": ackWaitOff,
	}
	add := func(of string, fields map[string]uintptr) {
		for name, off := range fields {
			m[fmt.Sprintf("offsetof(struct %s, %s)", of, name)] = uint64(off)
		}
	}
	add("span", map[string]uintptr{
		"off": unsafe.Offsetof(place.off), "len": unsafe.Offsetof(place.len),
	})
	m["sizeof(struct file_part)"] = uint64(unsafe.Sizeof(part))
	add("file_part", map[string]uintptr{
		"offset": unsafe.Offsetof(part.offset), "length": unsafe.Offsetof(part.length),
	})
	add("header", map[string]uintptr{
		"name": unsafe.Offsetof(header.name), "value": unsafe.Offsetof(header.value),
	})
	add("region_head", map[string]uintptr{
		"magic": unsafe.Offsetof(head.magic), "version": unsafe.Offsetof(head.version),
		"lanes": unsafe.Offsetof(head.lanes), "threads": unsafe.Offsetof(head.threads),
		"slots": unsafe.Offsetof(head.slots), "slot_bytes": unsafe.Offsetof(head.slotBytes),
		"replies":            unsafe.Offsetof(head.replies),
		"replies_per_thread": unsafe.Offsetof(head.repliesPerThread),
		"arena_bytes":        unsafe.Offsetof(head.arenaBytes),
		"response_bytes":     unsafe.Offsetof(head.responseBytes),
		"lane_bytes":         unsafe.Offsetof(head.laneBytes),
		"lanes_off":          unsafe.Offsetof(head.lanesOff),
		"requests_off":       unsafe.Offsetof(head.requestsOff),
		"replies_off":        unsafe.Offsetof(head.repliesOff),
		"slots_off":          unsafe.Offsetof(head.slotsOff),
		"arena_off":          unsafe.Offsetof(head.arenaOff),
		"responses_off":      unsafe.Offsetof(head.responsesOff),
	})
	add("slot", map[string]uintptr{
		"state": unsafe.Offsetof(slot.state), "gone": unsafe.Offsetof(slot.gone),
		"taken_ns": unsafe.Offsetof(slot.takenNS), "gil_us": unsafe.Offsetof(slot.gilUS),
		"thread": unsafe.Offsetof(slot.thread),
		"flags":  unsafe.Offsetof(slot.flags), "listener": unsafe.Offsetof(slot.listener),
		"remote_port":  unsafe.Offsetof(slot.remotePort),
		"header_count": unsafe.Offsetof(slot.headerCount),
		"headers_off":  unsafe.Offsetof(slot.headersOff),
		"method":       unsafe.Offsetof(slot.method), "target": unsafe.Offsetof(slot.target),
		"path": unsafe.Offsetof(slot.path), "query": unsafe.Offsetof(slot.query),
		"remote_addr": unsafe.Offsetof(slot.remoteAddr),
		"body_off":    unsafe.Offsetof(slot.bodyOff), "body_len": unsafe.Offsetof(slot.bodyLen),
	})
	add("reply", map[string]uintptr{
		"slot": unsafe.Offsetof(reply.slot), "generation": unsafe.Offsetof(reply.generation),
		"thread": unsafe.Offsetof(reply.thread), "flags": unsafe.Offsetof(reply.flags),
		"off": unsafe.Offsetof(reply.off), "len": unsafe.Offsetof(reply.len),
		"status": unsafe.Offsetof(reply.status), "reserved": unsafe.Offsetof(reply.reserved),
	})
	return m
}

// TestFormatMatchesC guards "a constant that exists in C and in Go is the same": it asks the C
// compiler for every constant of lane.h, and for every field of the structs that are shared.
func TestFormatMatchesC(t *testing.T) {
	source, err := os.ReadFile("shim/lane.h")
	if err != nil {
		t.Fatal(err)
	}
	want := layouts()
	for _, m := range regexp.MustCompile(`(?m)^#define (\w+) \S`).FindAllSubmatch(source, -1) {
		name := string(m[1])
		value, ok := defines[name]
		if name == "GS_BLOCKLESS_MAX" { // the shim's own business
			continue
		}
		if !ok {
			t.Errorf("lane.h defines %s, which format.go and this test do not know", name)
			continue
		}
		want[name] = value
	}
	for name := range defines {
		if _, ok := want[name]; !ok {
			t.Errorf("lane.h does not define %s", name)
		}
	}
	for expression, got := range askC(t, want) {
		if got != want[expression] {
			t.Errorf("%s is %d in C and %d in Go", expression, got, want[expression])
		}
	}
	wantEveryField(t, string(source), want)
}

// wantEveryField sees that no field of a shared struct is left out of the comparison.
func wantEveryField(t *testing.T, source string, asked map[string]uint64) {
	t.Helper()
	for _, of := range []string{"span", "header", "region_head", "slot", "reply", "ack"} {
		_, body, ok := strings.Cut(source, "struct "+of+" {")
		body, _, closed := strings.Cut(body, "}")
		if !ok || !closed {
			t.Fatalf("lane.h has no struct %s", of)
		}
		body = regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(body, "")
		for _, line := range strings.Split(body, ";") {
			fields := strings.FieldsFunc(line, func(r rune) bool {
				return strings.ContainsRune(" ,\n", r)
			})
			for _, name := range fields {
				if isTypeWord(name) {
					continue
				}
				if _, ok := asked[fmt.Sprintf("offsetof(struct %s, %s)", of, name)]; !ok {
					t.Errorf("struct %s has a field %s that is not compared", of, name)
				}
			}
		}
	}
}

func isTypeWord(word string) bool {
	switch word {
	case "struct", "span", "_Atomic", "uint16_t", "uint32_t", "uint64_t":
		return true
	}
	return false
}

// askC compiles and runs a program that prints the value of each expression.
func askC(t *testing.T, expressions map[string]uint64) map[string]uint64 {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Fatal("a C compiler is needed: ", err)
	}
	var program strings.Builder
	program.WriteString("#include \"lane.h\"\n#include <stdio.h>\nint main(void) {\n")
	for expression := range expressions {
		fmt.Fprintf(&program, "printf(\"%%llu %s\\n\", (unsigned long long)(%s));\n",
			expression, expression)
	}
	program.WriteString("return 0;\n}\n")
	file := filepath.Join(t.TempDir(), "format.c")
	if err := os.WriteFile(file, []byte(program.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	binary := file + ".out"
	if out, err := exec.Command(compiler, "-Ishim", "-o", binary, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := make(map[string]uint64)
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		number, expression, _ := strings.Cut(line, " ")
		value, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		answers[expression] = value
	}
	if len(answers) != len(expressions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(expressions))
	}
	return answers
}
