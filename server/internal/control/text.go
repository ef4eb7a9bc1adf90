package control

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"gophersnake/server/internal/logs"
)

// Print writes the result of a request for people. What comes from outside (a request's target, an
// app's name) cannot control the terminal.
func Print(w io.Writer, r Request, result json.RawMessage, now time.Time) error {
	switch r.Command {
	case CommandStatus:
		return render(w, result, func(w io.Writer, s Status) { printStatus(w, s, now) })
	case CommandWorkers:
		return render(w, result, printWorkers)
	case CommandThreads:
		return render(w, result, printThreads)
	case CommandStacks:
		return render(w, result, printStacks)
	}
	return render(w, result, func(w io.Writer, d Done) { printDone(w, r, d) })
}

func render[T any](w io.Writer, result json.RawMessage, write func(io.Writer, T)) error {
	var value T
	if err := json.Unmarshal(result, &value); err != nil {
		return fmt.Errorf("cannot read the server's answer: %w", err)
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	write(table, value)
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func printStatus(w io.Writer, s Status, now time.Time) {
	line := func(name, format string, values ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, cell(fmt.Sprintf(format, values...)))
	}
	line("gophersnake", "%s, pid %d, %s for %s", s.Version, s.PID, s.State, span(s.Uptime))
	line("app", "%s in %s", s.App, s.Dir)
	line("python", "%s, GIL %s", s.Python, s.GIL)
	line("listening", "%s", strings.Join(s.Listeners, " "))
	line("workers", "%d of %d ready × %s, %s; generation %d, %s", s.Workers, s.Wanted,
		plural(s.Threads, "thread"), plural(s.Loops, "loop"), s.Generation,
		plural(s.Restarts, "restart"))
	line("requests", "%d served, %d in flight, %s", s.Served, s.InFlight,
		plural(int(s.Clients), "client"))
	line("responses", "%d 2xx, %d 3xx, %d 4xx, %d 5xx", s.Classes[2], s.Classes[3],
		s.Classes[4], s.Classes[5])
	if len(s.Unavailable) > 0 {
		line("503", "%s", reasons(s.Unavailable))
	}
	line("queue", "%d of at most %d; waits of the last minute: p50 ≤ %.1f ms, p99 ≤ %.1f ms",
		s.Queue.Depth, s.Queue.Max, s.Queue.P50, s.Queue.P99)
	if s.Stolen+s.Moved > 0 {
		line("moved", "%d from busy workers to idle ones, %d from dead ones", s.Stolen, s.Moved)
	}
	if s.Panics+s.Corrupt > 0 {
		line("trouble", "%s, %s that broke the shared memory; see the log",
			plural(int(s.Panics), "panic"), plural(int(s.Corrupt), "worker"))
	}
	if r := s.LastReload; r != nil {
		how := "done"
		if r.Why != "" {
			how = "FAILED: " + reasonLine(r.Why)
		}
		line("last reload", "%s ago, took %s: %s", span(now.Sub(r.At).Seconds()),
			span(r.Took), how)
	}
	if s.Advice != "" {
		line("advice", "%s", s.Advice)
	}
}

// reasonLine is the line of a failed import that names the reason: the last one, where Python puts
// it, but for the hints that follow it.
func reasonLine(text string) string {
	reason := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "hint:") {
			reason = line
		}
	}
	return reason
}

func reasons(counts map[string]int64) string {
	var all []string
	for reason, n := range counts {
		all = append(all, fmt.Sprintf("%s %d", reason, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func printWorkers(w io.Writer, all []Worker) {
	fmt.Fprintln(w, "WORKER\tPID\tGEN\tSTATE\tAGE\tREQUESTS\tIN FLIGHT\tRSS\tPSS\tCPU")
	for _, k := range all {
		state := k.State
		if k.Leaving != "" {
			state += ": " + k.Leaving
		}
		cpu := "-"
		if k.CPU >= 0 {
			cpu = fmt.Sprintf("%.0f%%", 100*k.CPU)
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", k.ID, k.PID, k.Generation,
			cell(state), span(k.Age), k.Served, k.InFlight, bytesOf(k.RSS), bytesOf(k.PSS), cpu)
	}
}

func printThreads(w io.Writer, t Threads) {
	for _, k := range t.Workers {
		idle := max(0, k.Threads-len(k.Running))
		fmt.Fprintf(w, "worker %d (pid %d, generation %d): %d of %s busy\n", k.ID, k.PID,
			k.Generation, k.Threads-idle, plural(k.Threads, "thread"))
		for _, r := range k.Running {
			name := "-"
			if r.Thread > 0 {
				name = fmt.Sprint(r.Thread)
			}
			printRequest(w, name, r)
		}
		printWaiting(w, k.Waiting)
		if names := idleThreads(k); names != "" {
			fmt.Fprintf(w, "  idle: %s\n", names)
		}
	}
	fmt.Fprintf(w, "queue: %s\n", plural(len(t.Queue), "request"))
	printWaiting(w, t.Queue)
}

// idleThreads names the threads that run nothing; nothing when it is not known which do.
func idleThreads(k WorkerThreads) string {
	busy := make(map[int]bool, len(k.Running))
	for _, r := range k.Running {
		busy[r.Thread] = true
	}
	var names []string
	for i := 1; i <= k.Threads && !busy[0]; i++ {
		if !busy[i] {
			names = append(names, fmt.Sprint(i))
		}
	}
	return strings.Join(names, ",")
}

func printWaiting(w io.Writer, all []RunningRequest) {
	for _, r := range all {
		printRequest(w, "-", r)
	}
}

func printRequest(w io.Writer, what string, r RunningRequest) {
	fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", what, span(r.Seconds), orDash(r.Method),
		orDash(r.Target), cell(r.State))
}

func printStacks(w io.Writer, all []Stack) {
	for i, k := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "worker %d (pid %d)\n", k.ID, k.PID)
		if k.Error != "" {
			fmt.Fprintf(w, "no stacks: %s\n", logs.Escape(k.Error))
			continue
		}
		// Tabs of the text are none of the table's.
		text := strings.ReplaceAll(strings.TrimRight(k.Text, "\n"), "\t", "    ")
		fmt.Fprintln(w, logs.Escape(text))
	}
}

func printDone(w io.Writer, r Request, d Done) {
	took := span(d.Took)
	switch {
	case r.Command == CommandReload:
		fmt.Fprintf(w, "reloaded in %s: generation %d serves\n", took, d.Generation)
	case r.Command == CommandScale:
		fmt.Fprintf(w, "scaled to %s\n", plural(r.Count, "worker"))
	case r.Command == CommandRecycle && r.All:
		fmt.Fprintf(w, "all workers recycled in %s\n", took)
	case r.Command == CommandRecycle:
		fmt.Fprintf(w, "worker %d recycled in %s\n", r.Worker, took)
	case r.Exit:
		fmt.Fprintf(w, "stopped in %s\n", took)
	default:
		fmt.Fprintf(w, "drained in %s: it accepts no clients any more; "+
			"gophersnake stop ends it\n", took)
	}
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return cell(text)
}

// cell is one cell of a table: neither tabs nor new lines may divide it.
func cell(text string) string {
	return strings.NewReplacer("\t", " ", "\n", " ").Replace(logs.Escape(text))
}

// span shows a time with two digits or units: 0.8 s, 42 s, 3m 2s, 5h 2m, 12d 3h.
func span(seconds float64) string {
	whole := int64(max(0, seconds))
	switch {
	case seconds < 0.9995:
		return fmt.Sprintf("%.0f ms", 1000*max(0, seconds))
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case whole < 60:
		return fmt.Sprintf("%d s", whole)
	case whole < 3600:
		return fmt.Sprintf("%dm %ds", whole/60, whole%60)
	case whole < 24*3600:
		return fmt.Sprintf("%dh %dm", whole/3600, whole%3600/60)
	}
	return fmt.Sprintf("%dd %dh", whole/86400, whole%86400/3600)
}

// bytesOf shows a size in MiB, the unit in which workers are compared.
func bytesOf(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
