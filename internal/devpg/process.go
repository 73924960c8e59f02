package devpg

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// patience is how long the server gets for one way of stopping before the next, harder one.
const patience = 10 * time.Second

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; to be read after done
}

// startProcess starts the server so that it ends when we do.
func startProcess(cmd *exec.Cmd, as account) (*process, error) {
	bindToParent(cmd.SysProcAttr)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel watches the thread, not the process: the one that starts the server
		// must live as long as it does, so no other goroutine may end it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		if p.err = cmd.Start(); p.err != nil {
			started <- p.err
			return
		}
		var g *guard
		if !diesWithParent {
			if g, p.err = startGuard(cmd.Process.Pid, as); p.err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				started <- p.err
				return
			}
		}
		started <- nil
		p.err = cmd.Wait()
		g.dismiss()
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// signal sends a signal, unless the process has ended.
func (p *process) signal(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // the error says that it has ended
	thaw(p.cmd.Process)
}

// end stops the server with the first signal, and with the next ones when it takes too
// long or the context ends.
func (p *process) end(ctx context.Context, signals ...syscall.Signal) error {
	for _, sig := range append(signals, syscall.SIGKILL) {
		if sig != syscall.SIGKILL && ctx.Err() != nil {
			continue
		}
		p.signal(sig)
		late := time.NewTimer(patience)
		defer late.Stop()
		hurry := ctx.Done()
		if sig == syscall.SIGKILL {
			hurry = nil
		}
		select {
		case <-p.done:
			return nil
		case <-late.C:
		case <-hurry:
		}
	}
	return fmt.Errorf("stop Postgres: process %d does not end", p.cmd.Process.Pid)
}

// guard is a shell that stops the server when we are gone, for kernels that do not do it
// themselves. It waits for a line on a pipe that only we hold open.
type guard struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

func startGuard(pid int, as account) (*guard, error) {
	cmd := exec.Command("/bin/sh", "-c", `read line || kill -INT "$0"`, strconv.Itoa(pid))
	cmd.SysProcAttr, cmd.Dir, cmd.Stderr = procAttr(as), "/", os.Stderr
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &guard{cmd, pipe}, nil
}

// dismiss ends the guard without a shot: the process id may be somebody else's soon.
func (g *guard) dismiss() {
	if g == nil {
		return
	}
	_, _ = io.WriteString(g.pipe, "done\n")
	_ = g.pipe.Close()
	_ = g.cmd.Wait()
}
