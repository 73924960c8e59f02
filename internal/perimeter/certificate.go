package perimeter

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often a certificate's files are looked at, when somebody connects.
const lookEvery = time.Second

// Certificate is a certificate and its key, in PEM files, which may be replaced at any time.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	next time.Time // guarded by mu: to look
	sum  []byte    // guarded by mu: of what was last read, whether it could be used or not
}

// LoadCertificate reads the files. The error says what is wrong with them, and has nothing
// of the key in it.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	cert, sum, err := c.read()
	if err != nil {
		return nil, err
	}
	c.sum, c.next = sum, time.Now().Add(lookEvery)
	c.now.Store(cert)
	return c, nil
}

// Config is a TLS configuration that shows the certificate: TLS 1.2 or newer, and HTTP/1.1,
// which WebSockets and streams of events take their connections over from.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.newest(), nil }}
}

// newest is the certificate of the files as they are, if they can be used; else the one
// before. Only one of those who connect looks; the others need not wait for it.
func (c *Certificate) newest() *tls.Certificate {
	if !c.mu.TryLock() {
		return c.now.Load()
	}
	defer c.mu.Unlock()
	if now := time.Now(); now.Before(c.next) {
		return c.now.Load()
	} else {
		c.next = now.Add(lookEvery)
	}
	cert, sum, err := c.read()
	switch {
	case bytes.Equal(sum, c.sum):
	case err != nil:
		c.log.Error("tls: the new certificate cannot be used; the one before stays", "error", err)
	default:
		c.now.Store(cert)
		c.log.Info("tls: the certificate was replaced", "until", cert.Leaf.NotAfter)
	}
	c.sum = sum
	return c.now.Load()
}

// read reads the files, and sums up what they say.
func (c *Certificate) read() (*tls.Certificate, []byte, error) {
	h := sha256.New()
	fail := func(err error) (*tls.Certificate, []byte, error) {
		fmt.Fprint(h, err)
		return nil, h.Sum(nil), err
	}
	certText, err := os.ReadFile(c.certFile)
	if err != nil {
		return fail(fmt.Errorf("read the certificate: %w", err))
	}
	keyText, err := os.ReadFile(c.keyFile)
	if err != nil {
		return fail(fmt.Errorf("read the certificate's key: %w", err))
	}
	h.Write(certText)
	h.Write([]byte{0})
	h.Write(keyText)
	cert, err := tls.X509KeyPair(certText, keyText)
	if err != nil {
		return fail(fmt.Errorf("use the certificate %s with the key %s: %w", c.certFile, c.keyFile, err))
	}
	if left := time.Until(cert.Leaf.NotAfter); left <= 0 {
		return fail(fmt.Errorf("use the certificate %s: it has expired %s", c.certFile, cert.Leaf.NotAfter.Format(time.DateTime)))
	}
	return &cert, h.Sum(nil), nil
}
