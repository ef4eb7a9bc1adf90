package pybridge

// This file is the Go twin of shim/lane.h, which describes the format of the memory that
// one worker shares with this process. TestFormatMatchesC compares both.

const (
	magic       = 0x4e4c5347 // "GSLN"
	version     = 1
	lineBytes   = 64
	bellOff     = 128
	wakeOff     = 4096
	threadsMax  = 256
	lanesMax    = 64
	slotsMax    = 4096
	blockAlign  = 64
	blockMax    = 65536
	reqTailOff  = 0
	repTailOff  = 64
	asleepOff   = 128
	acksOff     = 256
	ackCountOff = 0
	ackWaitOff  = 4
)

// What a loop that waits says to its worker; 0 while it looks for replies by itself.
const (
	sleeps = 1
	naps   = 2
)

// States of a slot: the low bits of its state word; the generation is above them.
const (
	slotFree            = 0
	slotQueued          = 1
	slotTaken           = 2
	slotStateMask       = 3
	slotGenerationShift = 2
)

// What a slot tells its thread about the client.
const (
	goneClosed     = 1
	goneHalfClosed = 2
)

// Flags of a request.
const (
	flagHTTP10    = 1
	flagKeepAlive = 2
	flagHead      = 4
	flagBodyArena = 8
	flagBodyFile  = 16
	flagBody      = 32
	flagSocket    = 64
)

// Flags of a reply.
const (
	// ReplyLast ends the response; the slot is free afterwards.
	ReplyLast = 1
	// ReplyAbort says that the response broke off: the client must see that it is not whole.
	ReplyAbort = 2
	// ReplyClose asks to close the connection after the response.
	ReplyClose = 4
	// ReplyEnd ends the response too, but the slot stays busy: the app is closing what it
	// returned. ReplyLast follows.
	ReplyEnd = 8
	// ReplyInterim: an interim response (RFC 9110 §15.2); the answer has not begun.
	ReplyInterim = 32
	// replyFile: the block is a filePart. It ends in Reply.File.
	replyFile = 16
)

// regionHead is the first bytes of a region.
type regionHead struct {
	magic, version                   uint32
	lanes, threads                   uint32
	slots, slotBytes                 uint32
	replies, repliesPerThread        uint32
	arenaBytes, responseBytes        uint32
	laneBytes, lanesOff              uint32
	requestsOff, repliesOff          uint32
	slotsOff, arenaOff, responsesOff uint32
}

// span is a piece of a slot, relative to the slot's start.
type span struct{ off, len uint32 }

// slotHeader is one row of a slot's header table.
type slotHeader struct{ name, value span }

// slotHead is the first bytes of a slot.
type slotHead struct {
	state, gone                             uint32
	takenNS                                 uint64
	gilUS, thread                           uint32
	flags                                   uint32
	listener, remotePort                    uint16
	headerCount, headersOff                 uint32
	method, target, path, query, remoteAddr span
	bodyOff, bodyLen                        uint64
}

// filePart is a piece of a file that is sent as it is.
type filePart struct{ offset, length uint64 }

// replyEntry is one row of the reply ring.
type replyEntry struct {
	slot, generation uint32
	thread, flags    uint32
	off, len         uint32
	status, reserved uint32
}
