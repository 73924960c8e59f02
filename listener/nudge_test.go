package listener

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// A nudge ends a sleep under way, ASLEEP is given back, and the line lives on.
func TestNudgeEndsSleep(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b, other := tired(t, d.URL), dial(t, d.URL)
	look, _ := looks()
	woken := make(chan error, 1)
	for range 20 {
		b.idle = linger
		go func() {
			source, err := b.Wait(t.Context(), false, look)
			if err == nil && source != SourceCapture {
				err = errors.New("woken by " + string(source))
			}
			woken <- err
		}()
		await(t, "it sleeps", func() (asleep bool) {
			ok(t, other.Conn().QueryRow(t.Context(), `select exists (select from pg_locks where locktype = 'advisory' and granted
				and objid = $1 and database = (select oid from pg_database where datname = current_database()))`, int(Asleep)).Scan(&asleep))
			return asleep
		})
		b.Nudge()
		ok(t, <-woken)
		if free, err := other.TryLock(t.Context(), Asleep, false); !free || err != nil {
			t.Fatal("awake it still holds ASLEEP: ", free, err)
		}
		ok(t, other.Unlock(t.Context(), Asleep, false))
	}
	// And it still hears: what rings during the last look ends the wait.
	b.idle = linger
	n := 0
	rings := func(ctx context.Context) (bool, error) {
		if n++; n == 1 {
			d.Exec(t, "notify pgcast")
		}
		return false, nil
	}
	if source, err := b.Wait(t.Context(), false, rings); source != SourceBell || err != nil {
		t.Error(source, err)
	}
}

// A nudge while nobody waits is kept for the next Wait, and for that one only.
func TestNudgeIsKept(t *testing.T) {
	t.Parallel()
	b := tired(t, pgtest.New(t, nil).URL)
	p := NewPoll(time.Hour)
	p.delay = time.Hour
	for name, w := range map[string]interface {
		Wait(context.Context, bool, Look) (Source, error)
		Nudge()
	}{"bell": b, "poll": p} {
		look, n := looks()
		w.Nudge()
		w.Nudge()
		if source, err := w.Wait(t.Context(), false, look); source != SourceCapture || err != nil || *n != 0 {
			t.Errorf("%s: %s, %v, %d looks", name, source, err, *n)
		}
	}
	look, _ := looks(1)
	if source, err := b.Wait(t.Context(), false, look); source != SourceLook || err != nil {
		t.Error("the second time: ", source, err)
	}
}

// TestNudgeWhileInDoubt: a bell that is not trusted polls, which a nudge cuts short.
func TestNudgeWhileInDoubt(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, pgtest.New(t, nil).URL)
	b := tired(t, proxy.URL)
	proxy.Deafen(true)
	b.proved, b.rang, b.delay = time.Time{}, time.Now(), time.Hour
	look, _ := looks()
	time.AfterFunc(10*time.Millisecond, b.Nudge)
	if source, err := b.Wait(t.Context(), false, look); source != SourceCapture || err != nil {
		t.Error(source, err)
	}
}

// A nudge hides a dead line for no longer than one Wait, and the end of the context
// is not taken for a nudge.
func TestNudgeHidesNoError(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	b := tired(t, d.URL)
	look, _ := looks()
	b.line.Close()
	b.Nudge()
	for i := 0; ; i++ {
		source, err := b.Wait(t.Context(), false, look)
		if err != nil {
			break
		}
		if i > 0 {
			t.Fatalf("a dead line: %s", source)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := NewPoll(time.Hour)
	p.Nudge()
	if source, err := p.Wait(ctx, false, nil); !errors.Is(err, context.Canceled) {
		t.Error(source, err)
	}
}
