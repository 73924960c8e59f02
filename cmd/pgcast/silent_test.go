package main

import (
	"testing"
	"time"

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
