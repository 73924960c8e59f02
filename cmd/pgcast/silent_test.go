package main

import (
	"testing"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// A server that starts does not wait for ever for an answer that does not come.
func TestStartBehindBlackHole(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.New(t, nil).URL)
	asked := make(chan error, 1)
	proxy.Hold(true) // the first connection
	go func() {
		began := time.Now()
		err := checkSchema(t.Context(), proxy.URL)
		t.Logf("answered after %v", time.Since(began))
		asked <- err
	}()
	proxy.Held(t)
	proxy.Hold(false) // those that follow
	select {
	case err := <-asked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * connectTimeout):
		t.Error("it waits on")
	}
}

// A server that starts does not wait for another that migrates, nor for the lock of one that
// has vanished in the midst of that.
func TestStartBesideMigration(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	if _, err := db.Conn(t).Exec(t.Context(), "select pg_advisory_lock($1)", int64(lock.DefaultLockID)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := checkSchema(t.Context(), db.URL); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > connectTimeout {
		t.Errorf("it took %v", took)
	}
}
