package replay

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// From triggers to the WAL and back, under writers who do not stop: each change becomes one
// event, and a row's changes and a writer's publish() keep their order.
func TestCaptureSwitch(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table acc (id int primary key, n int not null)", "insert into acc select g, 0 from generate_series(1, 4) g", "select pgcast.attach('acc', topic => 'acc')")
	capturing(t, d, nil)
	conn := d.Conn(t)
	var stop atomic.Bool
	var written atomic.Int64
	var writers sync.WaitGroup
	for id := 1; id <= 4; id++ {
		c := d.Conn(t)
		writers.Go(func() {
			for n := 1; !stop.Load(); n++ {
				sql := fmt.Sprintf("update acc set n = %d where id = %d", n, id)
				if n%3 == 0 {
					sql += fmt.Sprintf(`; select pgcast.publish('acc', 'said', '{"id":%d,"n":%d}')`, id, n)
				}
				if _, err := c.Exec(t.Context(), sql); err != nil {
					t.Errorf("a write failed: %v", err)
					return
				}
				written.Add(1)
				if n%3 == 0 {
					written.Add(1)
				}
			}
		})
	}
	for i := range 6 {
		before := written.Load()
		await(t, "writers write", func() bool { return written.Load() > before+40 })
		way := []string{"wal", "trigger"}[i%2]
		start := time.Now()
		if _, err := conn.Exec(t.Context(), "select pgcast.attach('acc', topic => 'acc', capture => '"+way+"')"); err != nil {
			t.Errorf("attach by %s: %v", way, err)
		}
		t.Logf("to %s in %v", way, time.Since(start))
	}
	before := written.Load()
	await(t, "writers write", func() bool { return written.Load() > before+40 })
	stop.Store(true)
	writers.Wait()
	total(t, conn, int(written.Load()))
	rows, err := conn.Query(t.Context(), `select (data->>'id')::int, (data->>'n')::int, event from pgcast.history where topic = 'acc' order by seq`)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]int{}
	var id, n int
	var event string
	if _, err := pgx.ForEachRow(rows, []any{&id, &n, &event}, func() error {
		key := fmt.Sprint(event, id)
		step := map[string]int{"updated": 1, "said": 3}[event]
		if n != last[key]+step {
			t.Errorf("%s of %d: %d after %d", event, id, n, last[key])
		}
		last[key] = n
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events", written.Load())
}
