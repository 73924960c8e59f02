package main

import (
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// as gives the URL of a database for another role.
func as(t *testing.T, db *pgtest.DB, role string) string {
	t.Helper()
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// TestRoles goes the way of docs/roles.md: divide the rights, attach as who deploys, serve as
// the server's role, migrate as a member of the owner, and take it all away again.
func TestRoles(t *testing.T) {
	t.Parallel()
	s, db := withDatabase(t, nil)
	owner, server, writer := db.Name+"_o", db.Name+"_s", db.Name+"_w"
	flags := []string{"--owner", owner, "--server", server, "--writer", writer}
	with := func(args ...string) []string { return append(args, flags...) }

	s.run(t, with("roles", "--print", "--apply")...).fails(t, 2, "choose one")
	s.run(t, "roles", "--owner", server, "--server", server).fails(t, 1, "three different names")
	script := s.run(t, with("roles", "--print")...).ok(t)
	if !strings.HasPrefix(script, "begin;\n\n-- Roles. ") || !strings.HasSuffix(script, "\ncommit;") || strings.Contains(script, "replication;") {
		t.Errorf("it prints\n%s", script)
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pg_roles where rolname = $1", owner); n != 0 {
		t.Error("--print made a role")
	}
	conn := db.Conn(t)
	for range 2 { // as psql does
		if _, err := conn.Exec(t.Context(), script, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	r := s.run(t, with("roles", "--apply")...)
	if r.ok(t); !strings.Contains(r.err, "servers run as "+server) {
		t.Errorf("it says\n%s", r.err)
	}

	deploy := db.Name + "_d"
	db.Exec(t, "create role "+deploy+" login; grant "+owner+" to "+deploy+"; create table public.m (id int primary key, secret text); alter table public.m owner to "+deploy)
	s.run(t, "attach", "public.m", "--except", "secret", "--database-url", as(t, db, deploy)).ok(t)
	if got := pgtest.Value[string](t, db, "select string_agg(distinct proowner::regrole::text, ' ') from pg_proc where pronamespace = 'pgcast'::regnamespace"); got != owner {
		t.Errorf("functions of schema pgcast belong to %s", got)
	}
	s.run(t, with("roles", "--apply")...).ok(t)
	if got := pgtest.Value[bool](t, db, "select has_column_privilege($1, 'm', 'id', 'select') and not has_column_privilege($1, 'm', 'secret', 'select')", server); !got {
		t.Error("the server may not read the captured column, or may read the other one")
	}
	p := s.start(t, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--database-url", as(t, db, server))
	p.says("leading")
	s.run(t, "publish", "a", "said", `1`, "--database-url", as(t, db, server)).ok(t)
	s.run(t, "publish", "a", "said", `1`, "--database-url", as(t, db, deploy)).ok(t)
	s.run(t, "detach", "public.m", "--database-url", as(t, db, server)).fails(t, 1, "permission denied for function detach")

	// Who migrates does it in the owner's name, and what he makes belongs to it.
	for _, role := range []string{deploy, "postgres"} {
		s.run(t, "migrate", "down", "--yes", "--database-url", as(t, db, role)).ok(t)
		s.run(t, "migrate", "up", "--database-url", as(t, db, role)).ok(t)
	}
	if got := pgtest.Value[string](t, db, `select string_agg(distinct o::regrole::text, ' ') from (select relowner from pg_class where relnamespace = 'pgcast'::regnamespace
		union select proowner from pg_proc where pronamespace = 'pgcast'::regnamespace) x (o)`); got != owner {
		t.Errorf("after migrating all belongs to %s", got)
	}
	s.run(t, "migrate", "down", "--yes", "--database-url", as(t, db, server)).fails(t, 1)
	if p.stop(syscall.SIGTERM) != 0 {
		t.Error("serve ended with an error")
	}

	// What they were granted goes; the roles stay, but if asked.
	r = s.run(t, with("uninstall")...)
	if r.fails(t, 1, "removes everything"); !strings.Contains(r.out, "rights\t"+server+" on table public.m") || strings.Contains(r.out, "role\t") {
		t.Errorf("uninstall lists\n%s", r.out)
	}
	s.run(t, with("uninstall", "--yes")...).ok(t)
	if n := pgtest.Value[int](t, db, "select count(*)::int from pg_roles where rolname in ($1, $2, $3)", owner, server, writer); n != 3 {
		t.Errorf("%d of the roles are left", n)
	}
	if _, err := conn.Exec(t.Context(), "drop table m"); err != nil {
		t.Error(err)
	}
	r = s.run(t, with("uninstall", "--yes", "--drop-roles")...)
	if r.ok(t); strings.Count(r.err, "removed role") != 3 {
		t.Errorf("uninstall says\n%s", r.err)
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pg_roles where rolname in ($1, $2, $3)", owner, server, writer); n != 0 {
		t.Errorf("%d of the roles are left", n)
	}
	db.Exec(t, "drop role "+deploy)
}
