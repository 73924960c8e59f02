package roles_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/roles"
)

// TestNames divides the rights where roles, schemas, tables, columns and types have names that
// break SQL put together carelessly, and then captures, and reads a snapshot as the server.
func TestNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	do := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	short := db.Name[:10]
	do(`create table public.plain (id int primary key)`)
	awkward := []string{`a"b`, `x;drop table plain`, `%s%I%L`, "line\nbreak", `$$`, `a$`, `$x$$`, `it's`, `back\slash`, `Ünïcödé 名`, `{br}`, ` `, `select`, `a,b) to public; --`, strings.Repeat("é", 20)}
	var o roles.Options
	for i, name := range awkward {
		again := i%5 > 0 // the same roles, for another table
		if !again {
			role := func(as string, k int) string {
				return fmt.Sprintf("%s%d%s%s", short, i, as, awkward[(i+k)%len(awkward)])
			}
			o = roles.Options{Owner: role("o", 0), Server: role("s", 1), Writer: role("w", 2)}
		}
		q := func(name string) string { return pgx.Identifier{name}.Sanitize() }
		s := strings.NewReplacer("SCHEMA", q("s"+name), "TABLE", q(name), "KEY", q(name), "COLUMN", q(name+"c"), "TYPE", q(name+"t"), "SERVER", q(o.Server), "WRITER", q(o.Writer),
			"LABEL", "'"+strings.ReplaceAll(name, "'", "''")+"'", "TEMPLATE", fmt.Sprintf("'t%d:{", i)+strings.ReplaceAll(strings.ReplaceAll(name+"c", "'", "''"), "}", "}}")+"}'")
		do(s.Replace(`create schema SCHEMA; create type SCHEMA.TYPE as enum (LABEL, 'other'); create table SCHEMA.TABLE (KEY int primary key, COLUMN SCHEMA.TYPE, secret text)`))
		if _, err := conn.Exec(t.Context(), `select pgcast.attach($1::text::regclass, topic => `+s.Replace("TEMPLATE")+`, without => '{secret}')`, q("s"+name)+"."+q(name)); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if again {
			apply(t, db, o)
		} else {
			setUp(t, db, o)
		}
		do(s.Replace(`grant usage on schema SCHEMA to WRITER; grant insert on SCHEMA.TABLE to WRITER; set session authorization WRITER; insert into SCHEMA.TABLE values (1, LABEL, 'canary'), (2, 'other', 'canary');
			set session authorization SERVER`))
		rows, err := conn.Query(t.Context(), `select s.statement from pgcast.snapshot_sql($2 || pgcast.encode_value($1)) s`, name, fmt.Sprintf("t%d:", i))
		if err != nil {
			t.Fatal(err)
		}
		statement, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		rows, err = conn.Query(t.Context(), `select x.data::json->>$1 from (`+statement+`) x`, name+"c")
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if got, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(got) != 1 || got[0] != name {
			t.Errorf("%q: a snapshot has %q, %v", name, got, err)
		}
		if _, err := conn.Exec(t.Context(), s.Replace(`select secret from SCHEMA.TABLE`)); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%q: the server reads what is not captured: %v", name, err)
		}
		do(`reset session authorization`)
	}
	if n := list(t, conn, `select count(*)::text from pgcast.event_log where event = 'created' and data->>'secret' is null`); n[0] != "30" {
		t.Errorf("%s events, want 30", n[0])
	}
	do(`select from public.plain`)
}
