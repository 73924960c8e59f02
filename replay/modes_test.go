package replay

import (
	"encoding/json"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestWithoutPreparedStatements goes through everything in the modes that a pooler may make
// necessary, in which the types of arguments are guessed from Go's; once on a direct line
// and once on one that hears no bells.
func TestWithoutPreparedStatements(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol", "describe_exec"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := pgtest.New(t, nil)
			conn := d.Conn(t)
			d.URL += "&default_query_exec_mode=" + mode
			run(t, d, SequencerOptions{Batch: 3})
			proxy := pgtest.NewProxy(t, d.URL)
			proxy.Deafen(true)
			shared := run(t, d, SequencerOptions{Batch: 3}, proxy.URL)
			leading(t, shared)
			l := NewLog(d.Pool(t), nil)
			id, err := l.Publish(t.Context(), "a", "e", json.RawMessage(`{"n":1}`), "key")
			if err != nil {
				t.Fatal(err)
			}
			if again, err := l.Publish(t.Context(), "a", "e", nil, "key"); err != nil || again != id {
				t.Fatal(again, err)
			}
			d.Exec(t, "select pgcast.publish('a', 'e') from generate_series(1, 20)")
			sequenced(t, conn, 21)

			pattern, err := pgcast.ParsePattern("*")
			if err != nil {
				t.Fatal(err)
			}
			read, _, err := l.Read(t.Context(), 0, "", 100)
			if err != nil || len(read) != 21 || string(read[0].Data) != `{"n": 1}` && string(read[0].Data) != `{"n":1}` {
				t.Errorf("read: %v, %v", read, err)
			}
			scanned, _, err := l.Scan(t.Context(), pattern, 0, 21, 100)
			if err != nil || len(scanned) != 21 {
				t.Errorf("scan: %d events, %v", len(scanned), err)
			}
			if page, err := l.Page(t.Context(), "a", 0, 100); err != nil || len(page.Events) != 21 {
				t.Errorf("page: %v, %v", page, err)
			}
			places, position, err := l.Places(t.Context(), []pgcast.Ask{{Topic: "a", After: 1, ID: id}, {Topic: "b"}})
			if err != nil || position != 21 || !places[0].Known || places[0].Head != 21 || places[1].Head != 0 {
				t.Errorf("places: %v at %d, %v", places, position, err)
			}
			if known, err := l.Knows(t.Context(), 1, id); err != nil || !known {
				t.Errorf("knows: %t, %v", known, err)
			}
			if gap, err := l.ScanGap(t.Context(), pattern, 0); err != nil || gap != 0 {
				t.Errorf("gap: %d, %v", gap, err)
			}
			if _, err := newRetention(l.pool, nil, newMetrics(nil), discard).pass(t.Context()); err != nil {
				t.Errorf("retention: %v", err)
			}
			if _, err := l.Identity(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
