package pgcast_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

var (
	rows = rapid.Int64Min(0)
	// From year 1 to 9999, which is more than clocks show.
	micros = rapid.Int64Range(-62135596800_000000, 253402300799_999999)
)

func TestIDComesApartAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		row, at := rows.Draw(t, "row"), time.UnixMicro(micros.Draw(t, "micros"))
		id := pgcast.MakeID(row, at.Add(time.Duration(rapid.IntRange(0, 999).Draw(t, "nanos"))))
		gotRow, gotAt, ok := id.Parts()
		if !ok || gotRow != row || !gotAt.Equal(at) {
			t.Fatalf("%s came apart as %d, %s, %v; want %d, %s", id, gotRow, gotAt, ok, row, at)
		}
		if len(id) > 64 {
			t.Fatalf("%s has %d bytes, the wire allows 64", id, len(id))
		}
	})
}

func TestIDsDiffer(t *testing.T) {
	at := time.UnixMicro(1_700_000_000_000_000)
	ids := map[pgcast.ID]string{}
	for row := range int64(300) {
		for micro := range 3 {
			id := pgcast.MakeID(row, at.Add(time.Duration(micro)*time.Microsecond))
			name := fmt.Sprintf("row %d at +%d µs", row, micro)
			if other := ids[id]; other != "" {
				t.Fatalf("%s and %s are both %s", name, other, id)
			}
			ids[id] = name
		}
	}
}

func TestPartsRefuses(t *testing.T) {
	for _, id := range []pgcast.ID{"", "-", "2a", "2a-", "-1", "-2a-1", "g-1", "1-g", "+1-1", "01-1", "2A-1", "1-01", "1-1-1", " 1-1",
		"10000000000000000-1", "1-10000000000000000"} {
		if row, at, ok := id.Parts(); ok {
			t.Errorf("%q came apart as %d and %s", id, row, at)
		}
	}
}

// TestDatabaseMakesTheSameIDs checks that an id made in SQL, as publish returns it, is
// the one that subscribers see.
func TestDatabaseMakesTheSameIDs(t *testing.T) {
	pool := pgtest.New(t, nil).Pool(t)
	rapid.Check(t, func(t *rapid.T) {
		row := rows.Draw(t, "row")
		at := time.UnixMicro(rapid.Int64Range(0, 253402300799_999999).Draw(t, "micros")).UTC()
		var got string
		if err := pool.QueryRow(t.Context(), "select pgcast.event_id($1, $2)", row, at).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want := pgcast.MakeID(row, at); pgcast.ID(got) != want {
			t.Fatalf("row %d at %s: SQL says %s, Go says %s", row, at, got, want)
		}
	})
}

func TestError(t *testing.T) {
	err := fmt.Errorf("subscribe: %w", &pgcast.Error{Code: pgcast.CodeTooMany, Message: "300 items", Hint: "256 at most"})
	if got, want := err.Error(), "subscribe: 300 items (256 at most)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (&pgcast.Error{Message: "m"}).Error(); got != "m" {
		t.Errorf("without a hint: %q", got)
	}
	if !errors.Is(err, pgcast.ErrTooMany) {
		t.Error("is not ErrTooMany")
	}
	for _, other := range []error{pgcast.ErrTooLarge, &pgcast.Error{Code: pgcast.CodeTooMany, Message: "301 items"}, errors.New("x")} {
		if errors.Is(err, other) {
			t.Errorf("is %v", other)
		}
	}
}

func TestMakeIDExtremes(t *testing.T) {
	for _, c := range []struct {
		row  int64
		at   time.Time
		want pgcast.ID
	}{
		{0, time.UnixMicro(0), "0-0"},
		{42, time.UnixMicro(1767323045678901), "2a-6475ef6574f35"},
		{math.MaxInt64, time.UnixMicro(1), "7fffffffffffffff-1"},
	} {
		if got := pgcast.MakeID(c.row, c.at); got != c.want {
			t.Errorf("row %d at %s: %s, want %s", c.row, c.at, got, c.want)
		}
	}
}
