package client_test

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// raceTrials are fewer than the fault catalogue's.
const raceTrials = 500

// TestSnapshotRace: whatever is written meanwhile, snapshot and stream together are the
// table.
func TestSnapshotRace(t *testing.T) {
	db := pgtest.New(t, nil)
	r := judge.SnapshotRace{Database: db.URL, Server: serve(t, db), Trials: raceTrials, Seed: 1,
		Attach: `select pgcast.attach('flux', topic => 'flux:{room}')`}
	v := r.Run(t)
	t.Logf("%+v", *v)
	if !v.Clean() {
		t.Errorf("missed %d, doubled %d, differed %d: %s", v.Missed, v.Doubled, v.Differed, strings.Join(v.Notes, "\n"))
	}
	if v.Trials != raceTrials || v.Cut == 0 || v.Resumed == 0 || v.Events < raceTrials {
		t.Errorf("that was no race: %+v", *v)
	}
}
