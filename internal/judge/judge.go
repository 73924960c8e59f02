package judge

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

// patience is how long readers may take to have everything once the writers have stopped.
const patience = 30 * time.Second

// Judge waits until everything written has its place and the readers have it, compares
// each with the log and the table item, and fails the test where anything is wrong.
func Judge(t testing.TB, url string, readers ...*Reader) Verdict {
	t.Helper()
	Sequenced(t, url)
	// A server may still have something to tell of the table by itself.
	n := Value[int](t, url, "select count(*) from pgcast.event_log")
	var log []Fact
	within(patience, func() bool { log = Log(t, url); return len(log) >= n })
	v := CheckLog(log)
	if n > len(log) {
		v.Lost += n - len(log)
		v.note("%d events are written, %d have a place", n, len(log))
	}
	v.Add(CheckCaptured(t, url))
	v.Add(Against(t, log, readers...))
	rows := table(t, url)
	for _, r := range readers {
		r.mu.Lock()
		if !r.partial {
			got := CompareRows(r.chosen(rows), r.rows)
			got.Notes = named(r, got.Notes)
			v.Add(got)
		}
		r.mu.Unlock()
	}
	return condemn(t, v)
}

// chosen are the rows whose topics the reader subscribed to.
func (r *Reader) chosen(rows Rows) Rows {
	mine := Rows{}
	for topic, held := range rows {
		for key := range r.streams {
			if p, err := pgcast.ParsePattern(key); err == nil && p.Match(topic) {
				mine[topic] = held
			}
		}
	}
	return mine
}

// Sequenced waits until every event has a place, also those of a writer that was stopped in the
// middle of its COMMIT, which Postgres goes on with.
func Sequenced(t testing.TB, url string) {
	t.Helper()
	conn := Connect(t, url)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	Await(t, "every transaction has ended", patience, func() (done bool) {
		err := conn.QueryRow(ctx, `select count(*) = 0 from pg_stat_activity where datname = current_database()
			and backend_xid is not null and pid <> pg_backend_pid() and application_name <> 'pgcast'`).Scan(&done)
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
	caughtUp(t, ctx, conn)
	Await(t, "every event has a place", patience, func() (done bool) {
		err := conn.QueryRow(ctx, "select (select count(*) from pgcast.event_log) = (select count(*) from pgcast.replay)").Scan(&done)
		if err != nil {
			t.Fatal(err)
		}
		return done
	})
}

// Against waits until the readers have what the log has for them, and compares.
func Against(t testing.TB, log []Fact, readers ...*Reader) (v Verdict) {
	t.Helper()
	for _, r := range readers {
		// Who never gets everything is told what it lacks.
		_, _ = within(patience, func() bool { return r.has(log) })
		r.mu.Lock()
		for key, s := range r.streams {
			got := Compare(s.wants(key, log), s.got)
			got.Notes = named(r, got.Notes)
			v.Add(got)
		}
		for _, w := range r.wrong {
			t.Errorf("reader %s: %s", r.Name, w)
		}
		s := r.Client.Stats()
		t.Logf("reader %s: %d events, %d connects, %d gaps, %d resets; on the wire %d repeated, %d asked for again",
			r.Name, r.count, s.Connects, s.Gaps, s.Resets, s.Duplicates, s.Holes)
		r.mu.Unlock()
	}
	return v
}

// has tells whether as much has come as the log has.
func (r *Reader) has(log []Fact) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.streams {
		if s.counted == nil || s.counted.after != s.after || s.counted.gaps != len(s.gaps) || s.counted.log != len(log) {
			s.counted = &counted{s.after, len(s.gaps), len(log), len(s.wants(key, log))}
		}
		if len(s.got) < s.counted.want {
			return false
		}
	}
	return true
}

// wants is what the log has for a subscription.
func (s *stream) wants(key string, log []Fact) (want []Fact) {
	pattern, err := pgcast.ParsePattern(key)
	if err != nil {
		return nil
	}
	many := pgcast.IsPattern(key)
	for _, f := range log {
		n := int64(f.Seq)
		if many {
			n = int64(f.Position)
		}
		if n > s.after && pattern.Match(f.Topic) && !inGap(s.gaps, n, many) {
			want = append(want, f)
		}
	}
	return want
}

// inGap tells whether the reader was told that a place is gone. Of a pattern's gap some
// events may still come, so there nothing is excused but what is gone from the log.
func inGap(gaps []client.Gap, n int64, many bool) bool {
	for _, g := range gaps {
		if !many && n > g.After && n < g.Tail {
			return true
		}
	}
	return false
}

func named(r *Reader, notes []string) []string {
	for i := range notes {
		notes[i] = "reader " + r.Name + ": " + notes[i]
	}
	return notes
}

// condemn fails the test unless the verdict is clean.
func condemn(t testing.TB, v Verdict) Verdict {
	t.Helper()
	if !v.Clean() {
		t.Errorf("%s", v.String())
		for _, n := range v.Notes {
			t.Error(n)
		}
	}
	return v
}

// CheckLog checks that the log itself has no hole and no double: positions from the first
// on, and seqs in each topic, rise by one. Only for a log of which nothing is trimmed.
func CheckLog(log []Fact) (v Verdict) {
	heads := map[string]pgcast.Seq{}
	for i, f := range log {
		if f.Position != pgcast.Position(i+1) {
			v.Lost++
			v.note("hole in the log: position %d is its event %d", f.Position, i+1)
		}
		if heads[f.Topic]++; f.Seq != heads[f.Topic] {
			v.Lost++
			v.note("hole in the log: %s #%d comes after #%d", f.Topic, f.Seq, heads[f.Topic]-1)
			heads[f.Topic] = f.Seq
		}
	}
	return v
}

// Log reads what stands in the log, by position.
func Log(t testing.TB, url string) (log []Fact) {
	t.Helper()
	conn := Connect(t, url)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	rows, _ := conn.Query(ctx, `select t.name, r.seq, r.position, pgcast.event_id(coalesce((e.origin).id, e.id), e.created_at), e.event,
			coalesce(octet_length(e.data::text), 0) + coalesce(octet_length(e.old::text), 0) > $1 as oversize,
			case when octet_length(e.data::text) > $1 then null else e.data end,
			case when octet_length(e.old::text) > $1 then null else e.old end
		from pgcast.replay r join pgcast.topic t on t.id = r.topic_id join pgcast.event_log e on e.id = r.event_id
		order by r.position`, maxEvent)
	var f Fact
	var name string
	var data, old []byte
	var oversize bool
	names := map[string]string{} // one copy of each
	_, err := pgx.ForEachRow(rows, []any{&f.Topic, &f.Seq, &f.Position, &f.ID, &name, &oversize, &data, &old}, func() error {
		if data == nil && name == pgcast.Deleted {
			data = old
		}
		f.Sum = sum(name, data, old, oversize)
		if _, ok := names[f.Topic]; !ok {
			names[f.Topic] = f.Topic
		}
		f.Topic = names[f.Topic]
		log = append(log, f)
		return nil
	})
	if err != nil {
		t.Fatal(fmt.Errorf("read the log: %w", err))
	}
	return log
}

// maxEvent is the servers' default of what is not oversize.
const maxEvent = 1_000_000

// table is the table item, by topic and key.
func table(t testing.TB, url string) Rows {
	t.Helper()
	conn := Connect(t, url)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	rows, _ := conn.Query(ctx, "select 'room:' || room, id::text, row_to_json(i)::text from item i")
	all := Rows{}
	var topic, key, row string
	if _, err := pgx.ForEachRow(rows, []any{&topic, &key, &row}, func() error {
		if all[topic] == nil {
			all[topic] = map[string]string{}
		}
		all[topic][key] = string(compact([]byte(row)))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
