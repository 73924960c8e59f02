package listener

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
)

const within = time.Minute

// await waits until the condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("%s: still not so after %v", what, within)
		case <-tick.C:
		}
	}
}

func dial(t testing.TB, databaseURL string) *Line {
	t.Helper()
	l, err := Dial(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bell listens, and has heard itself.
func bell(t testing.TB, databaseURL string) *Line {
	t.Helper()
	l := dial(t, databaseURL)
	ok(t, l.Listen(t.Context(), ChannelBell))
	ok(t, l.Prove(t.Context(), ChannelBell))
	return l
}

func setting(t testing.TB, conn *pgx.Conn, name string) (value string) {
	t.Helper()
	ok(t, conn.QueryRow(t.Context(), "select current_setting($1)", name).Scan(&value))
	return value
}

func TestDial(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := dial(t, d.URL).Conn()
	for name, want := range map[string]string{
		"application_name":                    "pgcast",
		"tcp_user_timeout":                    "3s",
		"tcp_keepalives_idle":                 "1",
		"idle_in_transaction_session_timeout": "5s",
		"idle_session_timeout":                "0",
		"statement_timeout":                   "0",
		"default_transaction_isolation":       "read committed",
		"synchronous_commit":                  "on",
		"enable_seqscan":                      "off",
		"enable_bitmapscan":                   "off",
		"jit":                                 "off",
		"plan_cache_mode":                     "force_generic_plan",
	} {
		if got := setting(t, conn, name); got != want && (name != "tcp_user_timeout" || got != "3000") {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := setting(t, dial(t, d.URL+"&application_name=mine&default_transaction_read_only=on").Conn(), "application_name"); got != "mine" {
		t.Errorf("application_name is %s", got)
	}
	reached, err := Reach(t.Context(), d.URL)
	ok(t, err)
	defer reached.Close()
	if got := setting(t, reached.Conn(), "enable_seqscan"); got != "on" {
		t.Error("a session that may be a pooler's is changed")
	}
	ok(t, reached.Own(t.Context()))
	if got := setting(t, reached.Conn(), "enable_seqscan"); got != "off" {
		t.Error("a session of our own is not set up")
	}
	for _, bad := range []string{"postgres://%", "postgres://postgres@127.0.0.1:1/none?sslmode=disable", d.URL + "x"} {
		if l, err := Dial(t.Context(), bad); err == nil {
			l.Close()
			t.Errorf("%s is dialled", bad)
		}
	}
}

// TestDialStandby: a cluster that replays somebody else's log cannot sequence.
func TestDialStandby(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	found, err := filepath.Glob(filepath.Join(c.Dir(), "*", "PG_VERSION"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	ok(t, os.WriteFile(filepath.Join(filepath.Dir(found[0]), "standby.signal"), nil, 0o666))
	ok(t, c.Restart(t.Context(), devpg.Fast))
	if l, err := Dial(t.Context(), c.URL("postgres")); !errors.Is(err, ErrStandby) {
		if err == nil {
			l.Close()
		}
		t.Errorf("dial a standby: %v", err)
	}
}

func TestPrepared(t *testing.T) {
	t.Parallel()
	for kind, want := range map[pgtest.Kind]bool{pgtest.Doorbell: false, pgtest.TwoPhase: true} {
		if got, err := dial(t, pgtest.New(t, &pgtest.Options{Kind: kind}).URL).Prepared(t.Context()); got != want || err != nil {
			t.Errorf("%v: %t, %v", kind, got, err)
		}
	}
}

func TestLocks(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	a, b := dial(t, d.URL), dial(t, d.URL)
	try := func(l *Line, lock Lock, shared, want bool) {
		t.Helper()
		if got, err := l.TryLock(t.Context(), lock, shared); got != want || err != nil {
			t.Errorf("lock %d, shared %t: %t, %v", lock, shared, got, err)
		}
	}
	try(a, Lead, false, true)
	try(b, Lead, false, false)
	try(b, Asleep, false, true) // the locks have nothing to do with each other
	ok(t, a.Unlock(t.Context(), Lead, false))
	try(b, Lead, false, true)
	try(a, Follow, true, true)
	try(b, Follow, true, true)
	ok(t, a.Unlock(t.Context(), Follow, true))
	try(a, Follow, false, false)
	b.Close() // ends its session, and with it its locks
	await(t, "the lock is free", func() bool {
		got, err := a.TryLock(t.Context(), Lead, false)
		ok(t, err)
		return got
	})
	// What capture does is the same lock.
	tx, err := d.Conn(t).Begin(t.Context())
	ok(t, err)
	_, err = tx.Exec(t.Context(), "select pgcast.publish('a', 'e')")
	ok(t, err)
	await(t, "only the writer is in the way", func() bool {
		got, err := a.TryLock(t.Context(), Asleep, true)
		ok(t, err)
		ok(t, a.Unlock(t.Context(), Asleep, true))
		return got
	})
	try(a, Asleep, false, false)
	ok(t, tx.Commit(t.Context()))
	try(a, Asleep, false, true)
}

func TestWait(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	l := bell(t, d.URL)
	expect := func(d time.Duration, wantHeard, wantOwn bool) {
		t.Helper()
		if heard, own, err := l.Wait(t.Context(), d); heard != wantHeard || own != wantOwn || err != nil {
			t.Fatalf("heard %t, own %t, %v", heard, own, err)
		}
	}
	expect(time.Millisecond, false, false)
	d.Exec(t, "select pg_notify('pgcast', '')")
	expect(within, true, false)
	ok(t, l.Ring(t.Context(), ChannelBell))
	expect(within, true, true)
	expect(time.Millisecond, false, false) // giving up does no harm

	// Bells that come with the answer to a statement are kept, and can be forgotten.
	d.Exec(t, "select pg_notify('pgcast', '1'), pg_notify('pgcast', '2')")
	ok(t, l.Conn().Ping(t.Context()))
	l.Drain()
	expect(time.Millisecond, false, false)
	// However many there are, they are told of once: nobody can fill the memory with them.
	for range 3 {
		d.Exec(t, "select pg_notify('pgcast', i::text) from generate_series(1, 1000) i")
	}
	ok(t, l.Ring(t.Context(), ChannelBell))
	expect(0, true, false)
	expect(within, true, true)
	expect(time.Millisecond, false, false)

	ok(t, l.Unlisten(t.Context(), ChannelBell))
	d.Exec(t, "select pg_notify('pgcast', '')")
	ok(t, l.Conn().Ping(t.Context()))
	expect(time.Millisecond, false, false)

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, _, err := l.Wait(ctx, within); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

// TestTerminated: the end of the session ends what waits on it, and everything after.
func TestTerminated(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	l := bell(t, d.URL)
	killer, pid := d.Conn(t), l.Conn().PgConn().PID()
	killed := make(chan error, 1)
	time.AfterFunc(10*time.Millisecond, func() {
		_, err := killer.Exec(context.Background(), "select pg_terminate_backend($1)", pid)
		killed <- err
	})
	if heard, _, err := l.Wait(t.Context(), within); err == nil || heard {
		t.Fatal("it waits on as if nothing had happened")
	}
	ok(t, <-killed)
	l.Drain() // and does not hang
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"Wait":     func() error { _, _, err := l.Wait(ctx, time.Second); return err },
		"TryLock":  func() error { _, err := l.TryLock(ctx, Lead, false); return err },
		"Unlock":   func() error { return l.Unlock(ctx, Lead, false) },
		"Listen":   func() error { return l.Listen(ctx, ChannelLog) },
		"Unlisten": func() error { return l.Unlisten(ctx, ChannelLog) },
		"Ring":     func() error { return l.Ring(ctx, ChannelBell) },
		"Prove":    func() error { return l.Prove(ctx, ChannelBell) },
		"Prepared": func() error { _, err := l.Prepared(ctx); return err },
		"Evict":    func() error { _, err := l.Evict(ctx, 0); return err },
	} {
		if call() == nil {
			t.Errorf("%s succeeds on a dead line", name)
		}
	}
}

// TestSilent: when the connection goes silent, whatever costs the database nothing is
// given up soon.
func TestSilent(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.New(t, nil).URL)
	l := bell(t, proxy.URL)
	proxy.Freeze()
	began := time.Now()
	if _, err := l.TryLock(t.Context(), Lead, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent line: %v", err)
	}
	if took := time.Since(began); took < Patience || took > within {
		t.Errorf("given up after %v", took)
	}
}

func TestProveDeaf(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.New(t, nil).URL)
	l := bell(t, proxy.URL)
	proxy.Deafen(true)
	if err := l.Prove(t.Context(), ChannelBell); err == nil || !strings.Contains(err.Error(), "pooler") {
		t.Errorf("a deaf line: %v", err)
	}
	proxy.Deafen(false)
	ok(t, l.Prove(t.Context(), ChannelBell))
}

func TestEvict(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	l := dial(t, d.URL)
	evict := func(l *Line, stale time.Duration, want bool) {
		t.Helper()
		if got, err := l.Evict(t.Context(), stale); got != want || err != nil {
			t.Errorf("evicted %t, %v", got, err)
		}
	}
	evict(l, 0, false) // nobody leads
	holder := dial(t, d.URL)
	_, err := holder.TryLock(t.Context(), Lead, false)
	ok(t, err)
	_, err = dial(t, d.URL).TryLock(t.Context(), Follow, true)
	ok(t, err)
	evict(l, time.Minute, false) // not long enough

	gate, pid := d.Conn(t), holder.Conn().PgConn().PID()
	_, err = gate.Exec(t.Context(), "select pg_advisory_lock(7)")
	ok(t, err)
	busy := make(chan error, 1)
	go func() {
		_, err := holder.Conn().Exec(context.Background(), "select pg_advisory_lock(7)")
		busy <- err
	}()
	await(t, "the holder is busy", func() bool {
		var state string
		ok(t, gate.QueryRow(t.Context(), "select state from pg_stat_activity where pid = $1", pid).Scan(&state))
		return state == "active"
	})
	evict(l, 0, false) // it works
	_, err = gate.Exec(t.Context(), "select pg_advisory_unlock(7)")
	ok(t, err)
	ok(t, <-busy)

	// Another role may not end it; without rights it does not even see how it is.
	d.Exec(t, "create role "+d.Name+" login")
	t.Cleanup(func() { d.Exec(noCancel{t}, "drop role "+d.Name) })
	u, err := url.Parse(d.URL)
	ok(t, err)
	u.User = url.User(d.Name)
	for _, grant := range []string{"select", "grant pg_read_all_stats to " + d.Name} {
		d.Exec(t, grant)
		if _, err := dial(t, u.String()).Evict(t.Context(), 0); !errors.Is(err, ErrAnotherRole) {
			t.Errorf("another role: %v", err)
		}
	}
	evict(l, 0, true)
	if _, err := holder.TryLock(t.Context(), Follow, true); err == nil {
		t.Error("its session goes on")
	}
}

// noCancel lets a cleanup use the database: the test's own context is over by then.
type noCancel struct{ testing.TB }

func (noCancel) Context() context.Context { return context.Background() }
