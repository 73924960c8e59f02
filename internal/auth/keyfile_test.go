package auth_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/auth/authtest"
)

// A file that changes is read again; one that breaks is not, and what it held stays in force.
func TestKeyFileChanges(t *testing.T) {
	var log bytes.Buffer
	one, two := authtest.New(t, "ES256"), authtest.New(t, "ES256")
	path := one.File(t)
	v := verifier(t, auth.TokenOptions{Files: []string{path}, FilesEvery: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = v.Run(ctx) })
	write := func(text []byte) {
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	first, second := one.Token(t, nil), two.Token(t, nil)
	if !accepts(t, v, first) || accepts(t, v, second) {
		t.Fatal("not the key of the file")
	}
	write(two.PEM(t))
	await(t, "the new key counts", func() bool { return accepts(t, v, second) })
	if accepts(t, v, first) {
		t.Error("the old key counts, too")
	}
	write([]byte("rubbish"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(append(one.PEM(t), two.PEM(t)...))
	await(t, "both count", func() bool { return accepts(t, v, first) })
	if !accepts(t, v, second) {
		t.Error("the key that stayed does not count")
	}
	write([]byte("rubbish"))
	for range 20 {
		if !accepts(t, v, first) {
			t.Fatal("a broken file takes its keys away")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(two.PEM(t))
	await(t, "the file is good again", func() bool { return !accepts(t, v, first) })
	cancel()
	done.Wait()
	if n := strings.Count(log.String(), "level=ERROR"); n > 5 {
		t.Errorf("%d errors are logged: %s", n, log.String())
	}
}
