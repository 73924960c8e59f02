package listener

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// following makes a waker that runs until the test ends.
func following(t *testing.T, url string) *WAL {
	t.Helper()
	w := NewWAL(dial(t, url), url, "pgcast_wake", nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return w
}

// settled waits until it is told all, which it is not in its first second.
func settled(t *testing.T, w *WAL) {
	t.Helper()
	await(t, "it follows", w.Follows)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.follows = w.follows.Add(-settling)
	w.settled = w.follows
}

// nothing is a Look that finds nothing: the WAL is to tell.
func nothing(context.Context) (bool, error) { return false, nil }

func wait(t *testing.T, w *WAL, look Look, want Source) {
	t.Helper()
	source, err := w.Wait(t.Context(), false, look)
	for n := 0; err == nil && source == SourcePoll && want != SourcePoll && n < 10_000; n++ {
		source, err = w.Wait(t.Context(), false, look)
	}
	if source != want || err != nil {
		t.Fatalf("woken by %s, %v; want %s", source, err, want)
	}
}

// TestWALTells of each commit that has inserted into the log, and of no other.
func TestWALTells(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	w := following(t, d.URL)
	settled(t, w)
	for range 3 {
		d.Exec(t, "select pgcast.publish('a', 'e') from generate_series(1, 3)")
		wait(t, w, nothing, SourceWAL)
	}
	d.Exec(t, "begin; select pgcast.publish('a', 'e'); rollback; create table x (); insert into x default values")
	look, n := looks(3)
	wait(t, w, look, SourceSafety)
	if *n != 3 {
		t.Errorf("%d looks", *n)
	}
	// Nobody told of what that look found: until the stream has answered it polls.
	if !w.doubt {
		t.Error("the stream is trusted")
	}
	await(t, "the stream has answered", func() bool { return w.commits.heard.Load() != w.heard })
	d.Exec(t, "select pgcast.publish('a', 'e')")
	wait(t, w, nothing, SourceWAL)
	w.Nudge()
	wait(t, w, nothing, SourceCapture)
}

// TestWALWaitsUntilVisible: a commit that waits for a standby is decoded long before others
// see it, and is not looked for in vain; others that need not wait are found meanwhile.
func TestWALWaitsUntilVisible(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	url := c.URL("postgres")
	ok(t, migrations.Up(t.Context(), url))
	w := following(t, url)
	settled(t, w)
	admin, writer := dial(t, url).Conn(), dial(t, url).Conn()
	exec := func(conn *pgx.Conn, sql string) {
		_, err := conn.Exec(t.Context(), sql)
		ok(t, err)
	}
	exec(admin, "set synchronous_commit = local; select pgcast.publish('a', 'e')")
	wait(t, w, nothing, SourceWAL)
	exec(admin, "alter system set synchronous_standby_names = 'nobody'")
	exec(admin, "select pg_reload_conf()")
	committed := make(chan error, 1)
	await(t, "the standby is waited for", func() bool {
		var names string
		ok(t, writer.QueryRow(t.Context(), "show synchronous_standby_names").Scan(&names))
		return names == "nobody"
	})
	go func() {
		_, err := writer.Exec(t.Context(), "select pgcast.publish('a', 'e')")
		committed <- err
	}()
	await(t, "its commit is decoded", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.fresh) > 0
	})
	looked := 0
	for range 2 {
		exec(admin, "select pgcast.publish('b', 'e')") // local
		wait(t, w, func(context.Context) (bool, error) { looked++; return false, nil }, SourceWAL)
	}
	if len(w.unseen) != 1 {
		t.Errorf("%d transactions are unseen", len(w.unseen))
	}
	// While it waits, there is nothing to look for.
	ctx, stop := context.WithTimeout(t.Context(), 3*safetyEvery)
	defer stop()
	if source, err := w.Wait(ctx, true, nothing); !errors.Is(err, context.DeadlineExceeded) && source != SourcePoll {
		t.Fatalf("woken by %s, %v, though nothing is to be seen", source, err)
	}
	exec(admin, "alter system reset synchronous_standby_names")
	began := time.Now()
	exec(admin, "select pg_reload_conf()")
	wait(t, w, nothing, SourceWAL)
	t.Logf("found %v after the standby was no longer waited for", time.Since(began))
	ok(t, <-committed)
}

// TestWALPollsWhileNotFollowed: to make a slot Postgres waits for open transactions, and
// senders die.
func TestWALPollsWhileNotFollowed(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, &devpg.Options{})
	url := c.URL("postgres")
	ok(t, migrations.Up(t.Context(), url))
	open, admin := dial(t, url).Conn(), dial(t, url).Conn()
	_, err := open.Exec(t.Context(), "begin; select pgcast.publish('a', 'e')")
	ok(t, err)
	w := following(t, url)
	count := func() (n int) {
		ok(t, admin.QueryRow(t.Context(), "select count(*) from pg_replication_slots").Scan(&n))
		return n
	}
	await(t, "it waits for its slot", func() bool { return count() == 1 })
	for range 10 {
		wait(t, w, nothing, SourcePoll)
	}
	if w.Follows() || w.Refused() != nil {
		t.Error("it follows, or has given up: ", w.Refused())
	}
	_, err = open.Exec(t.Context(), "commit")
	ok(t, err)
	settled(t, w)
	for range 5 {
		_, err = admin.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'walsender'")
		ok(t, err)
		await(t, "that is noticed", func() bool { return !w.Follows() })
		wait(t, w, nothing, SourcePoll)
		settled(t, w)
		_, err = admin.Exec(t.Context(), "select pgcast.publish('a', 'e')")
		ok(t, err)
		wait(t, w, nothing, SourceWAL)
	}
	if n := count(); n != 1 {
		t.Errorf("%d slots", n)
	}
}

// TestCommitsLeaveNothing: ended while it waits for its slot, it leaves no process and no
// slot behind.
func TestCommitsLeaveNothing(t *testing.T) {
	t.Parallel()
	c := pgtest.Private(t, nil)
	url := c.URL("postgres")
	ok(t, migrations.Up(t.Context(), url))
	open, admin := dial(t, url).Conn(), dial(t, url).Conn()
	_, err := open.Exec(t.Context(), "begin; select pg_current_xact_id()")
	ok(t, err)
	count := func() (n int) {
		ok(t, admin.QueryRow(t.Context(), "select count(*) from pg_replication_slots").Scan(&n))
		return n
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewCommits(url, "pgcast_wake", CommitsOptions{}).Run(ctx) }()
	await(t, "it waits for its slot", func() bool { return count() == 1 })
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	await(t, "the slot is gone", func() bool { return count() == 0 })
}

// TestWALDoubtsASilentStream: a stream that carries nothing is given up, and what comes
// meanwhile is found by looks.
func TestWALDoubtsASilentStream(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	proxy := pgtest.NewProxy(t, d.URL)
	w := following(t, proxy.URL)
	w.line = dial(t, d.URL)
	settled(t, w)
	proxy.Freeze()
	d.Exec(t, "select pgcast.publish('a', 'e')")
	look, _ := looks(1)
	wait(t, w, look, SourceSafety)
	began := time.Now()
	for range 5 {
		wait(t, w, nothing, SourcePoll)
	}
	await(t, "it is given up", func() bool { return !w.Follows() })
	t.Logf("given up after %v", time.Since(began))
	settled(t, w)
	d.Exec(t, "select pgcast.publish('a', 'e')")
	wait(t, w, nothing, SourceWAL)
}

// TestWALTakesMoreThanItKeeps: so many transactions that it cannot remember them all.
func TestWALTakesMoreThanItKeeps(t *testing.T) {
	t.Parallel()
	w := NewWAL(nil, "", "", nil)
	w.state(time.Now().Add(-2*settling), nil)
	for range mostUnseen + 1 {
		w.committed(3, "")
	}
	if polls := w.take(); !polls || len(w.unseen) != mostUnseen {
		t.Errorf("it polls: %v; it keeps %d", polls, len(w.unseen))
	}
}

func TestWALPassesErrorsOn(t *testing.T) {
	t.Parallel()
	w := NewWAL(dial(t, pgtest.New(t, nil).URL), "", "", nil)
	w.state(time.Now().Add(-2*settling), nil)
	wait(t, w, nothing, SourcePoll) // it has settled, and looks once more
	failed := errors.New("failed")
	if _, err := w.Wait(t.Context(), false, func(context.Context) (bool, error) { return false, failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := w.Wait(ctx, false, nothing); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.line.Close()
	w.committed(3, "")
	if _, err := w.Wait(t.Context(), false, nothing); err == nil {
		t.Error("it waits on a dead line")
	}
	slow := func(context.Context) (bool, error) {
		<-time.After(2 * slowLook)
		return false, nil
	}
	w.unseen = nil
	if source, err := w.Wait(t.Context(), false, slow); source != SourcePoll || err != nil {
		t.Errorf("slow looks: %s, %v", source, err)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[uint32]bool{
		"10:20:11,15":                         {5: true, 10: true, 11: false, 12: true, 15: false, 19: true, 20: false, 21: false, 1 << 30: false},
		"7:7:":                                {3: true, 6: true, 7: false, 8: false},
		"4294967290:4294967300:4294967297":    {4294967295: true, 4294967290: true, 1: false, 2: true, 3: true, 4: false},
		"12884901890:12884901891:12884901890": {4294967295: true, 2: false, 3: false, 1: true},
	} {
		s, err := parseSnapshot(text)
		ok(t, err)
		for xid, seen := range want {
			if s.sees(xid) != seen {
				t.Errorf("%s: %d is seen: %v", text, xid, !seen)
			}
		}
	}
	for _, text := range []string{"", "1", "1:2", "1:x:", "1:2:3,y", "1:-2:"} {
		if s, err := parseSnapshot(text); err == nil {
			t.Errorf("%q is %v", text, s)
		}
	}
	// What Postgres itself says, of a transaction of its own and another's.
	d := pgtest.New(t, nil)
	l, other := dial(t, d.URL), dial(t, d.URL).Conn()
	var xid uint32
	_, err := other.Exec(t.Context(), "begin")
	ok(t, err)
	ok(t, other.QueryRow(t.Context(), "select pg_current_xact_id()::text::bigint & 4294967295").Scan(&xid))
	s, err := l.snapshot(t.Context())
	ok(t, err)
	if s.sees(xid) {
		t.Error("an open transaction is seen")
	}
	_, err = other.Exec(t.Context(), "commit")
	ok(t, err)
	if s, err = l.snapshot(t.Context()); err != nil || !s.sees(xid) {
		t.Error("a committed transaction is not seen: ", err)
	}
}
