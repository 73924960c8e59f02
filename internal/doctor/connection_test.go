package doctor

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/replay"
)

// nobody gives an address that was free a moment ago; nobody answers there.
func nobody(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	rs := examine(t, "postgres://u:secret@"+nobody(t)+"/x", func(d *Doctor) { d.opts.RedisURL = "redis://u:secret@" + nobody(t) })
	rs.want(t, "redis", Fail, "refused", "redis-cli -h 127.0.0.1")
	rs.want(t, "connection", Fail, "refused", "pg_isready -h 127.0.0.1")
	told := map[string]bool{}
	for _, r := range rs {
		told[r.Name] = true
		if strings.Contains(r.Found+r.Mend, "secret") {
			t.Errorf("the password is told: %+v", r)
		}
		if r.State != Skip && r.Name != "connection" && r.Name != "redis" && r.Name != "open-files" {
			t.Errorf("%s was looked at without a connection: %+v", r.Name, r)
		}
	}
	for _, name := range Names() {
		if !told[name] {
			t.Errorf("nothing is told of %s", name)
		}
	}

	db := pgtest.New(t, &pgtest.Options{Empty: true})
	examine(t, strings.Replace(db.URL, db.Name, "nosuch", 1), nil, "encoding").want(t, "connection", Fail, `"nosuch" does not exist`, `create database "nosuch"`)
	examine(t, strings.Replace(db.URL, "postgres@", "nosuch@", 1), nil).want(t, "connection", Fail, "nosuch", "pg_hba.conf")
	examine(t, db.URL, func(d *Doctor) { d.limits.roundTrip = -1 }, "encoding").want(t, "connection", Note, "a round trip", "nearer")
}

func TestSilentPeer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rs := examine(t, "postgres://u@"+l.Addr().String()+"/x", func(d *Doctor) { d.opts.CheckTimeout = 100 * time.Millisecond })
	if !rs.has("connection", Fail) || !rs.has("lag", Skip, "no connection") {
		t.Errorf("%+v", rs)
	}
}

func TestConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	names := []string{"server-version", "encoding", "primary", "pool-connection", "encryption", "doorbell", "tcp-timeouts", "clock"}
	rs := examine(t, db.URL, nil, names...)
	for _, n := range append(names, "connection") {
		rs.want(t, n, OK)
	}
	rs.want(t, "doorbell", OK, "heard it")

	dir := pgtest.Value[string](t, db, "select trim(both '\"' from current_setting('unix_socket_directories'))")
	u, _ := url.Parse(db.URL)
	rs = examine(t, "postgres://postgres@/"+db.Name+"?host="+url.QueryEscape(dir)+"&port="+u.Port(), nil, "encryption", "tcp-timeouts", "doorbell")
	rs.want(t, "encryption", OK, "a local socket")
	rs.want(t, "tcp-timeouts", OK, "a local socket")
	rs.want(t, "doorbell", OK)

	examine(t, db.URL, func(d *Doctor) { d.limits.clockSkew = -time.Hour }, "clock").want(t, "clock", Warn, "ours", "set-ntp")
	db.Exec(t, "alter database "+db.Name+" set default_transaction_read_only = on")
	rs = examine(t, db.URL, nil, "primary")
	rs.want(t, "primary", Fail, "read_only", "= off")
}

func TestPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	examine(t, proxy.URL, nil, "doorbell").want(t, "doorbell", OK)
	proxy.Deafen(true)
	examine(t, proxy.URL, nil, "doorbell").want(t, "doorbell", Warn, "poll", "--direct-database-url")
	examine(t, proxy.URL, func(d *Doctor) { d.opts.Wake = replay.WakeNotify }, "doorbell").want(t, "doorbell", Fail, "wake=notify")
	// What goes through the proxy leads to the same database.
	through := func(d *Doctor) { d.opts.DatabaseURL = proxy.URL }
	examine(t, db.URL, through, "pool-connection").want(t, "pool-connection", OK, "same database", "prepared statements work")

	other := pgtest.New(t, &pgtest.Options{Empty: true})
	examine(t, db.URL, func(d *Doctor) { d.opts.DatabaseURL = other.URL }, "pool-connection").want(t, "pool-connection", Fail, "another database")
	cluster := pgtest.New(t, &pgtest.Options{Empty: true, Kind: pgtest.TwoPhase})
	examine(t, db.URL, func(d *Doctor) { d.opts.DatabaseURL = cluster.URL }, "pool-connection").want(t, "pool-connection", Fail, "another database")
	examine(t, db.URL, func(d *Doctor) { d.opts.DatabaseURL = "postgres://" + nobody(t) + "/x" }, "pool-connection").want(t, "pool-connection", Fail, "refused")
}

// What a proxy on the way loses costs one check its answer, and no other.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	proxy := pgtest.NewProxy(t, db.URL)
	d := New(&Options{DatabaseURL: proxy.URL, CheckTimeout: 2 * time.Second})
	states := map[State]int{}
	if err := d.Run(t.Context(), func(r Result) error {
		states[r.State]++
		if r.Name == "schema" {
			proxy.Freeze()
		}
		if r.Name == "privileges" && (r.State != Warn || !strings.Contains(r.Found, "no answer within 2s")) {
			t.Errorf("%+v", r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if states[OK] < len(catalogue)/2 {
		t.Errorf("most should be well: %v", states)
	}
}

// A database that goes away meanwhile is a failure, and the rest is skipped.
func TestLost(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	admin := db.Conn(t)
	states := map[State]int{}
	if err := New(&Options{DatabaseURL: db.URL}).Run(t.Context(), func(r Result) error {
		states[r.State]++
		if r.Name == "schema" {
			run(t, admin, "update pg_database set datallowconn = false where datname = current_database()")
			run(t, admin, "select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if states[Fail] == 0 || states[Skip] < 20 {
		t.Errorf("%v", states)
	}
	run(t, admin, "update pg_database set datallowconn = true where datname = current_database()")
}

func TestOldServer(t *testing.T) {
	t.Parallel()
	list, err := checkVersion(t.Context(), &exam{facts: facts{version: 130022, release: "13.22"}})
	if err != nil || list[0].state != Fail || !strings.Contains(list[0].mend.text, "14 or newer") {
		t.Errorf("%+v, %v", list, err)
	}
}

// A check that hangs is told, and hides no other.
func TestHangingCheck(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	begin(t, db, "lock table pgcast.event_log in access exclusive mode")
	rs := examine(t, db.URL, func(d *Doctor) { d.opts.CheckTimeout = 500 * time.Millisecond }, "size", "retention", "event-times", "wal-level")
	rs.want(t, "size", Warn, "no answer within", "pg_blocking_pids")
	rs.want(t, "event-times", Warn, "no answer within")
	if !rs.has("retention", OK) && !rs.has("retention", Warn, "no answer") { // the machine may be that slow
		t.Errorf("retention: %+v", rs)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	told := 0
	err := New(&Options{DatabaseURL: db.URL}).Run(ctx, func(Result) error {
		told++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("told %d results, error %v", told, err)
	}
	sorry := errors.New("the disk is full")
	if err := New(&Options{DatabaseURL: db.URL}).Run(t.Context(), func(Result) error { return sorry }); !errors.Is(err, sorry) {
		t.Errorf("error %v", err)
	}
}

// The doctor changes nothing: not a row, not a transaction number.
func TestChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, &pgtest.Options{Empty: true})
	examine(t, db.URL, nil)
	if n := pgtest.Value[int](t, db, "select count(*)::int from pg_class where oid >= 16384"); n != 0 {
		t.Errorf("it left %d objects in an empty database", n)
	}
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("pgbouncer"); err != nil {
		t.Skip("pgbouncer is not installed; TestPooler shows the same with a proxy that swallows notifications")
	}
	db := pgtest.New(t, nil)
	bouncer := startBouncer(t, db)
	rs := examine(t, bouncer, nil, "doorbell", "sequencer")
	rs.want(t, "doorbell", Warn, "a pooler answers", "--direct-database-url")
	rs.want(t, "sequencer", Note, "take turns")
	examine(t, db.URL, func(d *Doctor) { d.opts.DatabaseURL = bouncer }, "pool-connection").want(t, "pool-connection", Fail, "prepared statements do not work", "default_query_exec_mode=exec")
	examine(t, db.URL, func(d *Doctor) { d.opts.DatabaseURL = bouncer + "&default_query_exec_mode=exec" }, "pool-connection").want(t, "pool-connection", OK)
}
