package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// launch starts the server and waits until it answers. The port may change only where
// nobody has been told of it yet.
func (c *Cluster) launch(ctx context.Context, portMayChange bool) error {
	for tries := 1; ; tries++ {
		p, said, err := c.try(ctx)
		if err == nil {
			c.proc, c.killed = p, false
			return nil
		}
		switch {
		case ctx.Err() != nil:
		case strings.Contains(said, "could not create any TCP/IP sockets") && tries < 20:
			// Somebody took the port between our look and the server's.
			if portMayChange {
				var other error
				if c.port, other = freePort(); other != nil {
					return other
				}
				continue
			}
			if wait(ctx, 100*time.Millisecond) == nil {
				continue
			}
		case strings.Contains(said, "pre-existing shared memory block"):
			// Sessions of a killed server are still finishing.
			if wait(ctx, 50*time.Millisecond) == nil {
				continue
			}
		}
		return fmt.Errorf("start Postgres %d in %s: %w\n%s", c.bin.Version, c.home.dir, err, lastLines(said, 15))
	}
}

// try starts the server once. With an error it also gives what the server said.
func (c *Cluster) try(ctx context.Context) (_ *process, said string, err error) {
	// No server runs here: the lock is ours. A file that a killed one left may by now name
	// some other process, or a zombie that nobody reaps, and would keep this one from
	// starting. Sessions that are still finishing are found by their shared memory.
	if err := os.Remove(filepath.Join(c.home.data(), "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	log, err := os.OpenFile(c.home.log(), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, "", fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, "", err
	}
	cmd := c.command()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := startProcess(cmd, c.as)
	if err != nil {
		return nil, "", err
	}
	if err := c.ready(ctx, p); err != nil {
		err = errors.Join(err, p.end(context.WithoutCancel(ctx), syscall.SIGQUIT))
		text, _ := io.ReadAll(io.NewSectionReader(log, before, maxLog))
		return nil, string(text), err
	}
	return p, "", nil
}

// ready waits until the server answers over TCP, and is ours.
func (c *Cluster) ready(ctx context.Context, p *process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // what has taken the port may leave us waiting for an answer
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		answer := c.ask(ctx)
		if answer == nil {
			return nil
		}
		late := wait(ctx, pause)
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %w", p.err)
		default:
		}
		if late != nil {
			return fmt.Errorf("%w; its last answer: %w", late, answer)
		}
	}
}

func (c *Cluster) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var data string
	if err := conn.QueryRow(ctx, "select current_setting('data_directory')").Scan(&data); err != nil {
		return err
	}
	if data != c.home.data() {
		return fmt.Errorf("another server answers on port %d", c.port)
	}
	return nil
}

// choosePort settles on a port that is free now.
func (c *Cluster) choosePort() (err error) {
	if c.port != 0 {
		if err := portFree(c.port); err != nil {
			return fmt.Errorf("listen on port %d: %w; choose another port", c.port, err)
		}
		return nil
	}
	if text, err := os.ReadFile(filepath.Join(c.home.dir, "port")); err == nil {
		if port, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && port > 0 && portFree(port) == nil {
			c.port = port
			return nil
		}
	}
	c.port, err = freePort()
	return err
}

// freePort gives a port from below those that kernels hand out for outgoing connections:
// one of them could take it while the server restarts.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 15433 + rand.IntN(32000-15433)
		if err = portFree(port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func portFree(port int) error {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}
