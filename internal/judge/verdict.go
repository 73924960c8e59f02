package judge

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pgcast/pgcast"
)

// Fact is what the log knows of an event, or what a reader was given of it.
type Fact struct {
	Topic    string
	Seq      pgcast.Seq
	Position pgcast.Position // 0 where it came through a topic
	ID       pgcast.ID
	Sum      uint64 // of its name and payload
}

// Verdict counts what a reader was given wrongly. The zero value is what must be.
type Verdict struct {
	Events    int // compared
	Lost      int // in the log, and not given
	Doubled   int // given again
	Reordered int // given after one that comes later
	Phantom   int // given, and not in the log
	Changed   int // given with another payload than the log's
	Missed    int // rows that differ from what folding the events gives
	Notes     []string
}

// maxNotes is how many of its findings a verdict names.
const maxNotes = 20

// Clean reports whether nothing is wrong.
func (v *Verdict) Clean() bool {
	return v.Lost+v.Doubled+v.Reordered+v.Phantom+v.Changed+v.Missed == 0
}

// String gives the counts.
func (v *Verdict) String() string {
	return fmt.Sprintf("%d events compared: lost %d, doubled %d, reordered %d, phantom %d, changed %d, rows missed %d",
		v.Events, v.Lost, v.Doubled, v.Reordered, v.Phantom, v.Changed, v.Missed)
}

// Add adds another verdict's counts.
func (v *Verdict) Add(o Verdict) {
	v.Events += o.Events
	v.Lost += o.Lost
	v.Doubled += o.Doubled
	v.Reordered += o.Reordered
	v.Phantom += o.Phantom
	v.Changed += o.Changed
	v.Missed += o.Missed
	for _, n := range o.Notes {
		v.note("%s", n)
	}
}

func (v *Verdict) note(format string, args ...any) {
	if len(v.Notes) < maxNotes {
		v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
	}
}

// place is an event's place in its topic; the log has at most one event there.
type place struct {
	topic string
	seq   pgcast.Seq
}

// Compare compares what came through one subscription with what the log has for it, in
// the log's order.
func Compare(want, got []Fact) (v Verdict) {
	v.Events = len(want)
	index := make(map[place]int, len(want))
	for i, f := range want {
		index[place{f.Topic, f.Seq}] = i
	}
	seen := make([]bool, len(want))
	last := -1
	for _, g := range got {
		i, known := index[place{g.Topic, g.Seq}]
		switch {
		case !known:
			v.Phantom++
			v.note("phantom: %s #%d (%s) is not in the log", g.Topic, g.Seq, g.ID)
			continue
		case want[i].ID != g.ID || g.Position != 0 && want[i].Position != g.Position:
			v.Phantom++
			v.note("phantom: %s #%d is %s at %d, in the log %s at %d", g.Topic, g.Seq, g.ID, g.Position, want[i].ID, want[i].Position)
			continue
		case seen[i]:
			v.Doubled++
			v.note("doubled: %s #%d", g.Topic, g.Seq)
			continue
		case i < last:
			v.Reordered++
			v.note("reordered: %s #%d came after %s #%d", g.Topic, g.Seq, want[last].Topic, want[last].Seq)
		}
		seen[i], last = true, max(last, i)
		if want[i].Sum != g.Sum {
			v.Changed++
			v.note("changed: %s #%d (%s) has another payload than in the log", g.Topic, g.Seq, g.ID)
		}
	}
	for i, f := range want {
		if !seen[i] {
			v.Lost++
			v.note("lost: %s #%d (%s)", f.Topic, f.Seq, f.ID)
		}
	}
	return v
}

// Rows are rows by topic and key, as JSON.
type Rows map[string]map[string]string

// CompareRows compares the fold of a reader's events with the tables.
func CompareRows(want, got Rows) (v Verdict) {
	missed := func(topic, key, is, should string) {
		v.Missed++
		v.note("row missed: %s of %s is %q by the events, %q in the table", key, topic, is, should)
	}
	for _, topic := range slices.Sorted(maps.Keys(want)) {
		for key, row := range want[topic] {
			if is, ok := got[topic][key]; !ok || is != row {
				missed(topic, key, is, row)
			}
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(got)) {
		for key, row := range got[topic] {
			if _, ok := want[topic][key]; !ok {
				missed(topic, key, row, "")
			}
		}
	}
	return v
}
