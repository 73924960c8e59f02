package migrations_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// What becomes of a group is told to its topic, in the same transaction; what changes
// nothing is not told.
func TestGroup(t *testing.T) {
	t.Parallel()
	run(t, nil, []step{
		{`do $$ begin assert pgcast.create_group('lobby', 50, '{"game": "chess"}'); end $$`, []string{
			`group:lobby created {"max": 50, "meta": {"game": "chess"}, "roles": ["member", "admin", "viewer"]}`}},
		{`do $$ begin assert not pgcast.create_group('lobby', 2); end $$`, nil},
		{`select pgcast.create_group('game:7', roles => '{white,black}')`, []string{
			`group:game:7 created {"max": 0, "meta": {}, "roles": ["white", "black"]}`}},
		{`select pgcast.set_group('lobby', meta => '{"a": 1}')`, []string{
			`group:lobby changed {"max": 50, "meta": {"a": 1}, "roles": ["member", "admin", "viewer"]}`}},
		{`select pgcast.set_group('lobby', max_members => 0, roles => '{x}')`, []string{
			`group:lobby changed {"max": 0, "meta": {"a": 1}, "roles": ["x"]}`}},
		{`do $$ begin assert pgcast.close_group('lobby'); end $$`, []string{
			`group:lobby closed {"max": 0, "meta": {"a": 1}, "roles": ["x"]}`}},
		{`do $$ begin
			assert not pgcast.close_group('lobby'); assert not pgcast.set_group('lobby', '{}'); assert not pgcast.create_group('lobby');
			assert not pgcast.close_group('nobody'); assert not pgcast.set_group('nobody', '{}');
		end $$`, nil},
		{`select pgcast.create_group('plain', null, null, null)`, []string{
			`group:plain created {"max": 0, "meta": {}, "roles": ["member", "admin", "viewer"]}`}},
		{`begin; select pgcast.create_group('undone'); rollback`, nil},
		{`do $$ begin assert not pgcast.close_group('undone'); end $$`, nil},
		// With whatever the session has set, and by whatever collation the name comes.
		{`set search_path = ''; set quote_all_identifiers = on; do $$ begin assert pgcast.close_group('game:7' collate "ucs_basic"); end $$`, []string{
			`group:game:7 closed {"max": 0, "meta": {}, "roles": ["white", "black"]}`}},
	})
}

// What cannot be a group is refused, and nothing is written.
func TestGroupRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	for _, call := range []string{
		`create_group(null)`, `create_group('')`, `create_group(repeat('x', 201))`, `create_group('a"b')`, `create_group('a:*')`, `create_group('ä')`,
		`create_group('a', -1)`, `create_group('a', meta => '[]')`, `create_group('a', meta => jsonb_build_object('x', repeat('x', 70000)))`,
		`create_group('a', roles => '{}')`, `create_group('a', roles => '{a,null}')`, `create_group('a', roles => '{""}')`,
		`create_group('a', roles => array_fill('x'::text, '{33}'))`, `create_group('a', roles => '{{a,b}}')`, `set_group('a', meta => '1')`, `set_group(null)`, `close_group('**')`,
	} {
		_, err := conn.Exec(t.Context(), "select pgcast."+call)
		if err == nil || !strings.Contains(err.Error(), "22023") {
			t.Errorf("%s: %v; want 22023", call, err)
		}
	}
	if n := pgtest.Value[int](t, db, "select count(*)::int from pgcast.event_log"); n != 0 {
		t.Errorf("%d events were written", n)
	}
}

// PUBLIC may not call the functions; who may needs no right to the tables.
func TestGroupRights(t *testing.T) {
	t.Parallel()
	conn := pgtest.New(t, nil).Conn(t)
	const begin = "begin; create role %[1]s; grant usage on schema pgcast to %[1]s; %[2]s; set local role %[1]s; %[3]s"
	role := pgx.Identifier{conn.Config().Database + "_app"}.Sanitize()
	in := func(grant, sql string) error {
		_, err := conn.Exec(t.Context(), fmt.Sprintf(begin, role, grant, sql))
		if _, end := conn.Exec(t.Context(), "rollback"); end != nil { // the role with it
			t.Fatal(end)
		}
		return err
	}
	for _, call := range []string{`create_group('a')`, `set_group('a', '{}')`, `close_group('a')`, `tell_group('a', 'b')`} {
		if err := in("select", "select pgcast."+call); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("a stranger called %s: %v", call, err)
		}
	}
	if err := in("grant execute on function pgcast.create_group, pgcast.set_group, pgcast.close_group to "+role,
		"do $$ begin assert pgcast.create_group('a', 3); assert pgcast.set_group('a', '{}'); assert pgcast.close_group('a'); end $$"); err != nil {
		t.Error(err)
	}
}
