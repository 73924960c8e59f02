package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// TestCaptureForgetsImages compares twins with large values where next to nothing of the rows
// is remembered, so that most is read by key: at once, or when a large transaction has
// committed. Each transaction is captured before the next begins, and changes a large value
// before it changes anything else of its row: what is read later is then what it was.
func TestCaptureForgetsImages(t *testing.T) {
	for _, cache := range []int{0, 12_000, 1 << 20} {
		t.Run(fmt.Sprint(cache), func(t *testing.T) {
			t.Parallel()
			d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
			d.Exec(t, "alter database "+d.Name+" set logical_decoding_work_mem = '64kB'")
			openSlot(t, d)
			conn, writer := d.Conn(t), d.Conn(t)
			for _, name := range []string{"w", "g"} {
				script(t, conn, "create table "+name+" (id int primary key, n int, big text, other text)",
					"alter table "+name+" alter column big set storage external", "alter table "+name+" alter column other set storage external")
			}
			script(t, conn, "select pgcast.attach('g')", "select pgcast.attach('w', capture => 'wal')")
			run(t, d, SequencerOptions{Logger: discard, captureLimits: captureLimits{changes: 100, bytes: 1 << 20, cache: cache, late: 1 << 20}})
			both := func(format string, args ...any) {
				for _, name := range []string{"w", "g"} {
					script(t, writer, "insert into "+name+" "+fmt.Sprintf(format, args...))
				}
			}
			update := func(set string, id int) {
				for _, name := range []string{"w", "g"} {
					script(t, writer, fmt.Sprintf("update %s set %s where id = %d", name, set, id))
				}
			}
			script(t, writer, "begin")
			both("select i, 0, repeat('x', 3000), repeat('o', 4000) from generate_series(1, 12) i")
			script(t, writer, "commit")
			rnd := rand.New(rand.NewPCG(1, uint64(cache)))
			fill := 1000
			for n := range 6 {
				script(t, writer, "begin")
				ids := rnd.Perm(12)
				rolled := false
				for k, id := range ids[:6] {
					if k == 3 {
						script(t, writer, "savepoint s")
						rolled = true
					}
					if rnd.IntN(2) == 0 {
						update(fmt.Sprintf("big = repeat('%c', %d)", 'a'+n, 2500+id), id+1)
					}
					if rnd.IntN(2) == 0 {
						both("select i, 0, repeat('f', 150), null from generate_series(%d, %d) i", fill, fill+300)
						fill += 400
					}
					update("n = n + 1", id+1)
				}
				if rolled && rnd.IntN(2) == 0 {
					script(t, writer, "rollback to s")
				}
				for _, id := range ids {
					update("n = n + 1", id+1)
				}
				script(t, writer, "commit")
				settled(t, conn)
			}
			alike(t, conn)
		})
	}
}

// settled waits until the twins have as many events.
func settled(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	await(t, "the transaction is captured", func() bool {
		return one[bool](t, conn, "select count(*) filter (where topic = 'w') = count(*) filter (where topic = 'g') from pgcast.event_log")
	})
}

// TestCaptureXids: the stream has the lower halves of transaction numbers.
func TestCaptureXids(t *testing.T) {
	s := &captureSession{epoch: 5<<32 - 10}
	var got []uint64
	for _, short := range []uint32{math.MaxUint32 - 20, math.MaxUint32, 3, math.MaxUint32 - 1, 1 << 30} {
		got = append(got, s.xid(short))
	}
	if diff := cmp.Diff([]uint64{5<<32 - 21, 5<<32 - 1, 5<<32 + 3, 5<<32 - 2, 5<<32 + 1<<30}, got); diff != "" {
		t.Error(diff)
	}
}
