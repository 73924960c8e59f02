package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pgcast/pgcast/internal/devpg"
)

// devFile is what a running pgcast dev leaves in its directory for other commands.
type devFile struct {
	DatabaseURL string `json:"database_url"`
	URL         string `json:"url"`       // of the page
	WebSocket   string `json:"websocket"` // of /ws
	Metrics     string `json:"metrics"`
	Console     string `json:"console,omitempty"` // its page; empty where it is off
	PID         int    `json:"pid"`
}

func devFilePath(dir string) string { return filepath.Join(dir, "dev.json") }
func devLockPath(dir string) string { return filepath.Join(dir, "dev.lock") }

// runningDev gives what the pgcast dev that runs in a directory says of itself, or nil
// when none runs. A file that a killed one left behind does not count.
func runningDev(dir string) (*devFile, error) {
	text, err := os.ReadFile(devFilePath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, dataDirError("look for a running pgcast dev", err)
	}
	lock, err := devpg.TryLock(devLockPath(dir))
	if err != nil {
		return nil, dataDirError("look for a running pgcast dev", err)
	}
	if lock != nil {
		lock.Unlock()
		return nil, nil
	}
	var dev devFile
	if err := json.Unmarshal(text, &dev); err != nil {
		return nil, fmt.Errorf("read %s: %w", devFilePath(dir), err)
	}
	return &dev, nil
}

// dataDirError says what to do about a data directory that is another user's.
func dataDirError(what string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return invalid("it is another user's: work as that user, or give a --data-dir of your own", "%s: %s", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// write puts the file there whole or not at all. It may hold a password.
func (d *devFile) write(dir string) error {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	tmp := devFilePath(dir) + ".new"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, devFilePath(dir))
}
