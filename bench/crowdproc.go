package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A crowd lives in a process of its own. Beside the generator it would be measured instead of the
// server: an answer that has come would wait until the scheduler of one process has let a thousand
// others do their byte.
//
// The process says in a line of JSON what came of the crowd, once all of it is there; a line of
// input asks for a second one, about the time between; the end of input ends it.

// crowdName is the command's name, for bench latency only.
const crowdName = "crowd"

// gathered is the first line, parting the second.
type gathered struct {
	Lack string `json:"lack,omitempty"` // clients that could not come, and why
}

type parting struct {
	IdleLost  int64 `json:"idle_lost"` // idle clients that the server has closed
	CPUMicros int64 `json:"cpu_us"`    // of the crowd itself
}

// crowdCommand is that process.
func crowdCommand(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	usage := errors.New("crowd ADDRESS IDLE SLOW is for bench latency, which starts it")
	if len(args) != 3 {
		return usage
	}
	idle, bad := strconv.Atoi(args[1])
	slow, worse := strconv.Atoi(args[2])
	if bad != nil || worse != nil || idle < 0 || slow < 0 {
		return usage
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	c, lack := gather(ctx, args[0], idle, slow)
	defer c.dismiss()
	var said gathered
	if lack != nil {
		said.Lack = lack.Error()
	}
	before := ownCPU()
	speak := json.NewEncoder(out)
	if err := speak.Encode(said); err != nil {
		return err
	}
	asked := bufio.NewScanner(in)
	if asked.Scan() {
		used := ownCPU() - before
		if err := speak.Encode(parting{c.lostIdle(), used.Microseconds()}); err != nil {
			return err
		}
		for asked.Scan() { // it stays until nobody listens
		}
	}
	return asked.Err()
}

// crowdProcess is the other side of it.
type crowdProcess struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      *json.Decoder
	problems strings.Builder
}

// startCrowd returns when all that can come are there. Without any it starts nothing.
func startCrowd(ctx context.Context, address string, idle, slow int) (
	*crowdProcess, gathered, error,
) {
	var said gathered
	if idle+slow == 0 {
		return nil, said, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, said, err
	}
	p := &crowdProcess{cmd: exec.CommandContext(ctx, self, crowdName, address,
		strconv.Itoa(idle), strconv.Itoa(slow))}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = &p.problems
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, said, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, said, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, said, err
	}
	p.out = json.NewDecoder(out)
	if err := p.out.Decode(&said); err != nil {
		return nil, said, p.failed(err)
	}
	return p, said, nil
}

// part asks how it went. The crowd stays.
func (p *crowdProcess) part() (parting, error) {
	var said parting
	if p == nil {
		return said, nil
	}
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		return said, p.failed(err)
	}
	if err := p.out.Decode(&said); err != nil {
		return said, p.failed(err)
	}
	return said, nil
}

// dismiss ends the crowd.
func (p *crowdProcess) dismiss() {
	if p == nil {
		return
	}
	p.in.Close()
	_ = p.cmd.Wait() // what it had to say is said
}

func (p *crowdProcess) failed(err error) error {
	p.dismiss()
	return fmt.Errorf("bench crowd: %w: %.160s", err, p.problems.String())
}

func (s *parting) cpu() time.Duration { return time.Duration(s.CPUMicros) * time.Microsecond }
