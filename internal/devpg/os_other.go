//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package devpg

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// The package compiles here so that the command does; Find and Start say that they
// cannot help before any of the following is asked for.
const (
	supported      = false
	diesWithParent = false
)

func owner(fs.FileInfo) (uid, gid int)      { return -1, -1 }
func tryFlock(*os.File) (bool, error)       { return false, errors.ErrUnsupported }
func alive(int) bool                        { return false }
func procAttr(account) *syscall.SysProcAttr { return nil }
func bindToParent(*syscall.SysProcAttr)     {}
func commandLine(int) (string, error)       { return "", errors.ErrUnsupported }
func thaw(*os.Process)                      {}
