package judge

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

// The judge names each way in which a stream can be wrong, and nothing where it is right.
// What it is given is a real log, and what a correct reader would have got of it.
func TestStreamMutants(t *testing.T) {
	db := Database(t, nil)
	s := StartServer(t, db.URL)
	r := StartReader(t, s, "right", "room:*")
	w := StartWriters(t, db.URL, 2, 1)
	Await(t, "some events", patience, func() bool { return r.Events() > 50 })
	w.Stop()
	if v := Judge(t, db.URL, r); !v.Clean() {
		t.Fatal("a correct server was found to be wrong")
	}
	log := Log(t, db.URL)
	n := len(log) / 2
	for _, m := range []struct {
		name   string
		mutate func(got []Fact) []Fact
		want   Verdict
	}{
		{"right", func(got []Fact) []Fact { return got }, Verdict{}},
		{"the first lost", func(got []Fact) []Fact { return got[1:] }, Verdict{Lost: 1}},
		{"one lost", func(got []Fact) []Fact { return slices.Delete(got, n, n+1) }, Verdict{Lost: 1}},
		{"the last lost", func(got []Fact) []Fact { return got[:len(got)-1] }, Verdict{Lost: 1}},
		{"all lost", func([]Fact) []Fact { return nil }, Verdict{Lost: len(log)}},
		{"one doubled at once", func(got []Fact) []Fact { return slices.Insert(got, n, got[n]) }, Verdict{Doubled: 1}},
		{"one doubled later", func(got []Fact) []Fact { return append(got, got[n]) }, Verdict{Doubled: 1}},
		{"two reordered", func(got []Fact) []Fact { got[n], got[n+1] = got[n+1], got[n]; return got }, Verdict{Reordered: 1}},
		{"the first comes last", func(got []Fact) []Fact { return append(got[1:], got[0]) }, Verdict{Reordered: 1}},
		{"one invented", func(got []Fact) []Fact {
			return append(got, Fact{Topic: "room:0", Seq: 1_000_000, Position: 1_000_000, ID: "ffffff-1"})
		}, Verdict{Phantom: 1}},
		{"one in another topic", func(got []Fact) []Fact { got[n].Topic = "room:none"; return got }, Verdict{Phantom: 1, Lost: 1}},
		{"another event at its place", func(got []Fact) []Fact { got[n].ID = "ffffff-1"; return got }, Verdict{Phantom: 1, Lost: 1}},
		{"another position", func(got []Fact) []Fact { got[n].Position++; return got }, Verdict{Phantom: 1, Lost: 1}},
		{"one changed", func(got []Fact) []Fact { got[n].Sum++; return got }, Verdict{Changed: 1}},
	} {
		v := Compare(log, m.mutate(slices.Clone(log)))
		checkVerdict(t, m.name, v, m.want)
	}
	// The wire's own way of being wrong: a payload that says something else.
	if sum("created", []byte(`{"id":1,"n":2}`), nil, false) == sum("created", []byte(`{"id":1,"n":3}`), nil, false) ||
		sum("created", []byte("1"), nil, false) == sum("updated", []byte("1"), nil, false) ||
		sum("updated", []byte("1"), []byte("2"), false) == sum("updated", []byte("1"), nil, false) ||
		sum("created", nil, nil, true) == sum("created", nil, nil, false) {
		t.Error("two events that differ have the same sum")
	}
	// And the log's: a hole, a double.
	checkVerdict(t, "a log without a position", CheckLog(slices.Delete(slices.Clone(log), n, n+1)), Verdict{Lost: -1})
	swapped := slices.Clone(log)
	swapped[n].Seq++
	checkVerdict(t, "a log without a seq", CheckLog(swapped), Verdict{Lost: -1})
	rowMutants(t, table(t, db.URL))
}

// rowMutants does the same for the fold.
func rowMutants(t *testing.T, rows Rows) {
	topic := slices.Sorted(maps.Keys(rows))[0]
	key := slices.Sorted(maps.Keys(rows[topic]))[0]
	for _, m := range []struct {
		name   string
		mutate func(got Rows)
		missed int
	}{
		{"right", func(Rows) {}, 0},
		{"a row of which no event came", func(got Rows) { delete(got[topic], key) }, 1},
		{"an update of which no event came", func(got Rows) { got[topic][key] = strings.Replace(got[topic][key], `"n":`, `"n":9`, 1) }, 1},
		{"a delete of which no event came", func(got Rows) { got[topic]["0"] = "{}" }, 1},
		{"a row in another topic", func(got Rows) { got["room:none"] = map[string]string{key: got[topic][key]}; delete(got[topic], key) }, 2},
	} {
		got := Rows{}
		for topic, held := range rows {
			got[topic] = maps.Clone(held)
		}
		m.mutate(got)
		checkVerdict(t, m.name, CompareRows(rows, got), Verdict{Missed: m.missed})
	}
}

// checkVerdict compares the counts; -1 is any number but 0. What is wrong must also be named.
func checkVerdict(t *testing.T, name string, got, want Verdict) {
	t.Helper()
	notes := got.Notes
	if want.Lost == -1 && got.Lost > 0 {
		want.Lost = got.Lost
	}
	got.Events, got.Notes = 0, nil
	if g, w := got.String(), want.String(); g != w {
		t.Errorf("%s: %s; want %s", name, g, w)
	}
	if got.Clean() != (len(notes) == 0) {
		t.Errorf("%s: named as %q", name, notes)
	}
}

// A reader that misses what it is told, or is given another subscription's events, is found
// out by what it wants of the log.
func TestReaderWants(t *testing.T) {
	var log []Fact
	for i := range 20 {
		log = append(log, Fact{Topic: fmt.Sprint("a:", i%2), Seq: pgcast.Seq(i/2 + 1), Position: pgcast.Position(i + 1)})
	}
	for _, c := range []struct {
		key    string
		stream stream
		want   int
	}{
		{"a:0", stream{}, 10},
		{"a:0", stream{after: 3}, 7},
		{"a:*", stream{}, 20},
		{"a:*", stream{after: 15}, 5},
		{"b:*", stream{}, 0},
		{"a:0", stream{gaps: []client.Gap{{Topic: "a:0", After: 2, Tail: 6, Head: 10}}}, 7},
	} {
		if got := len(c.stream.wants(c.key, log)); got != c.want {
			t.Errorf("%s after %d with %d gaps: %d events wanted, not %d", c.key, c.stream.after, len(c.stream.gaps), got, c.want)
		}
	}
}
