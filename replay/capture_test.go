package replay

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// logical makes a database with the slot, and runs SQL in it.
func logical(t testing.TB, sql ...string) *pgtest.DB {
	t.Helper()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	openSlot(t, d)
	for _, text := range sql {
		d.Exec(t, text)
	}
	return d
}

// openSlot makes the slot. Postgres may fail after it has made it, when somebody commits DDL
// meanwhile ("snapshot reference is not owned by resource owner").
func openSlot(t testing.TB, d *pgtest.DB) {
	t.Helper()
	conn := d.Conn(t)
	var err error
	for range 10 {
		if _, err = conn.Exec(t.Context(), "select pgcast.open_slot()"); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// capturing runs a sequencer whose log goes to the test's.
func capturing(t testing.TB, d *pgtest.DB, failpoint func(string) error) *running {
	t.Helper()
	return run(t, d, SequencerOptions{failpoint: failpoint, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// eventsOf gives the log of a topic, each as event, data and old.
func eventsOf(t testing.TB, conn *pgx.Conn, topic string) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `select event || coalesce(' ' || data::text, '') || coalesce(' was ' || old::text, '') from pgcast.history where topic = $1 order by seq`, topic)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// total waits until the log has that many events in their places.
func total(t testing.TB, conn *pgx.Conn, n int) {
	t.Helper()
	sequenced(t, conn, n)
}

func TestCaptureRows(t *testing.T) {
	t.Parallel()
	d := logical(t, "create table chat (id int primary key, room text not null, body text)", "alter table chat replica identity full",
		"select pgcast.attach('chat', topic => 'room:{room}', capture => 'wal')")
	conn := d.Conn(t)
	capturing(t, d, nil)
	d.Exec(t, "insert into chat values (1, 'a', 'x'), (2, 'b', null)")
	d.Exec(t, "update chat set body = 'y\\\"{},' where id = 1")
	d.Exec(t, "select pgcast.publish('room:a', 'said', '{\"n\":1}')")
	d.Exec(t, "begin; update chat set room = 'b' where id = 1; select pgcast.publish('room:b', 'moved'); delete from chat where id = 2; commit")
	d.Exec(t, "truncate chat")
	total(t, conn, 10)
	if diff := cmp.Diff([]string{`created {"id":1,"room":"a","body":"x"}`, `updated {"id":1,"room":"a","body":"y\\\"{},"} was {"id":1}`, `said {"n": 1}`,
		`deleted was {"id":1}`, `truncated {"schema":"public","table":"chat"}`}, eventsOf(t, conn, "room:a")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`created {"id":2,"room":"b","body":null}`, `created {"id":1,"room":"b","body":"y\\\"{},"}`, `moved`, `deleted was {"id":2}`,
		`truncated {"schema":"public","table":"chat"}`}, eventsOf(t, conn, "room:b")); diff != "" {
		t.Error(diff)
	}
}
