package faults

import (
	"context"
	"fmt"
	"testing"
	"time"

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
	for _, kind := range []struct {
		capture    string
		terminated bool // the server's sessions, now and then
	}{{"trigger", false}, {"WAL", false}, {"trigger", true}, {"WAL", true}} {
		capture := kind.capture
		name := "captured by " + capture
		if kind.terminated {
			name += ", the server's database sessions terminated meanwhile"
		}
		t.Run(name, func(t *testing.T) {
			r := begin(t, "26", "subscriptions with a snapshot at random moments under random writers, "+name)
			r.trials = trials(100, 1000, 10_000)
			if kind.terminated {
				r.trials = trials(50, 500, 2000)
			}
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
			terminated := func() int { return 0 }
			if kind.terminated {
				terminated = terminating(t, db.URL)
			}
			v := race.Run(t)
			if n := terminated(); kind.terminated {
				r.figure("sessions terminated", fmt.Sprint(n), "some", n > 0)
			}
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

// terminating ends some of the sessions that servers have with a database, every now and
// then until stop, which tells how many.
func terminating(t *testing.T, url string) (stop func() int) {
	t.Helper()
	conn := judge.Connect(t, url)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int)
	go func() {
		n, every := 0, time.NewTicker(400*time.Millisecond)
		defer func() { every.Stop(); ended <- n }()
		for {
			select {
			case <-every.C:
			case <-ctx.Done():
				return
			}
			var some int
			if err := conn.QueryRow(context.Background(), `select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity
				where application_name like 'pgcast%' and datname = current_database() order by random() limit 2) x`).Scan(&some); err != nil {
				t.Errorf("terminate sessions: %v", err)
				return
			}
			n += some
		}
	}()
	return func() int { cancel(); return <-ended }
}
