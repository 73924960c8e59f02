package server

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// S15: a column that is not captured is nowhere: not in the log's tables, not in what clients
// are sent, whichever way they ask, and not in what the server logs, by trigger and from the WAL.
func TestS15LeftOutColumns(t *testing.T) {
	t.Parallel()
	for _, capture := range []string{"trigger", "wal"} {
		t.Run(capture, func(t *testing.T) {
			t.Parallel()
			const canary = "CANARY-column-2c77"
			db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
			db.Exec(t, "create table person (id int primary key, room int, name text, password text, digest text generated always as (upper(password)) stored)")
			if capture == "wal" {
				db.Exec(t, "alter table person replica identity full")
				db.Exec(t, "select pgcast.make_publications(), pgcast.open_slot()")
			}
			db.Exec(t, fmt.Sprintf("select pgcast.attach('person', 'room:{room}', without => '{password,digest}', old => %t, capture => $1)", capture == "trigger"), capture)
			journal := &journal{}
			r := start(t, db.URL, func(o *Options) {
				o.Logger = slog.New(slog.NewJSONHandler(journal, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}).awaitReady(t)
			p := r.dial(t)
			p.send(`{"type":"hello","caps":["reset"]}`)
			p.send(`{"type":"subscribe","topic":"room:1","ref":1}`)
			p.want(wire.Subscribed)
			db.Exec(t, "insert into person values (1, 1, 'ann', $1), (2, 1, 'bob', $1)", canary)
			db.Exec(t, "update person set password = $1 || 'x', name = name || '!'", canary)
			db.Exec(t, "delete from person where id = 2")
			sent := ""
			for n := 0; n < 5; n++ {
				e := p.want(wire.Event).Events[0]
				sent += fmt.Sprintf("%s %s %s\n", e.Name, e.Data, e.Old)
			}
			for _, path := range []string{"events", "snapshot"} {
				_, text := get(t, "http://"+r.listen+"/topics/room:1/"+path)
				sent += text
			}
			if !strings.Contains(sent, `"ann!"`) {
				t.Errorf("the rows themselves did not come:\n%s", sent)
			}
			_, metrics := get(t, "http://"+r.admin+"/metrics")
			stored := pgtest.Value[string](t, db, "select coalesce(string_agg(l::text, ' '), '') from pgcast.event_log l")
			if !strings.Contains(stored, "ann!") {
				t.Errorf("the log has not what it should have:\n%s", stored)
			}
			for where, text := range map[string]string{"what was sent": sent, "metrics": metrics, "the log's rows": stored, "what was logged": journal.String()} {
				if strings.Contains(strings.ToUpper(text), strings.ToUpper(canary)) || strings.Contains(text, "digest") {
					t.Errorf("the column is in %s:\n%s", where, text)
				}
			}
		})
	}
}
