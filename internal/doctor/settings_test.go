package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

func TestSessionLimits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	name, url := role(t, db, "")
	examine(t, url, nil, "session-limits", "max-connections").want(t, "session-limits", OK)
	run(t, conn, "alter role "+name+" set statement_timeout = '2s'")
	run(t, conn, "alter role "+name+" set idle_session_timeout = '60s'")
	rs := examine(t, url, nil, "session-limits", "max-connections")
	rs.want(t, "session-limits", Warn, "statement_timeout is 2000 ms for role "+name)
	rs.want(t, "session-limits", Note, "idle_session_timeout")
	rs.mends(t, conn, "session-limits")
	examine(t, url, nil, "session-limits").want(t, "session-limits", OK)

	rs.want(t, "max-connections", OK, "of 500 in use", "may want 18")
	examine(t, url, func(d *Doctor) { d.opts.PoolSize = 1000 }, "max-connections").want(t, "max-connections", Warn, "may want 1008", "max_connections = 2516")
	examine(t, url, func(d *Doctor) { d.opts.Access = true }, "max-connections").want(t, "max-connections", OK, "may want 30")
	run(t, conn, "alter role "+name+" connection limit 5")
	rs = examine(t, url, nil, "max-connections")
	rs.want(t, "max-connections", Warn, "limited to 5 connections")
	for _, sql := range strings.Split(rs[len(rs)-1].Mend, ";") {
		run(t, conn, sql)
	}
	examine(t, url, nil, "max-connections").want(t, "max-connections", OK)
}

func TestSlots(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	conn := db.Conn(t)
	run(t, conn, "select pg_create_physical_replication_slot('"+db.Name+"', true)")
	all := func(d *Doctor) { d.limits.listed = 1000 }
	rs := examine(t, db.URL, all, "slots")
	rs.want(t, "slots", Warn, "nobody reads slot "+db.Name, "without limit", "select pg_drop_replication_slot('"+db.Name+"')")
	run(t, conn, "select pg_drop_replication_slot('"+db.Name+"')")
	if rs := examine(t, db.URL, all, "slots"); rs.has("slots", Warn, db.Name) {
		t.Errorf("%+v", rs)
	}
}

// On a cluster as it should be, with a role as it should be, nothing is wrong; then one
// setting after the other goes wrong.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	admin, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, admin, "create role server login")
	run(t, admin, "grant pg_read_all_stats, pg_read_all_settings to server")
	run(t, admin, "create database app owner server")
	url := strings.Replace(c.URL("app"), "postgres@", "server@", 1)
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	db := &pgtest.DB{URL: url, Name: "app"}
	db.Exec(t, "create table t (id int primary key); select pgcast.attach('t'); insert into t values (1)")
	stop := sequence(t, db)
	var rs results
	until(t, "all is well", func() bool {
		rs = examine(t, url, func(d *Doctor) { d.limits.diskWarn, d.limits.diskFail, d.opts.MaxSessions = 0, 0, 1 })
		for _, r := range rs {
			if r.State != OK {
				t.Log(r)
				return false
			}
		}
		return len(rs) == len(catalogue)-(len(redisChecks)-1) // there is no Redis
	})

	for _, s := range []struct {
		sql, check string
		state      State
		says       string
	}{
		{"fsync = off", "durability", Fail, "fsync is off"},
		{"full_page_writes = off", "durability", Fail, "full_page_writes is off"},
		{"synchronous_commit = off", "durability", Note, "synchronous_commit is off"},
		{"synchronous_standby_names = 'nobody'", "standbys", Fail, "commits wait for ever"},
		{"track_activities = off", "track-activities", Warn, "track_activities is off"},
		{"autovacuum = off", "vacuum", Warn, "autovacuum is off"},
		{"track_counts = off", "vacuum", Warn, "track_counts is off"},
		{"max_slot_wal_keep_size = '1GB'", "slots", OK, "is 1024 MB"},
	} {
		setting, _, _ := strings.Cut(s.sql, " = ")
		run(t, admin, "alter system set "+s.sql)
		run(t, admin, "select pg_reload_conf()")
		until(t, s.sql, func() bool { return examine(t, url, nil, s.check).has(s.check, s.state, s.says) })
		run(t, admin, "alter system reset "+setting)
		run(t, admin, "select pg_reload_conf()")
		until(t, "reset "+setting, func() bool { return !examine(t, url, nil, s.check).has(s.check, s.state, s.says) })
	}

	// An encoding that JSON cannot have, and then the whole cluster as a standby.
	run(t, admin, "create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")
	examine(t, c.URL("latin"), nil, "encoding").want(t, "encoding", Fail, "LATIN1", "encoding 'UTF8'")
	var data string
	if err := admin.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	admin.Close(t.Context())
	stop()
	if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Restart(t.Context(), devpg.Fast); err != nil {
		t.Fatal(err)
	}
	rs = examine(t, url, nil)
	rs.want(t, "primary", Fail, "read-only standby", "target_session_attrs")
	rs.want(t, "doorbell", Skip, "standby")
	rs.want(t, "slots", Skip, "standby")
	rs.want(t, "cluster-identity", Skip, "standby")
	rs.want(t, "migrations", OK)
	rs.want(t, "triggers", OK)
	rs.want(t, "lag", OK)
}

func TestMinimalCluster(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{Settings: map[string]string{"wal_level": "minimal", "max_wal_senders": "0", "max_connections": "10",
		"superuser_reserved_connections": "3", "fsync": "off"}})
	url := c.URL("postgres")
	rs := examine(t, url, nil, "wal-level", "max-connections", "durability")
	rs.want(t, "wal-level", Warn, "minimal", "wal_level = replica")
	rs.want(t, "max-connections", Warn, "of 10 in use", "are free")
	rs.want(t, "durability", Fail, "fsync is off", "alter system set fsync = on")
}
