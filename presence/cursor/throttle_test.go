package cursor_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/cursor"
)

// told is longer than it takes until clients are told of a change.
const told = 10 * time.Nanosecond

// alone makes cursors of one server, whose clients are told of each change at once.
func alone(throttle, idle time.Duration) *cursor.Cursors {
	return cursor.New(presence.NewRosters(&presence.Options{Kind: "cursor", Every: told / 2}),
		&cursor.Options{Throttle: throttle, Idle: idle})
}

// seen is what somebody who looks at a topic was shown, and when.
type seen struct {
	at    time.Duration
	data  string // "" for a cursor that went
	value string
}

// shown is what somebody was shown.
type shown struct {
	mu   sync.Mutex // also: a view is pulled by one at a time
	list []seen
}

// take gives what there is once nothing more is on its way, and forgets it.
func (s *shown) take() []seen {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list
}

// look has all that is shown of a topic collected. In a bubble, after synctest.Wait, all
// there is has come.
func look(t *testing.T, c *cursor.Cursors, topic string) *shown {
	t.Helper()
	begin, s := time.Now(), new(shown)
	pull := func(v *presence.View) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, text := range v.Pull() {
			var in presence.Changes
			if err := json.Unmarshal(text, &in); err != nil {
				t.Error(err)
			}
			for range in.Removed {
				s.list = append(s.list, seen{at: time.Since(begin)})
			}
			for _, e := range in.Set {
				var entry struct{ Data json.RawMessage }
				if err := json.Unmarshal(e.Value, &entry); err != nil {
					t.Error(err)
				}
				s.list = append(s.list, seen{time.Since(begin), string(entry.Data), string(e.Value)})
			}
		}
	}
	v := c.View(topic, plain, "", func(v *presence.View) { go pull(v) })
	t.Cleanup(v.Close)
	return s
}

var plain = &presence.Dialect{Encode: func(c presence.Changes) [][]byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	return [][]byte{b}
}}

func move(t *testing.T, p *cursor.Pointer, data string) {
	t.Helper()
	if err := p.Move("board", json.RawMessage(`{"name":"Ann"}`), json.RawMessage(data)); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, of *shown, want ...seen) {
	t.Helper()
	time.Sleep(told)
	got := of.take()
	if len(got) != len(want) {
		t.Fatalf("shown %v; want %v", got, want)
	}
	for i, s := range got {
		if s.at.Round(ms) != want[i].at || s.data != want[i].data {
			t.Errorf("shown %v; want %v", got, want)
			break
		}
	}
}

const ms = time.Millisecond

// The first move is shown at once, the newest at the end of each interval, and one after
// a rest at once again.
func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(50*ms, 0)
		p := c.Pointer()
		defer p.Close()
		got := look(t, c, "board")
		for i := range 12 { // at 0, 11, … 121 ms
			move(t, p, fmt.Sprint(i))
			time.Sleep(11 * ms)
		}
		time.Sleep(100 * ms)
		want(t, got, seen{0, "0", ""}, seen{50 * ms, "4", ""}, seen{100 * ms, "9", ""}, seen{150 * ms, "11", ""})
		time.Sleep(7 * ms)
		move(t, p, "99")
		want(t, got, seen{239 * ms, "99", ""})
	})
}

// A move to where the cursor is shown already is none, nor is one there and back.
func TestNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(50*ms, 0)
		p := c.Pointer()
		defer p.Close()
		got := look(t, c, "board")
		move(t, p, `{"x": 1}`)
		for range 20 {
			time.Sleep(20 * ms)
			move(t, p, `{"x":1 }`)
		}
		move(t, p, `{"x":2}`)
		move(t, p, `{"x":3}`)
		move(t, p, `{"x":2}`)
		time.Sleep(time.Second)
		want(t, got, seen{0, `{"x":1}`, ""}, seen{400 * ms, `{"x":2}`, ""})
	})
}

// A cursor that does not move is taken away, and comes back when it does. Saying where it
// is counts as moving.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		c := cursor.New(presence.NewRosters(&presence.Options{Kind: "cursor", Every: told / 2}), &cursor.Options{Registerer: reg})
		p := c.Pointer()
		got := look(t, c, "board")
		move(t, p, "1")
		time.Sleep(20 * time.Second)
		move(t, p, "1")
		time.Sleep(29 * time.Second)
		want(t, got, seen{0, "1", ""})
		time.Sleep(2 * time.Second)
		want(t, got, seen{50 * time.Second, "", ""})
		if p.Len() != 0 || p.On("board") {
			t.Error("the session still counts it")
		}
		move(t, p, "1")
		want(t, got, seen{51 * time.Second, "1", ""})
		move(t, p, "2")
		p.Leave("board") // and what was to be shown at the end of the interval is not
		want(t, got, seen{51 * time.Second, "", ""})
		move(t, p, "3")
		want(t, got, seen{51 * time.Second, "3", ""})
		p.Close()
		move(t, p, "4") // it is over
		time.Sleep(time.Minute)
		want(t, got, seen{51 * time.Second, "", ""})
		p.Leave("board")
		p.Close()
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		figures := map[string]float64{}
		for _, f := range families {
			figures[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
		if want := (map[string]float64{"pgcast_cursors": 0, "pgcast_cursor_moves_total": 5, "pgcast_cursor_shown_total": 3,
			"pgcast_cursor_idle_total": 1}); !maps.Equal(figures, want) {
			t.Errorf("metrics %v; want %v", figures, want)
		}
	})
}

// Whatever is moved when: two moves shown are an interval apart, each was made at most an
// interval before it was shown, and the last is always shown.
func TestThrottleProperty(t *testing.T) {
	const throttle = 50 * ms
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			c := alone(throttle, time.Hour)
			p := c.Pointer()
			defer p.Close()
			got, begin := look(t, c, "board"), time.Now()
			var made []time.Duration
			for i := range 100 {
				made = append(made, time.Since(begin))
				move(t, p, fmt.Sprint(i))
				time.Sleep(time.Duration(r.ExpFloat64() * float64(throttle) / 3))
			}
			time.Sleep(throttle)
			shown := got.take()
			for i, s := range shown {
				var n int
				if _, err := fmt.Sscan(s.data, &n); err != nil {
					t.Fatal(err)
				}
				if i > 0 && s.at-shown[i-1].at < throttle-told {
					t.Fatalf("seed %d: shown at %v and %v", seed, shown[i-1].at, s.at)
				}
				if late := s.at - made[n]; late > throttle+told {
					t.Fatalf("seed %d: move %d was shown %v late", seed, n, late)
				}
				if next := n + 1; next < len(made) && made[next] < s.at-told {
					t.Fatalf("seed %d: at %v move %d was shown, which was not the newest", seed, s.at, n)
				}
			}
			if last := shown[len(shown)-1].data; last != "99" {
				t.Fatalf("seed %d: the last one shown is %s", seed, last)
			}
		})
	}
}

// What others see of a cursor is one line, and has the user as it was said last.
func TestValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(0, 0)
		p, other := c.Pointer(), c.Pointer()
		defer p.Close()
		if p.Key() == other.Key() || p.Key() == "" {
			t.Errorf("keys %q and %q", p.Key(), other.Key())
		}
		got := look(t, c, "board")
		for _, user := range []string{"", `{"name":"Ann"}`} {
			if err := p.Move("board", json.RawMessage(user), json.RawMessage("{ \"a\":\n\"b c\" }")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		list := got.take()
		for i, user := range []string{`{}`, `{"name":"Ann"}`} {
			if w := `{"key":"` + p.Key() + `","user":` + user + `,"data":{"a":"b c"}}`; len(list) != 2 || list[i].value != w {
				t.Errorf("shown %v; want %s", list, w)
			}
		}
		for data, code := range map[string]pgcast.Code{
			"":  pgcast.CodeInvalid,
			"{": pgcast.CodeInvalid,
			`"` + strings.Repeat("x", cursor.MaxData) + `"`: pgcast.CodeTooLarge,
		} {
			err := p.Move("board", nil, json.RawMessage(data))
			var e *pgcast.Error
			if !errors.As(err, &e) || e.Code != code {
				t.Errorf("%.20s: %v; want %s", data, err, code)
			}
		}
		if other.Len() != 0 || p.Len() != 1 {
			t.Errorf("cursors on %d and %d topics", p.Len(), other.Len())
		}
	})
}
