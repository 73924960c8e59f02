//go:build !unix

package pgtest

import (
	"os"
	"syscall"
)

func ownSession() *syscall.SysProcAttr { return nil }

func keepFiles() {}

func inherited(fd int) *os.File { return os.NewFile(uintptr(fd), "pipe") }
