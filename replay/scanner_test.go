package replay

import (
	"slices"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
)

// scanner follows a pattern by position.
type scanner struct {
	w   *world
	at  pgcast.Position
	got []int
}

var scanned, _ = pgcast.ParsePattern("b:*")

func (s *scanner) read(max int) {
	if s.w.err != nil {
		return
	}
	upto, err := s.w.log.Position(s.w.ctx)
	if err == nil {
		var events []pgcast.Event
		events, s.at, err = s.w.log.Scan(s.w.ctx, scanned, s.at, upto, max)
		for _, e := range events {
			s.got = append(s.got, number(e))
		}
	}
	if err != nil {
		s.w.fail("%w", err)
	}
}

// settled reads to the end and compares with the order.
func (s *scanner) settled(rt *rapid.T) {
	for before := pgcast.Position(-1); before != s.at && s.w.err == nil; {
		before = s.at
		s.read(3)
	}
	var want []int
	for _, p := range s.w.look() {
		if p.Topic == "b:1" {
			want = append(want, p.N)
		}
	}
	if s.w.err != nil {
		rt.Fatal(s.w.err)
	}
	if !slices.Equal(s.got, want) {
		rt.Fatalf("scan of %s gave %v, want %v", scanned, s.got, want)
	}
}
