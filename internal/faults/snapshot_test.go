package faults

import (
	"fmt"
	"testing"

	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// capturing says how the table of a snapshot race is captured: the statements that attach it.
var capturing = map[string]string{
	"trigger": `select pgcast.attach('flux', topic => 'flux:{room}')`,
	"WAL":     `alter table flux replica identity full; select pgcast.attach('flux', topic => 'flux:{room}', capture => 'wal')`,
}

// Clients begin with a snapshot at random moments under random writers, lose their
// connections, and go on as other clients.
func TestFault26SnapshotRace(t *testing.T) {
	for _, capture := range []string{"trigger", "WAL"} {
		t.Run(capture, func(t *testing.T) {
			r := begin(t, "26", "subscriptions with a snapshot at random moments under random writers, captured by "+capture)
			r.trials = trials(100, 1000, 10_000)
			var opts *pgtest.Options
			if capture == "WAL" {
				opts = &pgtest.Options{Kind: pgtest.Logical}
			}
			db := judge.Database(t, opts)
			if opts != nil {
				judge.Exec(t, db.URL, "select pgcast.open_slot()") // in a transaction of its own
			}
			s := judge.StartServer(t, db.URL, "--snapshot-fresh", "1ms") // one read for each
			s.WaitReady()
			race := judge.SnapshotRace{Database: db.URL, Server: "http://" + s.Listen, Attach: capturing[capture], Trials: r.trials, Seed: seed}
			v := race.Run(t)
			for _, note := range v.Notes {
				t.Error(note)
			}
			r.Events += v.Events
			r.Lost, r.Doubled = r.Lost+v.Missed, r.Doubled+v.Doubled
			r.count("snapshot and stream, folded, that are not the table", v.Differed, 0)
			r.figure("cut off in the middle; gone on elsewhere", fmt.Sprintf("%d, %d", v.Cut, v.Resumed), "≥ a tenth", v.Cut+v.Resumed >= r.trials/10)
			reads := measured(t, s, "pgcast_snapshots_total", `kind="read"`)
			r.figure("reads of the table for them", fmt.Sprint(reads), fmt.Sprint("≥ ", r.trials/5), int(reads) >= r.trials/5) // the others began at the same moment
			r.check()
		})
	}
}
