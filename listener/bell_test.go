package listener

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// looks is a Look that finds something at the given looks, counted from 1.
func looks(found ...int) (look Look, n *int) {
	n = new(int)
	return func(context.Context) (bool, error) {
		*n++
		for _, at := range found {
			if at == *n {
				return true, nil
			}
		}
		return false, nil
	}, n
}

// tired makes a bell whose next Wait sleeps, if it may.
func tired(t testing.TB, databaseURL string) *Bell {
	b := NewBell(bell(t, databaseURL), nil)
	b.idle = linger
	return b
}

func TestBellLingers(t *testing.T) {
	t.Parallel()
	b := NewBell(bell(t, pgtest.New(t, nil).URL), nil)
	look, n := looks(1)
	for range 2 {
		for i := range linger {
			if source, err := b.Wait(t.Context(), i == 0, look); source != SourcePoll || err != nil || *n != 0 {
				t.Fatalf("wait %d after work: %s, %v, %d looks", i, source, err, *n)
			}
		}
	}
	if source, err := b.Wait(t.Context(), false, look); source != SourceLook || err != nil {
		t.Fatalf("the last look found something: %s, %v", source, err)
	}
	if b.delay != shortest {
		t.Errorf("the next poll comes after %v", b.delay)
	}
}

func TestBellSleeps(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b, other := tired(t, d.URL), dial(t, d.URL)
	type woken struct {
		source Source
		err    error
	}
	waits := make(chan woken, 1)
	wait := func(ctx context.Context) {
		look, _ := looks()
		go func() {
			source, err := b.Wait(ctx, false, look)
			waits <- woken{source, err}
		}()
		await(t, "it sleeps", func() (asleep bool) { // not by trying: that would keep it awake
			ok(t, other.Conn().QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and granted
				and objid = $1 and database = (select oid from pg_database where datname = current_database()))`, int(Asleep)).Scan(&asleep))
			return asleep
		})
	}
	wait(t.Context())
	d.Exec(t, "select pgcast.publish('a', 'e')")
	if w := <-waits; w.source != SourceBell || w.err != nil {
		t.Fatal(w)
	}
	if free, err := other.TryLock(t.Context(), Asleep, false); free || err != nil {
		t.Fatal("it has given ASLEEP back before it rises: ", free, err)
	}
	_, err := b.line.Conn().Exec(t.Context(), Rise)
	ok(t, err)
	if free, err := other.TryLock(t.Context(), Asleep, false); !free || err != nil {
		t.Fatal("awake it still holds ASLEEP: ", free, err)
	}
	refused := 0
	b.awake = func() { refused++ }
	look, n := looks()
	if source, err := b.Wait(t.Context(), false, look); source != SourcePoll || err != nil || refused != 1 || *n != 0 {
		t.Fatalf("while somebody writes: %s, %v, refused %d, %d looks", source, err, refused, *n)
	}
	ok(t, other.Unlock(t.Context(), Asleep, false))

	ctx, cancel := context.WithCancel(t.Context())
	b.awake = nil
	wait(ctx)
	cancel()
	if w := <-waits; !errors.Is(w.err, context.Canceled) {
		t.Fatal(w)
	}
}

// TestBellHearsWhatRangDuringTheLastLook: such a bell may be for an event that the look
// did not see.
func TestBellHearsWhatRangDuringTheLastLook(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b := tired(t, d.URL)
	n := 0
	look := func(ctx context.Context) (bool, error) {
		if n++; n == 1 {
			d.Exec(t, "select pgcast.publish('a', 'e')") // refused, so it rings
			return false, b.line.Conn().Ping(ctx)        // which the line reads along with an answer
		}
		return false, nil
	}
	began := time.Now()
	if source, err := b.Wait(t.Context(), false, look); source != SourceBell || err != nil || n != 1 {
		t.Fatalf("%s after %v and %d looks, %v", source, time.Since(began), n, err)
	}
}

// TestBellHearsWhatRangDuringTheSafetyLook: the look was the first to find the event, but
// the bell works.
func TestBellHearsWhatRangDuringTheSafetyLook(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b := tired(t, d.URL)
	n := 0
	look := func(ctx context.Context) (bool, error) {
		if n++; n == 1 {
			return false, nil
		}
		d.Exec(t, "select pgcast.publish('a', 'e')")
		return true, b.line.Conn().Ping(ctx)
	}
	if source, err := b.Wait(t.Context(), false, look); source != SourceBell || err != nil || n != 2 || b.proved.IsZero() {
		t.Fatalf("%s, %d looks, %v", source, n, err)
	}
}

// TestBellIgnoresOldBells: what rang before ASLEEP was taken is for events that the last
// look sees.
// Looks that have become slow end the sleep: whoever looks can do something about that.
func TestBellWakesFromSlowLooks(t *testing.T) {
	t.Parallel()
	b := tired(t, pgtest.New(t, nil).URL)
	n := 0
	slow := func(context.Context) (bool, error) {
		if n++; n > 1 {
			<-time.After(2 * slowLook)
		}
		return false, nil
	}
	if source, err := b.Wait(t.Context(), false, slow); source != SourcePoll || err != nil || n != 3 {
		t.Errorf("%s, %v after %d looks", source, err, n)
	}
}

func TestBellIgnoresOldBells(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b := tired(t, d.URL)
	d.Exec(t, "select pg_notify('pgcast', '1'), pg_notify('pgcast', '2')")
	ok(t, b.line.Conn().Ping(t.Context()))
	look, n := looks(2)
	if source, err := b.Wait(t.Context(), false, look); source != SourceSafety || err != nil || *n != 2 {
		t.Fatalf("%s, %v, %d looks", source, err, *n)
	}
}

// TestBellNeverSleepsWhereNobodyRings: writers stop ringing when NOTIFY's queue is half
// full. That takes gigabytes, so a function says so that this session finds first.
func TestBellNeverSleepsWhereNobodyRings(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	full := func(usage string) {
		d.Exec(t, "create or replace function public.pg_notification_queue_usage() returns float8 language sql as 'select "+usage+"::float8'")
	}
	full("0.5")
	b := tired(t, d.URL+"&search_path=public,pg_catalog")
	look, n := looks(1)
	if source, err := b.Wait(t.Context(), false, look); source != SourcePoll || err != nil || *n != 0 {
		t.Fatalf("half full: %s, %v, %d looks", source, err, *n)
	}
	full("0.49")
	if source, err := b.Wait(t.Context(), false, look); source != SourceLook || err != nil {
		t.Fatalf("less than half full: %s, %v", source, err)
	}
	b.idle = linger
	n2 := 0
	fills := func(context.Context) (bool, error) {
		if n2++; n2 == 1 {
			full("0.5")
		}
		return false, nil
	}
	if source, err := b.Wait(t.Context(), false, fills); source != SourcePoll || err != nil || n2 < 2 {
		t.Fatalf("filled while it slept: %s, %v, %d looks", source, err, n2)
	}
}

// TestBellProvesItself: it rings now and then while it sleeps, and at once after a safety
// look that should not have found anything.
func TestBellProvesItself(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b := tired(t, d.URL)
	b.proved = time.Now().Add(-proveEvery)
	look, _ := looks(3) // the first safety look finds nothing, so it rings; then this
	if source, err := b.Wait(t.Context(), false, look); source != SourceSafety || err != nil {
		t.Fatal(source, err)
	}
	if !b.proved.IsZero() {
		t.Error("a bell that nobody rang is trusted")
	}
	b.idle = linger
	look, _ = looks(1)
	source, err := SourcePoll, error(nil)
	for source == SourcePoll && err == nil { // until it has heard itself
		source, err = b.Wait(t.Context(), false, look)
	}
	if source != SourceLook || err != nil || time.Since(b.proved) > within {
		t.Error(source, err, b.proved)
	}
}

// TestBellNoticesThatItIsDeaf, and does not wait for its own bell where it is in doubt: an
// event may come meanwhile.
func TestBellNoticesThatItIsDeaf(t *testing.T) {
	t.Parallel()
	for name, doubt := range map[string]func(*Bell){
		"in its sleep":        func(b *Bell) { b.proved = time.Now().Add(-proveEvery) },
		"after a safety look": func(b *Bell) { b.proved = time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := pgtest.NewProxy(t, pgtest.New(t, nil).URL)
			b := tired(t, proxy.URL)
			proxy.Deafen(true)
			doubt(b)
			look, _ := looks()
			began := time.Now()
			var err error
			for polls := 0; err == nil; polls++ {
				var source Source
				if source, err = b.Wait(t.Context(), false, look); err == nil && (source != SourcePoll || time.Since(began) > within) {
					t.Fatalf("%s after %v", source, time.Since(began))
				} else if err != nil && polls < 20 && name == "after a safety look" {
					t.Errorf("it looked at the log %d times in %v", polls, time.Since(began))
				}
			}
			if !errors.Is(err, ErrDeaf) {
				t.Error(err)
			}
		})
	}
}

func TestBellPassesErrorsOn(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	failed := errors.New("failed")
	for at := 1; at <= 2; at++ { // the last look, a safety look
		b, n := tired(t, d.URL), 0
		look := func(context.Context) (bool, error) {
			if n++; n == at {
				return false, failed
			}
			return false, nil
		}
		source, err := b.Wait(t.Context(), false, look)
		for source == SourcePoll && err == nil { // the line before this one has not let go of ASLEEP yet
			source, err = b.Wait(t.Context(), false, look)
		}
		if !errors.Is(err, failed) {
			t.Errorf("look %d: %v", at, err)
		}
		b.line.Close()
		if _, err := b.Wait(t.Context(), false, look); err == nil {
			t.Error("it sleeps on a dead line")
		}
	}
}

func TestPoll(t *testing.T) {
	t.Parallel()
	p := NewPoll(5 * time.Millisecond)
	var delays []time.Duration
	for i := range 6 {
		delays = append(delays, p.delay)
		if source, err := p.Wait(t.Context(), i == 0, nil); source != SourcePoll || err != nil {
			t.Fatal(source, err)
		}
	}
	for i, want := range []time.Duration{1, 2, 4, 5, 5, 5} {
		if delays[i] != want*time.Millisecond {
			t.Errorf("delays %v", delays)
			break
		}
	}
	if _, err := p.Wait(t.Context(), true, nil); err != nil || p.delay != 2*shortest {
		t.Errorf("after work it waits %v next, %v", p.delay, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewPoll(time.Hour).Wait(ctx, false, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
