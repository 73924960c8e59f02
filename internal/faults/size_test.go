package faults

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/judge"
)

// Rows of 1 MB and more are written as if nothing were attached, and arrive marked.
func TestFault39OversizeRows(t *testing.T) {
	r := begin(t, "39", "rows of 1 MB to 50 MB")
	sizes := []int{900_000, 999_000, 1_000_000, 3_000_000}
	if all || full {
		sizes = append(sizes, 20_000_000, 50_000_000)
	}
	r.trials = len(sizes)
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	readers := []*judge.Reader{judge.NewReader(t, "http://"+s.servers[0].Listen, "topic", &judge.ReaderOptions{NoFold: true}, "room:0"),
		judge.NewReader(t, "http://"+s.servers[0].Listen, "pattern", &judge.ReaderOptions{NoFold: true}, "**")}
	conn := judge.Connect(t, db.URL)
	aborts := 0
	for _, n := range sizes {
		for _, sql := range []string{"insert into item (room, n, note) values (0, 1, repeat('x', $1))",
			"update item set n = n + 1 where length(note) = $1", "delete from item where length(note) = $1"} {
			if _, err := conn.Exec(t.Context(), sql, n); err != nil {
				t.Errorf("%d bytes: %s: %v", n, sql, err)
				aborts++
			}
		}
	}
	judge.Sequenced(t, db.URL)
	log := judge.Log(t, db.URL)
	r.Add(judge.Against(t, log, readers...))
	r.check()
	r.count("users' statements that failed", aborts, 0)
	r.count("events dropped without a word", r.Lost+len(log)-3*len(sizes), 0)
}

// A very large COPY: other topics keep flowing, and the server's memory stays bounded.
func TestFault45BulkCopy(t *testing.T) {
	later(t)
	rows := trials(20_000, 100_000, 1_000_000)
	r := begin(t, "45", fmt.Sprintf("COPY of %d rows into one topic", rows))
	db := judge.Database(t, nil)
	server := judge.StartServer(t, db.URL)
	server.WaitReady()
	bulk := judge.NewReader(t, "http://"+server.Listen, "bulk", &judge.ReaderOptions{NoFold: true}, "room:4")
	other := judge.NewReader(t, "http://"+server.Listen, "other", &judge.ReaderOptions{Arrival: true}, "room:0")
	before := probes(t, db.URL, other, "room:0", 100)
	conn := judge.Connect(t, db.URL)
	ctx, cancel := context.WithCancel(t.Context())
	var copying sync.WaitGroup
	copying.Go(func() {
		defer cancel()
		n := 0
		_, err := conn.CopyFrom(t.Context(), pgx.Identifier{"item"}, []string{"room", "n"}, pgx.CopyFromFunc(func() ([]any, error) {
			if n++; n > rows {
				return nil, nil
			}
			return []any{4, n}, nil
		}))
		if err != nil {
			t.Errorf("COPY: %v", err)
		}
	})
	memory := server.Memory()
	var during, behind []time.Duration
	look := judge.Connect(t, db.URL)
	for ctx.Err() == nil || bulk.Events() < rows && !t.Failed() {
		took := probe(t, look, other, "room:0")
		if ctx.Err() == nil {
			during = append(during, took)
		} else {
			behind = append(behind, took)
		}
		memory = max(memory, server.Memory())
	}
	copying.Wait()
	judge.Sequenced(t, db.URL)
	log := judge.Log(t, db.URL)
	r.Add(judge.CheckLog(log))
	r.Add(judge.Against(t, log, bulk, other))
	r.check()
	r.most("peak resident memory of the server, MiB", memory>>20, 256, 768)
	if len(during) == 0 {
		t.Fatal("no event went its way while the rows were copied")
	}
	a, b := percentile(before, 0.99), percentile(during, 0.99)
	r.figure("another topic's p99 from commit to client, before and while the rows are copied", fmt.Sprint(round(a), ", ", round(b)), "within 20 %", float64(b) <= 1.2*float64(a))
	r.because("COPY keeps one of the processors busy; no event waits for an open transaction (row 17)")
	if len(behind) == 0 { // all were delivered before COPY was heard to have ended
		return
	}
	longest := slices.Max(behind)
	r.figure("another topic's longest after they committed, and that for each row in between", fmt.Sprint(round(longest), ", ", longest/time.Duration(rows)), "within 20 % of the p99 before", float64(longest) <= 1.2*float64(a))
	r.because("what committed before another transaction began comes first, over all topics: an event committed behind that many others waits until they have their places, and nearly half of that is Postgres writing three unique indexes")
}
