package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process of this program: the server under test, or the load.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; to be read after done

	mu   sync.Mutex
	said []string // the last lines on standard error; guarded by mu
}

const keptLines = 20

// startChild starts the program. line, if not nil, is called for each line it says on
// standard error.
func (w *world) startChild(name string, args []string, stdin io.Reader, stdout io.Writer, line func(string)) (*child, error) {
	c := &child{name: name, done: make(chan struct{})}
	command := append(append([]string{}, w.opts.Command...), args...)
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Env, c.cmd.Dir = w.opts.Environ, w.dir
	c.cmd.Stdin, c.cmd.Stdout = stdin, stdout
	c.cmd.SysProcAttr = childAttr()
	r, out := io.Pipe()
	c.cmd.Stderr = out
	go func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			c.mu.Lock()
			c.said = append(c.said[max(0, len(c.said)-keptLines+1):], s.Text())
			c.mu.Unlock()
			if line != nil {
				line(s.Text())
			}
		}
		_, _ = io.Copy(io.Discard, r) // a line too long must not stop the process
	}()
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that started it, which therefore may
		// belong to nobody else.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		defer out.Close()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ended is the error of a process that was not to end.
func (c *child) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Errorf("the %s has ended: %v\n%s", c.name, c.err, strings.Join(c.said, "\n"))
}

// stop ends the process: asked first, then with force.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // the error says that it has ended
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// load is the parent's side of the process that makes the load: one line of JSON asks,
// one answers.
type load struct {
	*child
	asks    *os.File
	answers *json.Decoder
}

func (w *world) startLoad() (_ *load, err error) {
	r, asks, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, out := io.Pipe()
	l := &load{asks: asks, answers: json.NewDecoder(answers)}
	l.child, err = w.startChild("load", []string{LoadCommand}, r, out, nil)
	_ = r.Close()
	if err != nil {
		_ = asks.Close()
		return nil, err
	}
	go func() {
		<-l.done
		_ = out.CloseWithError(io.ErrUnexpectedEOF)
	}()
	return l, nil
}

// stop ends the load: it does when nobody asks any more.
func (l *load) stop() {
	_ = l.asks.Close()
	l.child.stop()
}

type ask struct {
	Do   string          `json:"do"`
	With json.RawMessage `json:"with"`
}

type answer struct {
	Error string          `json:"error,omitempty"`
	Is    json.RawMessage `json:"is,omitempty"`
}

// call has the load do something and waits for the answer. When ctx ends the load does.
func call[A any](ctx context.Context, l *load, do string, with any) (is A, err error) {
	text, err := json.Marshal(with)
	if err != nil {
		return is, err
	}
	text, err = json.Marshal(ask{do, text})
	if err != nil {
		return is, err
	}
	stop := context.AfterFunc(ctx, l.stop)
	defer stop()
	var a answer
	if _, err = l.asks.Write(append(text, '\n')); err == nil {
		err = l.answers.Decode(&a)
	}
	switch {
	case ctx.Err() != nil:
		return is, ctx.Err()
	case err != nil:
		<-l.done
		return is, l.ended()
	case a.Error != "":
		return is, fmt.Errorf("the load could not %s: %s", do, a.Error)
	}
	return is, json.Unmarshal(a.Is, &is)
}
