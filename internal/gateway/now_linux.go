package gateway

import (
	"syscall"
	"unsafe"
)

// writeNow writes what the socket, which does not block, has room for and gives the rest.
// Not with syscall.Write: that tells the scheduler of a call that may block, on the way in
// and out, which costs a tenth of a write to a loopback socket.
func writeNow(fd uintptr, p []byte) ([]byte, error) {
	for len(p) > 0 {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch {
		case errno == syscall.EAGAIN:
			return p, nil
		case errno == syscall.EINTR:
		case errno != 0:
			return p, errno
		default:
			p = p[n:]
		}
	}
	return nil, nil
}
