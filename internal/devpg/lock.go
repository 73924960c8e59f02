package devpg

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Lock is an exclusive lock on a file. The kernel takes it back when the process that
// holds it ends, however it ends.
type Lock struct{ file *os.File }

// TryLock takes the lock on the file at path, which it makes if need be. It gives nil
// and no error when somebody else has it.
func TryLock(path string) (*Lock, error) {
	// Never truncated on opening: the text belongs to the holder.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	ok, err := tryFlock(f)
	if err != nil || !ok {
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, nil
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // only for the eyes of others
	}
	return &Lock{f}, nil
}

// WaitLock takes the lock as soon as it is free.
func WaitLock(ctx context.Context, path string) (*Lock, error) {
	// A blocking flock could not be called off.
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		l, err := TryLock(path)
		if l != nil || err != nil {
			return l, err
		}
		if err := wait(ctx, pause); err != nil {
			return nil, fmt.Errorf("wait for lock %s, held by process %s: %w", path, lockHolder(path), err)
		}
	}
}

// Unlock gives the lock back.
func (l *Lock) Unlock() { l.file.Close() }

// lockHolder gives the holder's process id as it wrote it.
func lockHolder(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 32))
	if s := strings.TrimSpace(string(text)); s != "" {
		return s
	}
	return "unknown"
}

// wait pauses, or ends early with the context's error.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
