package redistest

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/certtest"
)

// StartTLS is Start with a port for TLS besides. It gives the URL of that, and the file of
// the authority that vouches for it.
func StartTLS(t testing.TB) (r *Redis, url, caFile string) {
	t.Helper()
	dir := t.TempDir()
	caFile = NewCA(t, dir)
	r, url = StartWith(t, caFile, filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	return r, url, caFile
}

// NewCA makes an authority, and with it a certificate for 127.0.0.1, in a directory:
// server.pem and server.key. It gives the authority's own file.
func NewCA(t testing.TB, dir string) (caFile string) {
	t.Helper()
	ca := certtest.New(t, dir)
	ca.Issue(t, dir, "server", time.Now().Add(24*time.Hour), "127.0.0.1")
	return ca.File
}

// StartWith is Start with a port for TLS besides, and a certificate of the caller's. It
// gives the URL of that.
func StartWith(t testing.TB, caFile, certFile, keyFile string) (r *Redis, url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	r = Start(t, "--tls-port", port, "--tls-auth-clients", "no", "--tls-ca-cert-file", caFile, "--tls-cert-file", certFile, "--tls-key-file", keyFile)
	return r, "rediss://" + address
}
