package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/wire"
)

// statements are what was asked of a database.
type statements struct {
	mu   sync.Mutex
	text strings.Builder
	n    int
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	fmt.Fprintln(&s.text, d.SQL, d.Args)
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// hostile are pieces of text that have got into SQL elsewhere.
var hostile = []string{
	`' or '1'='1`, `' or 1=1--`, `'; drop table public.notes; --`, `"; drop table public.notes; --`, `' union select passwd from pg_shadow--`, `1; select pg_sleep(10)`, `'||pg_sleep(10)||'`,
	`') or ('a'='a`, `')); delete from public.notes; --`, `$1`, `$$; drop table notes; $$`, `\'; drop table notes; --`, `\`, `''''`, `%27%20or%201=1`, `/**/or/**/1=1`, `*/ or 1=1 /*`,
	`' and (select count(*) from pg_user) > 0 --`, `'::regclass`, `' collate "C" or true --`, `E'\x27`, `U&'\0027'`, `{{7*7}}`, `${7*7}`, `%s%n`, `-1 or 1=1`, "a\x00b", "’ or ‘1’=‘1", "ʼ or 1=1", "\u2028", `'; copy notes to program 'id'; --`,
	`' or author like '%`, `(select 1)`, `id::text`, `author ~ 'x'`, `id = any(array[1])`, `row(1)`, `"id" is not distinct from 1`, `current_user`, `(((((((((((((((((`,
}

// S32: whatever a filter says, nothing of it comes to the database; as a string or a name it is
// compared with what is there, and as a filter it is read by its grammar or refused.
func TestFilterNeverBecomesSQL(t *testing.T) {
	t.Parallel()
	traced := &statements{}
	w := notes(t, func(s *setup) { s.trace = traced })
	for i, text := range hostile {
		if !strings.Contains(text, "\x00") {
			w.db.Exec(t, fmt.Sprintf(`insert into public.notes values (%d, 1, %s, 'x')`, i, literal(text)))
		}
	}
	w.sequenced(t)
	p := w.dial(t)
	const canary = "kanarienvogel"
	for i, text := range hostile {
		exact := `author = '` + strings.ReplaceAll(text, "'", "''") + `' and body != '` + canary + `'`
		want := 1
		if strings.Contains(text, "\x00") {
			want = 0
		}
		if list := w.all(t, "notes:1", "filter="+url.QueryEscape(exact)); len(list) != want {
			t.Errorf("%s selects %d events", exact, len(list))
		}
		if rows := w.shown(t, "notes:1", exact); len(rows["notes:1"]) != want {
			t.Errorf("%s selects %v", exact, rows)
		}
		raws := []any{text, canary + text, "id = " + text, "author = '" + text + "' or body = '" + canary + "'", `"` + text + canary + `" = 1`, exact, map[string]any{"author": text, text + canary: canary}}
		for k, f := range raws {
			raw, err := json.Marshal(f)
			if err != nil {
				t.Fatal(err)
			}
			for n, frame := range []wire.Frame{{Type: wire.History, Topic: "notes:1", Filter: raw}, {Type: wire.Subscribe, Topic: "notes:1", Filter: raw}, {Type: wire.Subscribe, Topic: "notes:1", Filter: raw, Snapshot: true}} {
				frame.Ref = json.RawMessage(fmt.Sprintf(`"%d.%d.%d"`, i, k, n))
				p.send(frame)
				for done := false; !done; {
					f := p.next()
					switch f.Type {
					case wire.Error:
						done = true
						if f.Code != "invalid" {
							t.Errorf("%s: %+v", raw, f)
						}
					case wire.SubscribeDenied:
						if f.Reason != wire.ReasonInvalidFilter {
							t.Errorf("%s: %+v", raw, f)
						}
					case wire.History, wire.Subscribed:
						done = !frame.Snapshot
					case wire.Snapshot:
						done = !f.More
					}
				}
			}
		}
	}
	traced.mu.Lock()
	defer traced.mu.Unlock()
	all := traced.text.String()
	if traced.n < 100 || !strings.Contains(all, "snapshot_sql") {
		t.Errorf("only %d statements were seen", traced.n)
	}
	for _, text := range append([]string{canary, "passwd", "pg_sleep", "drop table", "pg_user"}, hostile[:8]...) {
		if i := strings.Index(all, text); i >= 0 {
			t.Errorf("%q has come to the database: %s", text, all[max(0, i-200):min(len(all), i+200)])
		}
	}
	if n := pgtest.Value[int](t, w.db, `select count(*)::int from public.notes`); n != len(hostile)-1 {
		t.Errorf("%d rows are left", n)
	}
}

// literal is a text as a constant of SQL.
func literal(text string) string {
	return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + `'`
}
