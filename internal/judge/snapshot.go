package judge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

// SnapshotRace subscribes with a snapshot at random moments to topics of a table that is
// being written to, and folds snapshot and stream.
type SnapshotRace struct {
	Database string // its URL; the table is made there
	Server   string // URL of a server of that database, which captures
	Attach   string // the statements that attach table flux, its topics being flux:{room}
	Trials   int
	Seed     uint64
}

// SnapshotVerdict is what came of it. A row is missed that the stream changes although it
// is not there, or that is not there in the end; doubled is one that comes although it is.
type SnapshotVerdict struct {
	Trials, Cut, Resumed      int
	Missed, Doubled, Differed int
	Events                    int
	Notes                     []string
}

// Clean reports whether nothing was found.
func (v *SnapshotVerdict) Clean() bool {
	return v.Missed+v.Doubled+v.Differed+len(v.Notes) == 0
}

const (
	raceRooms   = 4
	raceWriters = 3
	raceRows    = 30 // keys of each writer
	raceAtOnce  = 25 // trials of one round
)

// Run runs the trials, in rounds: the writers write while subscriptions begin, and stop for
// what each has folded to be compared with the table.
func (r *SnapshotRace) Run(t testing.TB) *SnapshotVerdict {
	t.Helper()
	conn := Connect(t, r.Database)
	ctx := context.Background()
	if _, err := conn.Exec(ctx, `create table if not exists flux (id int primary key, room int, n bigint, pad text); create index if not exists flux_room on flux (room);`+r.Attach); err != nil {
		t.Fatal(err)
	}
	pens := make([]*pgx.Conn, raceWriters)
	for w := range pens {
		pens[w] = Connect(t, r.Database)
	}
	v := &SnapshotVerdict{}
	for round := 0; v.Trials < r.Trials && len(v.Notes) < 10; round++ {
		n := min(raceAtOnce, r.Trials-v.Trials)
		rnd := rand.New(rand.NewPCG(r.Seed, uint64(round)))
		stop, writing := context.WithCancel(ctx)
		var writers, trials sync.WaitGroup
		for w := range raceWriters {
			own := rand.New(rand.NewPCG(r.Seed, uint64(round*raceWriters+w)<<32))
			writers.Go(func() { r.write(t, stop, pens[w], own, w) })
		}
		folds := make([]*fold, n)
		for i := range n {
			f := &fold{race: r, topic: fmt.Sprint("flux:", rnd.IntN(raceRooms)), rnd: rand.New(rand.NewPCG(r.Seed, uint64(round)<<40+uint64(i))),
				marker: -1 - round, after: time.Duration(rnd.IntN(300_000)) * time.Microsecond}
			folds[i] = f
			trials.Go(func() { f.run(t) })
		}
		time.Sleep(time.Duration(300+rnd.IntN(100)) * time.Millisecond)
		writing()
		writers.Wait()
		// What comes behind everything else.
		if _, err := conn.Exec(ctx, `delete from flux where id < 0`); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(ctx, `insert into flux select $1 * 10 - room, room, 0 from generate_series(0, $2 - 1) room`, -1-round, raceRooms); err != nil {
			t.Fatal(err)
		}
		trials.Wait()
		table := raceTable(t, conn)
		for _, f := range folds {
			f.verdict(v, table[f.topic])
		}
	}
	return v
}

// write is one writer: of rows that are its own, so that writers do not wait for each other.
func (r *SnapshotRace) write(t testing.TB, ctx context.Context, conn *pgx.Conn, rnd *rand.Rand, writer int) {
	run := func(sql string) {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	change := func() {
		id, room := writer+raceWriters*rnd.IntN(raceRows), rnd.IntN(raceRooms)
		switch k := rnd.IntN(10); {
		case k < 5:
			run(fmt.Sprintf("insert into flux values (%d, %d, %d, repeat('x', %d)) on conflict (id) do update set n = excluded.n, room = case when excluded.n %% 3 = 0 then excluded.room else flux.room end",
				id, room, rnd.IntN(1_000_000), rnd.IntN(200)))
		case k < 7:
			run(fmt.Sprintf("update flux set n = n + 1 where id %% %d = %d and room = %d", raceWriters, writer, room))
		case k < 8:
			run(fmt.Sprintf("update flux set room = %d where id = %d", room, id))
		default:
			run(fmt.Sprintf("delete from flux where id = %d", id))
		}
	}
	for ctx.Err() == nil {
		switch k := rnd.IntN(60); {
		case k == 0:
			run("truncate flux")
		case k < 30:
			change()
		default:
			run("begin")
			for range 1 + rnd.IntN(4) {
				if rnd.IntN(3) == 0 {
					run("savepoint s")
					change()
					run([]string{"rollback to s", "release s"}[rnd.IntN(2)])
					continue
				}
				change()
				if rnd.IntN(8) == 0 {
					time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond) // a long one
				}
			}
			run([]string{"commit", "commit", "commit", "rollback"}[rnd.IntN(4)])
		}
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Microsecond)
	}
}

func raceTable(t testing.TB, conn *pgx.Conn) map[string]map[int64]string {
	rows, _ := conn.Query(context.Background(), "select room, id, row_to_json(flux.*)::text from flux")
	table := map[string]map[int64]string{}
	for room := range raceRooms {
		table[fmt.Sprint("flux:", room)] = map[int64]string{}
	}
	var room int
	var id int64
	var text string
	if _, err := pgx.ForEachRow(rows, []any{&room, &id, &text}, func() error {
		table[fmt.Sprint("flux:", room)][id] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return table
}

// fold is one trial: a client that begins with a snapshot, after a while, and may lose its
// connection, or be another one that goes on from where the first one was.
type fold struct {
	race   *SnapshotRace
	topic  string
	rnd    *rand.Rand
	marker int
	after  time.Duration

	rows            map[int64]string
	events          int
	missed, doubled int
	cut, resumed    bool
	err             error
}

// errGoesOn ends a client whose place another one takes over.
var errGoesOn = errors.New("goes on elsewhere")

func (f *fold) run(t testing.TB) {
	time.Sleep(f.after)
	how, n := f.rnd.IntN(4), 1+f.rnd.IntN(6)
	var from *client.From
	for from == nil || f.err == errGoesOn {
		f.err = nil
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		c := client.New(f.race.Server, &client.Options{MinBackoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		if from == nil {
			f.err = c.SubscribeSnapshot(f.topic)
		} else {
			f.err = c.Subscribe(f.topic, from)
		}
		var running sync.WaitGroup
		running.Go(func() { _ = c.Run(ctx) })
		if how == 1 { // at any moment, also before the first frame
			time.AfterFunc(time.Duration(f.rnd.IntN(20_000))*time.Microsecond, c.Cut)
			f.cut = true
		}
		items := 0
		for f.err == nil {
			it, err := c.Next(ctx)
			if err != nil {
				f.err = fmt.Errorf("%s: the marker did not come: %w", f.topic, err)
				break
			}
			place := f.take(it)
			if f.rows[int64(f.marker*10)-int64(f.room())] != "" {
				break
			}
			if items++; place != nil && items > n {
				switch {
				case how == 2:
					c.Cut()
					f.cut, how = true, 0
				case how == 3:
					from, f.err, f.resumed, how = place, errGoesOn, true, 0
				}
			}
		}
		cancel()
		running.Wait()
		if f.err != errGoesOn {
			return
		}
	}
}

func (f *fold) room() (n int) {
	_, _ = fmt.Sscanf(f.topic, "flux:%d", &n)
	return n
}

// take folds an item, and gives the place behind it if there is one.
func (f *fold) take(it client.Item) *client.From {
	var row struct {
		ID int64 `json:"id"`
	}
	read := func(text json.RawMessage) int64 {
		if err := json.Unmarshal(text, &row); err != nil {
			f.err = err
		}
		return row.ID
	}
	switch it := it.(type) {
	case client.Snapshot:
		if it.First {
			f.rows = map[int64]string{}
		}
		for _, text := range it.Rows {
			f.rows[read(text)] = string(text)
		}
		if it.Last {
			return &it.From
		}
	case client.Event:
		f.events++
		switch id := int64(0); it.Name {
		case pgcast.Created, pgcast.Updated:
			id = read(it.Data)
			_, there := f.rows[id]
			if it.Name == pgcast.Created && there {
				f.doubled++
			} else if it.Name == pgcast.Updated && !there {
				f.missed++
			}
			f.rows[id] = string(it.Data)
		case pgcast.Deleted:
			id = read(it.Old)
			if _, there := f.rows[id]; !there {
				f.missed++
			}
			delete(f.rows, id)
		case pgcast.Truncated:
			clear(f.rows)
		}
		from := it.From()
		return &from
	case client.Gap, client.Reset, client.Denied:
		f.err = fmt.Errorf("%s: got %T %+v", f.topic, it, it)
	}
	return nil
}

func (f *fold) verdict(v *SnapshotVerdict, table map[int64]string) {
	v.Trials++
	v.Events += f.events
	v.Missed, v.Doubled = v.Missed+f.missed, v.Doubled+f.doubled
	if f.cut {
		v.Cut++
	}
	if f.resumed {
		v.Resumed++
	}
	switch {
	case f.err != nil:
		v.Notes = append(v.Notes, f.err.Error())
	case !maps.Equal(f.rows, table):
		v.Differed++
		for _, id := range slices.Sorted(maps.Keys(table)) {
			if f.rows[id] != table[id] {
				v.Notes = append(v.Notes, fmt.Sprintf("%s: row %d is %q, must be %q", f.topic, id, f.rows[id], table[id]))
				break
			}
		}
		if len(f.rows) > len(table) {
			v.Notes = append(v.Notes, fmt.Sprintf("%s: %d rows, must be %d", f.topic, len(f.rows), len(table)))
		}
	}
}
