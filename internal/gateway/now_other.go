//go:build !linux

package gateway

// writeNow writes nothing: a goroutine of the session's own does.
func writeNow(_ uintptr, p []byte) ([]byte, error) { return p, nil }
