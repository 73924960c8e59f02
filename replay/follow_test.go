package replay

import (
	"testing"

	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/listener"
)

// TestFollowsALeaderThatIsRinging: to see whether anybody follows, the sequencing server
// takes the Follow lock for a moment at each step, and under load that moment may be the
// one in which another server asks for it.
func TestFollowsALeaderThatIsRinging(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	leader := run(t, d, SequencerOptions{})
	leading(t, leader)
	ringing, err := d.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ringing.Exec(t.Context(), "select pg_advisory_xact_lock(1885823841, 3)"); err != nil {
		t.Fatal(err)
	}
	follower := run(t, d, SequencerOptions{})
	await(t, "the other has found that somebody leads", func() bool { return follower.grown.Load() > 0 })
	if err := ringing.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	standing(t, conn, 1)
}

// TestUntoldStep: a sequencer dies after its step is committed and before anybody is told
// of it. Whoever comes next has nothing to do, and tells all the same.
func TestUntoldStep(t *testing.T) {
	t.Parallel()
	d := pgtest.New(t, nil)
	conn := d.Conn(t)
	dying, err := listener.Dial(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer dying.Close()
	if got, err := dying.TryLock(t.Context(), listener.Lead, false); !got || err != nil {
		t.Fatal(got, err)
	}
	term, err := takeTerm(t.Context(), dying.Conn(), false, discard)
	if err != nil {
		t.Fatal(err)
	}
	servers := []*running{run(t, d, SequencerOptions{}), run(t, d, SequencerOptions{})}
	standing(t, conn, 2)
	for _, s := range servers {
		await(t, "it has looked for what came before it followed", func() bool { return s.grown.Load() > 0 })
	}
	told := []int64{servers[0].grown.Load(), servers[1].grown.Load()}
	d.Exec(t, "select pgcast.publish('a', 'e')")
	for st := newStepper(dying.Conn(), term, 100); one[int](t, conn, "select count(*)::int from pgcast.replay") == 0; {
		if _, err := st.run(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	dying.Close()
	leading(t, servers...)
	for i, s := range servers {
		await(t, "a server is told", func() bool { return s.grown.Load() > told[i] })
	}
}
