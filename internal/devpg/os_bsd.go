//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package devpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

const diesWithParent = false // a guard process does it

func bindToParent(*syscall.SysProcAttr) {}

func commandLine(pid int) (string, error) {
	text, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	return strings.TrimSpace(string(text)) + " ", err
}
