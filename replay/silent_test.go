package replay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// through runs a sequencer whose line leads through a proxy; its pool does not.
func through(t *testing.T, d *pgtest.DB) (*running, *pgtest.Proxy) {
	t.Helper()
	proxy := pgtest.NewProxy(t, d.URL)
	r := run(t, d, SequencerOptions{}, proxy.URL)
	return r, proxy
}

// TestSilentLine: a connection that both ends believe in and that carries nothing is
// noticed, asleep or not, and the events wait seconds, not minutes.
func TestSilentLine(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	r, proxy := through(t, d)
	asleep(t, conn)
	proxy.Freeze()
	began := time.Now()
	await(t, "the silence is noticed", func() bool { return r.metric("sequencer_reconnects_total") == 1 })
	t.Logf("noticed after %v", time.Since(began))
	d.Exec(t, "select pgcast.publish('a', 'e')")
	sequenced(t, conn, 1)
	t.Logf("the next event had its place after %v", time.Since(began))
}

// TestSlowIsNotSilent: a step that waits is left alone while the database works on it.
func TestSlowIsNotSilent(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	line, err := listener.Dial(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	a := (&Sequencer{pool: d.Pool(t)}).attendant(line, false)
	exec := func(sql string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := line.Conn().Exec(ctx, sql)
			return err
		}
	}
	if err := a.run(t.Context(), exec("select pg_sleep(3.5)")); err != nil {
		t.Errorf("a slow statement: %v", err)
	}
	if err := a.run(t.Context(), exec("select 1/0")); err == nil || errors.Is(err, errSilent) {
		t.Errorf("a statement that fails: %v", err)
	}
	gone := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	if err := a.run(t.Context(), gone); !errors.Is(err, errSilent) {
		t.Errorf("a statement that never arrives: %v", err)
	}
	if one[int](t, conn, "select pg_terminate_backend($1)::int", int(line.Conn().PgConn().PID())) != 1 {
		t.Fatal("no such session")
	}
	await(t, "the session is gone", func() bool {
		works, _, err := a.works(t.Context())
		return err == nil && !works
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := a.run(ctx, gone); !errors.Is(err, context.Canceled) || errors.Is(err, errSilent) {
		t.Errorf("cancelled: %v", err)
	}
	hidden := pgtest.New(t, nil)
	hidden.Exec(t, "create role "+hidden.Name+" login")
	t.Cleanup(func() { dropRole(t, hidden.URL, hidden.Name) })
	other := attendant{pool: poolAs(t, hidden, hidden.Name), pid: conn.PgConn().PID()}
	if works, _, err := other.works(t.Context()); works || err == nil {
		t.Errorf("another role's session works: %t, %v", works, err)
	}
}

// TestPooler: on a line that hears no bells nobody can hold the lead. The servers share a
// term then, and sequence all the same.
func TestPooler(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	proxy := pgtest.NewProxy(t, d.URL)
	proxy.Deafen(true)
	servers := []*running{run(t, d, SequencerOptions{}, proxy.URL), run(t, d, SequencerOptions{}, proxy.URL)}
	for i, s := range servers {
		await(t, "both sequence", s.leads)
		if term := one[int](t, conn, "select term::int from pgcast.sequencer"); term != 0 {
			t.Errorf("server %d has raised the term", i)
		}
	}
	const events = 400
	for i := range events {
		if _, err := conn.Exec(t.Context(), "select pgcast.publish($1, 'e')", string(rune('a'+i%3))); err != nil {
			t.Fatal(err)
		}
	}
	sequenced(t, conn, events)
	if one[int](t, conn, held, 1)+one[int](t, conn, held, 2) != 0 {
		t.Error("a lock is held through a pooler")
	}
	// A server with a direct line comes and takes over from both.
	direct := run(t, d, SequencerOptions{})
	leading(t, direct)
	d.Exec(t, "select pgcast.publish('a', 'e')")
	sequenced(t, conn, events+1)
	// When the bell is heard again, the others find out by themselves.
	proxy.Deafen(false)
	standing(t, conn, 2)
	for _, s := range servers {
		if n := s.metric("sequencer_reconnects_total"); n != 0 {
			t.Errorf("%v lines are counted as lost", n)
		}
	}
}

// TestBellComesBack: what made a bell go unheard may pass, and then it is used again.
func TestBellComesBack(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	proxy := pgtest.NewProxy(t, d.URL)
	proxy.Deafen(true)
	r := run(t, d, SequencerOptions{}, proxy.URL)
	leading(t, r)
	if one[int](t, conn, held, 2) != 0 {
		t.Fatal("a lock is held through a pooler")
	}
	proxy.Deafen(false)
	asleep(t, conn)
	if n := r.metric("sequencer_reconnects_total"); n != 0 {
		t.Errorf("%v lines are counted as lost", n)
	}
}

// TestAttendingKeepsTheConnections: a statement that ends while it is being asked after breaks
// off no question. Each would cost a connection of the pool, on a slow disk one for each step.
func TestAttendingKeepsTheConnections(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	pool, conn := d.Pool(t), d.Conn(t)
	if err := pool.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := pool.Stat().NewConnsCount()
	a := attendant{pool: pool, pid: conn.PgConn().PID()}
	for range 100 {
		err := a.run(t.Context(), func(ctx context.Context) error {
			_, err := conn.Exec(ctx, "select pg_sleep(0.04 + 0.003 * random())")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// On a busy machine one question may still be under way when the next is asked.
	if made := pool.Stat().NewConnsCount() - before; made > 8 {
		t.Errorf("%d connections made for 100 statements", made)
	}
}
