package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/internal/roles"
)

// TestServerRole looks as a role that may do what servers do, and as roles that may more.
func TestServerRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	name, url := role(t, db, "")
	o := roles.Options{Owner: db.Name + "_owner", Server: name, Writer: db.Name + "_writer"}
	t.Cleanup(func() {
		for _, r := range []string{o.Owner, o.Writer} {
			for _, sql := range []string{"reassign owned by " + r + " to current_user", "drop owned by " + r + " cascade", "drop role " + r} {
				if _, err := conn.Exec(context.Background(), sql); err != nil {
					t.Error(err)
				}
			}
		}
	})
	sections, err := roles.Script(t.Context(), conn, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections {
		for _, sql := range s.Statements {
			run(t, conn, sql)
		}
	}
	rs := examine(t, url, nil, "privileges", "grants")
	rs.want(t, "privileges", Note, "may do all that is needed", "grant pg_read_all_stats")
	rs.want(t, "grants", OK)
	rs.mends(t, conn, "privileges")
	examine(t, url, nil, "privileges").want(t, "privileges", OK, "no more of what the owner may")

	run(t, conn, "revoke select on pgcast.group_info from "+name)
	run(t, conn, "revoke update (term) on pgcast.sequencer from "+name)
	examine(t, url, nil, "privileges").want(t, "privileges", Fail, "lacks update (term) on pgcast.sequencer, select on pgcast.group_info", "pgcast roles --apply --owner "+o.Owner+" --server "+name)
	run(t, conn, "grant select on pgcast.group_info to "+name)
	run(t, conn, "grant update (term) on pgcast.sequencer to "+name)

	run(t, conn, "create table shown (id int primary key, secret text); select pgcast.attach('shown', without => '{secret}')")
	examine(t, url, nil, "privileges").want(t, "privileges", Warn, "may not read shown", "pgcast roles --apply")
	run(t, conn, "grant select (id) on shown to "+name)
	examine(t, url, nil, "privileges").want(t, "privileges", OK)

	// What is no server's right, and whoever is none.
	run(t, conn, "grant update on pgcast.event_log to "+name)
	run(t, conn, "grant insert (xid) on pgcast.event_log to "+o.Writer)
	run(t, conn, "grant delete on pgcast.event_log to "+o.Writer)
	rs = examine(t, db.URL, nil, "grants")
	rs.want(t, "grants", Fail, name+" may update pgcast.event_log", "revoke update on pgcast.event_log from "+name)
	rs.want(t, "grants", Fail, o.Writer+" may insert (xid) pgcast.event_log", "revoke insert (xid) on")
	rs.want(t, "grants", Fail, o.Writer+" may delete pgcast.event_log")
	rs.mends(t, conn, "grants")
	examine(t, db.URL, nil, "grants").want(t, "grants", OK)

	run(t, conn, "grant "+o.Owner+" to "+name)
	rs = examine(t, url, nil, "privileges")
	rs.want(t, "privileges", Warn, "can do anything to the log")
	rs.mends(t, conn, "privileges")
	examine(t, url, nil, "privileges").want(t, "privileges", OK)
}

// On another machine than the database's, a server that runs as more than it needs is a warning.
func TestTooManyRights(t *testing.T) {
	for _, tt := range []struct {
		superuser bool
		standing  standing
		want      State
		says      string
	}{
		{true, standing{owns: true, reads: true, local: true}, Note, "superuser"},
		{true, standing{owns: true, reads: true}, Warn, "superuser"},
		{false, standing{owns: true, reads: true, local: true}, OK, "owns schema pgcast"},
		{false, standing{owns: true, reads: true}, Warn, "more than is needed"},
		{false, standing{owns: true, divided: true, reads: true, local: true}, Warn, "a member of owner"},
		{false, standing{divided: true, reads: true}, OK, "no more"},
	} {
		f := judgePrivileges(&facts{role: "r", owner: "owner", superuser: tt.superuser}, tt.standing, nil)
		if f.state != tt.want || !strings.Contains(f.found, tt.says) {
			t.Errorf("%+v: %+v, want %s", tt, f, tt.want)
		}
		if f.state == Warn && f.mend.text == "" {
			t.Errorf("%+v: nothing mends it", tt)
		}
	}
}
