package auth

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// maxKeyFile bounds what is read of a file, in bytes.
const maxKeyFile = 256 << 10

// keyFile is a file of keys.
type keyFile struct {
	path, algorithm string
	log             *slog.Logger
	keys            atomic.Pointer[[]key]

	// Owned by who looks.
	text   []byte // that keys were read from
	failed string // what is wrong with the file now; empty: nothing
}

// openKeyFile reads a file that is named as path or path=algorithm.
func openKeyFile(name string, log *slog.Logger) (*keyFile, error) {
	f := &keyFile{path: name, log: log}
	if i := strings.LastIndexByte(name, '='); i >= 0 && !strings.ContainsAny(name[i:], "/.\\") {
		f.path, f.algorithm = name[:i], name[i+1:]
		if !slices.Contains(Algorithms, f.algorithm) || strings.HasPrefix(f.algorithm, "HS") {
			return nil, invalid(fmt.Sprintf("%q names no algorithm for the keys of a file", name),
				"one of "+strings.Join(Algorithms[3:], ", "))
		}
	}
	if err := f.look(); err != nil {
		return nil, err
	}
	return f, nil
}

// look reads the file if it has changed. Where it cannot be used the keys stay as they are.
func (f *keyFile) look() error {
	text, err := readSome(f.path)
	if err != nil {
		return invalid("read a file of keys: "+err.Error(), "")
	}
	if f.text != nil && bytes.Equal(text, f.text) {
		return nil
	}
	keys, err := f.read(text)
	if err != nil {
		return invalid(fmt.Sprintf("the file %s has no key that can be used: %v", f.path, err),
			"give a PEM file with the public key, or a certificate, of those who sign tokens")
	}
	f.text = text
	f.keys.Store(&keys)
	return nil
}

func readSome(path string) ([]byte, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxKeyFile)
	}
	return text, err
}

// read reads keys: all public ones, but of certificates only the first, which the others
// vouch for.
func (f *keyFile) read(text []byte) ([]key, error) {
	var keys []key
	certified := false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var public any
		var err error
		switch {
		case block.Type == "PUBLIC KEY":
			public, err = x509.ParsePKIXPublicKey(block.Bytes)
		case block.Type == "RSA PUBLIC KEY":
			public, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case block.Type == "CERTIFICATE" && certified:
			continue
		case block.Type == "CERTIFICATE":
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				public, certified = c.PublicKey, true
				if time.Now().After(c.NotAfter) {
					f.log.Warn("the certificate has expired; its key verifies tokens all the same", "file", f.path, "until", c.NotAfter)
				}
			}
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, errors.New("it holds a private key, which nobody but those who sign should have")
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		k, err := newKey(public, f.algorithm)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is nothing in PEM in it that says PUBLIC KEY or CERTIFICATE")
	}
	return keys, nil
}

// watch notices changes of files until ctx ends. It reads them: names may be links that are
// turned, as Kubernetes does, and times say little.
func (v *Verifier) watch(ctx context.Context) error {
	tick := time.NewTicker(v.opts.FilesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		for _, f := range v.files {
			before := f.keys.Load()
			err := f.look()
			switch {
			case err != nil && err.Error() != f.failed:
				f.failed = err.Error()
				f.log.Error("a file of keys cannot be used; its last keys stay in force", "file", f.path, "error", err)
			case err == nil:
				f.failed = ""
				if f.keys.Load() != before {
					f.log.Info("read changed keys", "file", f.path, "keys", len(*f.keys.Load()))
				}
			}
		}
	}
}
