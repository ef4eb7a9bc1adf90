package supervise

import "time"

// Limits of the supervisor.
const (
	// BootDeathsMax deaths before any worker was ever ready end the start. They end a new
	// generation too, once its first worker was ready; the first one's death does so at once.
	BootDeathsMax = 5

	// A death before ready, or sooner than QuickLife after it, makes the seat wait before the
	// next start: not at all the first time, then BackoffMin, doubled up to BackoffMax. A life
	// of CalmLife makes the seat forget.
	QuickLife  = 1 * time.Second
	CalmLife   = 10 * time.Second
	BackoffMin = 100 * time.Millisecond
	BackoffMax = 5 * time.Second

	// HopelessDeaths quick deaths in a row of every seat, with no worker left, are a crash loop:
	// requests are refused at once instead of waiting for a worker.
	HopelessDeaths = 3

	// StartingQuitMax is how long a worker that is still importing may take to quit.
	StartingQuitMax = 1 * time.Second

	// KillWaitMax is how long a killed process may take to vanish before Run ends without it:
	// one that sleeps in the kernel does not hear SIGKILL.
	KillWaitMax = 5 * time.Second

	// RetireGrace is what a worker that hangs gets for its other requests once its replacement
	// serves.
	RetireGrace = 5 * time.Second

	// AbortLead before the kill of a worker, answers that have begun are cut off, so that the app
	// can close them; at half of the time there is, when that is shorter.
	AbortLead = 1 * time.Second

	// RecyclesShare of the workers, but at least one, may be replaced for routine causes at a
	// time: the others have the CPUs while it imports.
	RecyclesShare = 4

	// LeavingFactorMax times the number of workers may be on their way out. More of them, and
	// reloads and routine replacements wait: each is a process with the app in memory.
	LeavingFactorMax = 2

	// ReloadsWaitingMax callers may wait for one reload.
	ReloadsWaitingMax = 64

	// How often requests and memory are looked at. A worker answers thousands of requests in a
	// second; its memory grows slower.
	RequestsCheckEvery = 100 * time.Millisecond
	MemoryCheckEvery   = 1 * time.Second

	// LifetimeJitterShare of a lifetime is added at most, at random.
	LifetimeJitterShare = 10

	idleWaitMax = time.Hour // with nothing due, the select wakes once in this time
)
