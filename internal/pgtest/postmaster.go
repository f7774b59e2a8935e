package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A postmaster is a running server: PostgreSQL's first process and its children.
type postmaster struct {
	process *os.Process
	exited  chan struct{} // closed when the first process has ended and was reaped
	alive   *os.File      // a pipe without data, which ends when the last process of the server has ended
}

// startPostmaster starts the command, with its output in the file log. Every process of the server
// inherits the writing end of a pipe, so that its closing shows that all of them are gone:
// PostgreSQL's backends outlive a killed postmaster for a while.
func startPostmaster(command *exec.Cmd, log string) (*postmaster, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	alive, held, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	command.Stdout, command.Stderr, command.ExtraFiles = output, output, []*os.File{held}
	if err := command.Start(); err != nil {
		alive.Close()
		return nil, err
	}
	p := &postmaster{process: command.Process, exited: make(chan struct{}), alive: alive}
	go func() {
		command.Wait()
		close(p.exited)
	}()
	return p, nil
}

// kill ends the postmaster and all its children by SIGKILL.
func (p *postmaster) kill() error {
	// A stopped process forks no more, so that the list of its children stays complete.
	if err := p.process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(p.process.Pid)
	if err != nil {
		return err
	}
	if err := p.process.Kill(); err != nil {
		return err
	}
	for _, child := range children {
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return p.waitForAll(startTimeout)
}

func childrenOf(pid int) ([]int, error) {
	// A minimal container often has no ps, and macOS has no /proc.
	listing, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err == nil {
		return parsePIDs(strings.Fields(string(listing)))
	}
	output, err := exec.Command("ps", "-A", "-o", "ppid=", "-o", "pid=").Output()
	if err != nil {
		return nil, err
	}
	var children []string
	for line := range strings.Lines(string(output)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == strconv.Itoa(pid) {
			children = append(children, fields[1])
		}
	}
	return parsePIDs(children)
}

func parsePIDs(fields []string) ([]int, error) {
	pids := make([]int, len(fields))
	for i, field := range fields {
		var err error
		if pids[i], err = strconv.Atoi(field); err != nil {
			return nil, err
		}
	}
	return pids, nil
}

// end signals the postmaster, if it still runs, and waits until the whole server is gone.
func (p *postmaster) end(signal syscall.Signal) error {
	if err := p.process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return p.waitForAll(startTimeout)
}

// waitForAll returns when no process of the server is left.
func (p *postmaster) waitForAll(timeout time.Duration) error {
	p.alive.SetReadDeadline(time.Now().Add(timeout))
	_, err := p.alive.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("pgtest: processes of the server are still running")
	}
	p.alive.Close()
	<-p.exited
	return nil
}
