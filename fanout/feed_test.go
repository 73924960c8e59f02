package fanout

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// TestFeed holds a ring against a list of all that it was ever given.
func TestFeed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		number := func(from, to int, what string) int { return rapid.IntRange(from, to).Draw(rt, what) }
		f := &feed{key: "a", maxCount: number(1, 5, "count"), maxBytes: number(100, 1000, "bytes")}
		if rapid.Bool().Draw(rt, "pattern") {
			p, err := pgcast.ParsePattern("*")
			if err != nil {
				rt.Fatal(err)
			}
			f.pattern = &p
			f.begin(0)
		}
		var given []*Frame // since the ring last began anew
		var begun int64    // the place after which it did
		var seq, position int64
		add := func(n int) {
			for range n {
				seq++
				position += int64(number(1, 3, "step"))
				fr := newFrame(pgcast.Event{Topic: "a", Name: "e", Seq: pgcast.Seq(seq), Position: pgcast.Position(position),
					ID: pgcast.ID(fmt.Sprint(seq)), Data: make([]byte, number(1, 200, "size"))}, wire.AppendEventBody)
				if f.append(fr); f.pattern == nil && len(given) == 0 {
					begun = f.number(fr) - 1
				}
				given = append(given, fr)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) { add(1) },
			"burst":  func(*rapid.T) { add(10) },
			"learn":  func(*rapid.T) { f.learn(head(f, seq, position)) },
			"again": func(rt *rapid.T) { // what the place it learned had covered
				if !f.known {
					rt.Skip()
				}
				f.append(&Frame{Event: pgcast.Event{Seq: pgcast.Seq(seq), Position: pgcast.Position(position)}})
			},
			"miss": func(*rapid.T) { // events that the ring is not given
				seq, position, given = seq+2, position+2, nil
				if f.pattern != nil {
					f.begin(position)
					begun = position
				} else {
					f.lose()
				}
			},
			"skip": func(rt *rapid.T) { // the ring finds out by itself
				if f.pattern != nil {
					rt.Skip()
				}
				seq, position, given = seq+2, position+2, nil
				add(1)
			},
			"passed": func(rt *rapid.T) {
				if f.pattern == nil {
					rt.Skip()
				}
				position += 2
				f.passed(pgcast.Position(position))
			},
			"": func(rt *rapid.T) { compareFeed(rt, f, given, begun, position) },
		})
	})
}

func head(f *feed, seq, position int64) int64 {
	if f.pattern != nil {
		return position
	}
	return seq
}

func compareFeed(rt *rapid.T, f *feed, given []*Frame, begun, position int64) {
	if len(f.frames) > f.maxCount {
		rt.Fatalf("%d frames are kept of at most %d", len(f.frames), f.maxCount)
	}
	size := 0
	for _, fr := range f.frames {
		size += fr.size()
	}
	if size != f.bytes || size > f.maxBytes && len(f.frames) > 1 {
		rt.Fatalf("%d bytes are kept, %d counted, at most %d", size, f.bytes, f.maxBytes)
	}
	place := rapid.Int64Range(0, position+1).Draw(rt, "place")
	limit := pgcast.Position(rapid.Int64Range(0, position+1).Draw(rt, "limit"))
	var want []*Frame
	for _, fr := range given {
		if f.number(fr) > place && fr.Position <= limit {
			want = append(want, fr)
		}
	}
	got, behind, floor, more := f.after(place, limit, 3, 500, nil)
	switch {
	case behind:
		if f.known && place >= f.floor || floor != f.floor {
			rt.Fatalf("behind at %d, and the ring begins at %d", place, f.floor)
		}
		return
	case !f.known || len(given) > 0 && place < begun:
		rt.Fatalf("not behind at %d", place)
	case more != (len(got) < len(want)) || !more && len(got) != len(want) || len(got) > 3:
		rt.Fatalf("%d frames after %d up to %d, more: %v; want %d", len(got), place, limit, more, len(want))
	}
	for i, fr := range got {
		if fr != want[i] {
			rt.Fatalf("frame %d after %d is %+v, want %+v", i, place, fr, want[i])
		}
		for _, id := range []pgcast.ID{"", fr.ID, "another"} {
			n := f.number(fr)
			if at, ok := f.lookup(&n, id); ok != (id != "another") || ok && at != n {
				rt.Fatalf("lookup of %d with id %q: %d, %v", n, id, at, ok)
			}
		}
	}
	if at, ok := f.lookup(nil, ""); !ok || at != f.head {
		rt.Fatalf("the head is %d, not %d", f.head, at)
	}
	beyond := f.head + 1
	if _, ok := f.lookup(&beyond, ""); ok {
		rt.Fatalf("a place beyond the head is known")
	}
}
