package listener_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// streamed runs a stream until the test ends.
func streamed(t *testing.T, db *pgtest.DB, opts listener.StreamOptions) *listener.Stream {
	t.Helper()
	s, err := listener.OpenStream(t.Context(), db.URL, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
	})
	return s
}

// next gives the kinds of the messages up to and with one of a kind.
func next(t *testing.T, s *listener.Stream, until pglogrepl.MessageType) (kinds []string) {
	t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case batch, ok := <-s.Batches():
			if !ok {
				t.Fatalf("the stream ended after %v", kinds)
			}
			for _, m := range batch {
				if m.Message == nil {
					continue
				}
				if m.Type() != pglogrepl.MessageTypeType { // 14 sends whole rows, and says of what types
					kinds = append(kinds, m.Type().String())
				}
				if m.Type() == until {
					return kinds
				}
			}
		case <-late:
			t.Fatalf("no %v after %v", until, kinds)
		}
	}
}

func TestStreamOfATemporarySlot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	s := streamed(t, db, listener.StreamOptions{Publications: []string{"pgcast_wake"}})
	db.Exec(t, "select pgcast.publish('a', 'b')")
	if got, want := fmt.Sprint(next(t, s, pglogrepl.MessageTypeCommit)), "[Begin Relation Insert Commit]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
