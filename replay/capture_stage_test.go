package replay

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// streaming makes a database in which transactions of some hundred rows are large.
func streaming(t testing.TB, sql ...string) *pgtest.DB {
	t.Helper()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	d.Exec(t, "alter database "+d.Name+" set logical_decoding_work_mem = '64kB'")
	openSlot(t, d)
	for _, text := range sql {
		d.Exec(t, text)
	}
	return d
}

// counting counts how often each step of capture is met.
type counting struct{ steps chan string }

func (c counting) meet(step string) error {
	select {
	case c.steps <- step:
	default:
	}
	return nil
}

func (c counting) met() map[string]int {
	n := map[string]int{}
	for {
		select {
		case step := <-c.steps:
			n[step]++
		default:
			return n
		}
	}
}

// script runs statements one after the other on one connection.
func script(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestCaptureLargeTransactions: two that are sent in turns, one with subtransactions that are
// rolled back, a TRUNCATE, publish() and a new column; one that is rolled back as a whole.
func TestCaptureLargeTransactions(t *testing.T) {
	t.Parallel()
	d := streaming(t, "create table a (id int primary key, v text)", "create table b (id int primary key, v text)",
		"select pgcast.attach('a', capture => 'wal')", "select pgcast.attach('b', capture => 'wal')", "insert into a values (0, 'old')")
	conn, one1, two, three := d.Conn(t), d.Conn(t), d.Conn(t), d.Conn(t)
	met := counting{make(chan string, 100_000)}
	capturing(t, d, met.meet)
	fill := func(table string, from, to int) string {
		return fmt.Sprintf("insert into %s select i, repeat('x', 60) from generate_series(%d, %d) i", table, from, to)
	}
	script(t, one1, "begin", fill("a", 1, 600))
	script(t, two, "begin", fill("b", 1, 600))
	script(t, three, "begin", fill("b", 5001, 5900))
	script(t, one1, "savepoint s", fill("a", 601, 1200), "alter table a add column gone int default 7", fill2("a", 1201, 1500), "rollback to s")
	script(t, two, "savepoint s", fill("b", 601, 1200), "release s", "select pgcast.publish('said', 'in the middle')")
	script(t, three, "rollback")
	script(t, one1, "truncate a", "alter table a add column w int default 7", fill2("a", 1, 700), "select pgcast.publish('a', 'last')", "commit")
	script(t, two, fill("b", 1201, 1800), "commit")
	d.Exec(t, "insert into a values (9999, 'after', 1)")
	await(t, "the last one is captured", func() bool { return slices.Contains(eventsOf(t, conn, "a"), `created {"id":9999,"v":"after","w":1}`) })

	was := slices.DeleteFunc(eventsOf(t, conn, "a"), func(e string) bool { return strings.HasPrefix(e, "altered") }) // told by the watch
	var want []string
	row := func(i int, rest string) string {
		return fmt.Sprintf(`created {"id":%d,"v":"%s"%s}`, i, strings.Repeat("x", 60), rest)
	}
	want = append(want, `created {"id":0,"v":"old"}`)
	for i := range 600 {
		want = append(want, row(i+1, ""))
	}
	want = append(want, `truncated {"schema":"public","table":"a"}`,
		`schema {"table" : "public.a", "columns" : [{"name" : "id", "type" : "integer"}, {"name" : "v", "type" : "text"}, {"name" : "w", "type" : "integer"}]}`)
	for i := range 700 {
		want = append(want, row(i+1, `,"w":7`))
	}
	want = append(want, "last", `created {"id":9999,"v":"after","w":1}`)
	if diff := cmp.Diff(want, was); diff != "" {
		t.Errorf("events of a: %.3000s", diff)
	}
	if n := len(eventsOf(t, conn, "b")); n != 1800 {
		t.Errorf("%d events of b", n)
	}
	if said := eventsOf(t, conn, "said"); len(said) != 1 {
		t.Errorf("events of said: %v", said)
	}
	if n := met.met(); n["moved"] < 2 || n["undone"] < 1 { // Postgres 18 sends nothing of what it knows to be rolled back
		t.Errorf("nothing was streamed: %v", n)
	}
	if n := one[int](t, conn, "select count(*)::int from pgcast.stage"); n != 0 {
		t.Errorf("%d events are left in the stage", n)
	}
	whole(t, conn, -1)
}

func fill2(table string, from, to int) string {
	return fmt.Sprintf("insert into %s (id, v) select i, repeat('x', 60) from generate_series(%d, %d) i", table, from, to)
}

var captureRows = flag.Int("capture.rows", 50_000, "rows of the transactions of TestCaptureMemory")

// TestCaptureMemory: a transaction of any size is captured in bounded memory, both where
// Postgres sends it before its end and where it cannot.
func TestCaptureMemory(t *testing.T) {
	const bound = 80 << 20
	rows := *captureRows
	for name, mem := range map[string]string{"streamed": "64kB", "at once": "1GB"} {
		t.Run(name, func(t *testing.T) {
			d := logical(t, "create table big (id int primary key, v text)", "select pgcast.attach('big', capture => 'wal')")
			d.Exec(t, "alter database "+d.Name+" set logical_decoding_work_mem = '"+mem+"'")
			conn := d.Conn(t)
			capturing(t, d, nil)
			await(t, "it captures", func() bool {
				return one[bool](t, conn, "select exists (select from pgcast.captured where lsn is not null)")
			})
			runtime.GC()
			d.Exec(t, fmt.Sprintf("insert into big select i, repeat('y', 200) from generate_series(1, %d) i", rows))
			began, peak := time.Now(), uint64(0)
			var m runtime.MemStats
			awaitFor(t, within*time.Duration(1+rows/50_000), "all are captured", func() bool {
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
				return one[bool](t, conn, "select exists (select from pgcast.event_log)") && one[int](t, conn, "select count(*)::int from pgcast.event_log where event = 'created'") == rows
			})
			took := time.Since(began)
			t.Logf("%d rows in %v, %.0f a second, heap at most %d MiB", rows, took.Round(time.Millisecond), float64(rows)/took.Seconds(), peak>>20)
			if peak > bound {
				t.Errorf("the heap grew to %d MiB", peak>>20)
			}
			whole(t, conn, -1)
		})
	}
}
