package migrations_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// secured makes a table with row security, and a role for its policy.
func secured(t *testing.T) (db *pgtest.DB, role string) {
	db = pgtest.New(t, nil)
	role = "reader_" + db.Name
	db.Exec(t, "create role "+role)
	t.Cleanup(func() { dropRoles(t, db, role) })
	db.Exec(t, `create table docs (id int primary key, owner text, room int); alter table docs enable row level security;
		create policy mine on docs for select to `+role+` using (owner = current_setting('request.jwt.claims')::jsonb->>'sub');
		grant select on docs to `+role)
	return db, role
}

// dropRoles is for cleanups, when the test's context is over.
func dropRoles(t *testing.T, db *pgtest.DB, role string) {
	conn, err := pgx.Connect(context.Background(), db.URL)
	if err == nil {
		_, err = conn.Exec(context.Background(), "drop owned by "+role+"; drop role "+role)
		_ = conn.Close(context.Background())
	}
	if err != nil {
		t.Errorf("drop role %s: %v", role, err)
	}
}

// What could not be enforced is refused with what mends it, and that does.
func TestEnforceRefuses(t *testing.T) {
	t.Parallel()
	db, role := secured(t)
	db.Exec(t, `select pgcast.attach('docs', topic => 'room:{room}')`)
	conn := db.Conn(t)
	call := "select pgcast.enforce('docs', '" + role + "')"
	tests := []struct{ breaks, call, code, message, hint, mends string }{
		{"", "select pgcast.enforce('pg_class', '" + role + "')", "55000", "pg_class is not attached", "pgcast.attach", ""},
		{"", "select pgcast.enforce('docs', null)", "22023", "no role", "", ""},
		{"", "select pgcast.enforce('docs', '" + role + "', '{}')", "22023", "are not claims", "", ""},
		{"", "select pgcast.enforce('docs', '" + role + "', '{exp}')", "22023", "are not claims", "not iat, exp", ""},
		{"", "select pgcast.enforce('docs', 'nobody at all')", "55000", `there is no role "nobody at all"`, "create role", ""},
		{"alter table docs disable row level security", call, "55000", "row security is not enabled on it", "alter table public.docs enable row level security;", ""},
		{"alter role " + role + " superuser", call, "55000", "a superuser", "", "alter role " + role + " nosuperuser"},
		{"alter role " + role + " bypassrls", call, "55000", "allowed to bypass it", "", "alter role " + role + " nobypassrls"},
		{"alter table docs owner to " + role, call, "55000", "owns it", "alter table public.docs force row level security;", ""},
		{"alter table docs owner to current_user; revoke select on docs from " + role, call, "55000", "may not read column id", "grant select on public.docs to " + role, ""},
		{"revoke usage on schema public from public", call, "55000", "may not use schema public", "grant usage on schema public to " + role, "grant usage on schema public to public"},
		{"alter table docs drop constraint docs_pkey", call, "55000", "which row", "add primary key", "alter table docs add primary key (id)"},
		{"create table other (id int primary key, n int); select pgcast.attach('other', topic => 'room:{n}')", call, "55000", "could be of one topic", "a topic of its own", "select pgcast.detach('other')"},
	}
	for _, tt := range tests {
		if _, err := conn.Exec(t.Context(), tt.breaks); err != nil {
			t.Fatal(err)
		}
		_, err := conn.Exec(t.Context(), tt.call)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != tt.code || !strings.Contains(pg.Message, tt.message) || !strings.Contains(pg.Hint, tt.hint) {
			t.Errorf("%s; %s: %v, hint %q", tt.breaks, tt.call, err, pg.Hint)
		}
		mends := tt.mends
		if mends == "" && strings.HasSuffix(pg.Hint, ";") && tt.breaks != "" {
			mends = pg.Hint
		}
		if _, err := conn.Exec(t.Context(), mends); err != nil {
			t.Fatal(err)
		}
		if tt.call == call {
			if _, err := conn.Exec(t.Context(), call+"; select pgcast.unenforce('docs')"); err != nil {
				t.Errorf("after %s: %v", mends, err)
			}
		}
	}
	// A role that may not become the other one.
	server := "server_" + db.Name
	db.Exec(t, `create role `+server+`; grant usage on schema pgcast, public to `+server+`; grant all on all tables in schema pgcast to `+server+`; grant execute on all functions in schema pgcast to `+server)
	t.Cleanup(func() { dropRoles(t, db, server) })
	_, err := conn.Exec(t.Context(), "set role "+server+"; "+call)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || !strings.Contains(pg.Hint, "grant "+role+" to "+server) {
		t.Errorf("a role that may not become the other: %v", err)
	}
}

// The other way round, too: nothing is attached to the topics of a table whose row security
// is enforced. What goes with the table goes.
func TestEnforceGuards(t *testing.T) {
	t.Parallel()
	db, role := secured(t)
	told := func() int {
		return pgtest.Value[int](t, db, `select count(*) from pgcast.event_log where topic = '__access' and event = 'enforced'`)
	}
	db.Exec(t, `select pgcast.attach('docs', topic => 'room:{room}'); select pgcast.enforce('docs', '`+role+`', '{sub,org,sub}'); create table other (id int primary key, room int)`)
	if got := pgtest.Value[string](t, db, `select concat_ws(' ', role, claims, key) from pgcast.enforcement`); got != role+" {org,sub} {id}" {
		t.Errorf("it noted %q", got)
	}
	_, err := db.Conn(t).Exec(t.Context(), `select pgcast.attach('other', topic => '{id}:{room}')`)
	if err == nil || !strings.Contains(err.Error(), "could be of one topic") {
		t.Errorf("a table with the same topics was attached: %v", err)
	}
	n := told()
	db.Exec(t, `select pgcast.attach('other', topic => 'rooms:{room}'); select pgcast.attach('docs', topic => 'room:{room}', old => true)`)
	if got := told(); got != n+1 {
		t.Errorf("servers were told %d times", got-n)
	}
	db.Exec(t, `select pgcast.detach('docs')`)
	if got := told(); got != n+2 || pgtest.Value[bool](t, db, `select exists (select from pgcast.enforcement)`) {
		t.Errorf("detached, it is enforced still, or nobody was told (%d)", got-n)
	}
	if pgtest.Value[bool](t, db, `select pgcast.unenforce('docs')`) {
		t.Error("unenforce says that it was")
	}
	db.Exec(t, `select pgcast.attach('docs', topic => 'room:{room}'); select pgcast.enforce('docs', '`+role+`'); drop table docs; select pgcast.refresh()`)
	if pgtest.Value[bool](t, db, `select exists (select from pgcast.enforced())`) {
		t.Error("of a dropped table it is enforced still")
	}
}

func TestTopicsOverlap(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"rooms", "rooms", true}, {"rooms", "room", false}, {"room:{a}", "room:{b}", true}, {"room:{a}", "rooms:{b}", false}, {"room:{a}", "room:{a}:x", false},
		{"{a}:{b}", "room:7", true}, {"{a}", "room:7", false}, {"a{x}b", "a{x}c", false}, {"a{x}b", "a{y}bb", true}, {"a{x}b", "aab", true}, {"a{x}b", "cab", false},
		{"_{x}", "%5F_a", true}, {"_{x}", "_a", true}, {"{x}", "~empty", true}, {"a:{x}:b", "a:{y}:c", false}, {"a:{x}-{y}", "a:{z}", true},
	} {
		for _, call := range []string{"'" + tt.a + "', '" + tt.b + "'", "'" + tt.b + "', '" + tt.a + "'"} {
			if got := pgtest.Value[bool](t, db, "select pgcast.topics_overlap("+call+")"); got != tt.want {
				t.Errorf("topics_overlap(%s): %t", call, got)
			}
		}
	}
}

// Down and up again with a table whose row security is enforced.
func TestDownEnforced(t *testing.T) {
	t.Parallel()
	db, role := secured(t)
	db.Exec(t, `select pgcast.attach('docs', topic => 'room:{room}'); select pgcast.enforce('docs', '`+role+`')`)
	for pgtest.Value[bool](t, db, `select to_regclass('pgcast.enforcement') is not null`) {
		if err := migrations.Down(t.Context(), db.URL); err != nil {
			t.Fatal(err)
		}
	}
	db.Exec(t, `insert into docs values (1, 'ann', 1)`)
	if err := migrations.Up(t.Context(), db.URL); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `select pgcast.enforce('docs', '`+role+`')`)
}
