package pgcast_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/pgtest"
)

func TestCheckTopic(t *testing.T) {
	long := strings.Repeat("x", pgcast.MaxTopic)
	for _, name := range []string{"a", "room:1", "a b", "~", "!", ":", "::", "_", "_x", "a:__b", "x*", "*x:1", "***", "%C3%A9", "{a}", long} {
		if err := pgcast.CheckTopic(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":          "is empty",
		long + "x":  "257 bytes",
		"__":        "server's own",
		"__system":  "server's own",
		"a\"b":      "byte 0x22 at 1",
		`a\b`:       "byte 0x5c at 1",
		"a\x00":     "byte 0x00 at 1",
		"a\n":       "byte 0x0a at 1",
		"a\x7f":     "byte 0x7f at 1",
		"é":         "byte 0xc3 at 0",
		"*":         "is a pattern",
		"**":        "is a pattern",
		"room:*":    "is a pattern",
		"room:**":   "is a pattern",
		"a:*:b":     "is a pattern",
		"*:a":       "is a pattern",
		"**:a":      "is a pattern",
		"room:*:**": "is a pattern",
	} {
		err := pgcast.CheckTopic(name)
		if !errors.Is(err, pgcast.ErrInvalidTopic) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: error %v, want %q", name, err, want)
		}
	}
}

func TestCheckEventName(t *testing.T) {
	for _, name := range []string{"created", "x", "a b", "*", "__x", strings.Repeat("x", pgcast.MaxEventName)} {
		if err := pgcast.CheckEventName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", `"`, `\`, "a\tb", "é", "\x7f", strings.Repeat("x", pgcast.MaxEventName+1)} {
		if err := pgcast.CheckEventName(name); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalidEvent}) {
			t.Errorf("%.20q: error %v, want invalid_event", name, err)
		}
	}
}

func TestParsePattern(t *testing.T) {
	for _, s := range []string{"a", "*", "**", "room:*", "*:*", "room:**", "*:**", "a:*:b", "a:***", "x*"} {
		p, err := pgcast.ParsePattern(s)
		if err != nil || p.String() != s {
			t.Errorf("%q: %q, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "**:a", "a:**:b", "**:**", "__x", "__x:*", "a\"", "é:*", strings.Repeat("*:", 128) + "*"} {
		if _, err := pgcast.ParsePattern(s); !errors.Is(err, pgcast.ErrInvalidTopic) {
			t.Errorf("%.20q: error %v, want invalid_topic", s, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern  string
		yes, not []string
	}{
		{"room:1", []string{"room:1"}, []string{"room:2", "room", "room:1:x", "room:1:", "xroom:1"}},
		{"room:*", []string{"room:1", "room:", "room:__x"}, []string{"room", "rooms:1", "room:1:2", "x:room:1"}},
		{"*", []string{"room", "x", "_"}, []string{"room:1", ":", "__system"}},
		{"**", []string{"room", "room:1", ":", "a:b:c:d"}, []string{"__system", "__presence:room:1"}},
		{"room:**", []string{"room:1", "room:1:2:3", "room:"}, []string{"room", "rooms:1"}},
		{"*:**", []string{"room:1", "a:b:c", ":"}, []string{"room", "__presence:room"}},
		{"a:*:c", []string{"a:b:c", "a::c"}, []string{"a:c", "a:b:b:c", "a:b:c:"}},
		{"a.c", []string{"a.c"}, []string{"abc"}},
		{"a:***", []string{"a:***"}, []string{"a:b"}},
	} {
		p, err := pgcast.ParsePattern(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range c.yes {
			if !p.Match(topic) {
				t.Errorf("%s does not select %s", p, topic)
			}
		}
		for _, topic := range c.not {
			if p.Match(topic) {
				t.Errorf("%s selects %s", p, topic)
			}
		}
	}
}

// selects says in the plainest way what a pattern means.
func selects(pattern, topic []string) bool {
	switch {
	case len(pattern) == 1 && pattern[0] == "**":
		return len(topic) > 0
	case len(pattern) == 0 || len(topic) == 0:
		return len(pattern) == len(topic)
	}
	return (pattern[0] == "*" || pattern[0] == topic[0]) && selects(pattern[1:], topic[1:])
}

// segments make topics and patterns that often match, and hold what a regular
// expression could take for its own.
var segments = rapid.SampledFrom([]string{"a", "b", "", "a b", "__", "__a", "_", "***", "x*", "a.", "[a]", "(?i)a", "^a$", "a|b", "{1}", "+", "?", "-", "%41", "$", "~"})

func drawTopic(t *rapid.T) string {
	for {
		s := strings.Join(rapid.SliceOfN(segments, 1, 4).Draw(t, "topic"), ":")
		if s != "" {
			return s
		}
	}
}

// drawPattern makes a pattern, mostly from a topic so that it is likely to select it.
func drawPattern(t *rapid.T, topic string) pgcast.Pattern {
	for {
		segs := strings.Split(topic, ":")
		for i := range segs {
			switch rapid.IntRange(0, 5).Draw(t, "replace") {
			case 0, 1:
				segs[i] = "*"
			case 2:
				segs[i] = segments.Draw(t, "segment")
			}
		}
		switch rapid.IntRange(0, 3).Draw(t, "tail") {
		case 0:
			segs = append(segs[:rapid.IntRange(0, len(segs)-1).Draw(t, "from")], "**")
		case 1:
			segs = append(segs, "**")
		}
		if p, err := pgcast.ParsePattern(strings.Join(segs, ":")); err == nil {
			return p
		}
		topic = "a:b"
	}
}

func TestMatchMeansWhatItSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		topic := drawTopic(t)
		p := drawPattern(t, topic)
		want := !strings.HasPrefix(topic, "__") && selects(strings.Split(p.String(), ":"), strings.Split(topic, ":"))
		if got := p.Match(topic); got != want {
			t.Fatalf("%s selects %s: %v, want %v", p, topic, got, want)
		}
	})
}

// TestOverlaps compares with what names there are: of few segments and letters, so that
// all can be tried.
func TestOverlaps(t *testing.T) {
	names := []string{}
	for _, a := range []string{"a", "b", "c"} {
		names = append(names, a)
		for _, b := range []string{":a", ":b", ":c"} {
			names = append(names, a+b, a+b+":a", a+b+":b", a+b+":c", a+b+":a:a", a+b+":b:a")
		}
	}
	patterns := []string{"**", "*", "*:*", "*:*:*", "*:**", "a:**", "b:**", "a:b:**", "*:b:**", "a:*:**", "*:a", "a:*", "b:*", "*:*:a", "*:b:*", "a:*:b", "*:*:*:*"}
	patterns = append(patterns, names...)
	for _, x := range patterns {
		for _, y := range patterns {
			p, _ := pgcast.ParsePattern(x)
			q, _ := pgcast.ParsePattern(y)
			want := false
			for _, n := range names {
				want = want || p.Match(n) && q.Match(n)
			}
			if got := p.Overlaps(q); got != want {
				t.Errorf("%s and %s: %v, want %v", x, y, got, want)
			}
		}
	}
}

// TestRegexpMeansTheSame checks that Postgres selects the topics that Match selects.
func TestRegexpMeansTheSame(t *testing.T) {
	pool := pgtest.New(t, &pgtest.Options{Empty: true}).Pool(t)
	rapid.Check(t, func(t *rapid.T) {
		var topics, patterns []string
		var want []bool
		for range 20 {
			topic := drawTopic(t)
			p := drawPattern(t, topic)
			topics, patterns, want = append(topics, topic), append(patterns, p.Regexp()), append(want, p.Match(topic))
		}
		var got []bool
		err := pool.QueryRow(t.Context(), `select array_agg(topic collate "C" ~ pattern order by n)
			from unnest($1::text[], $2::text[]) with ordinality as x(topic, pattern, n)`, topics, patterns).Scan(&got)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("%q ~ %q is %v in Postgres, Match says %v", topics[i], patterns[i], got[i], want[i])
			}
		}
	})
}

// TestDatabaseChecksTopicsAlike checks that what Go calls a topic, and only that, can
// be published to.
func TestDatabaseChecksTopicsAlike(t *testing.T) {
	pool := pgtest.New(t, nil).Pool(t)
	name := rapid.OneOf(
		rapid.Custom(drawTopic),
		rapid.StringMatching(`[ -~]{1,8}`),
		rapid.StringMatching(`(\*|\*\*|__|a|:|\n|"|\\|é|\x7f){1,5}`),
		rapid.Map(rapid.IntRange(pgcast.MaxTopic-1, pgcast.MaxTopic+1), func(n int) string { return strings.Repeat("x", n) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		topic := name.Draw(t, "topic")
		var back string
		sql := pool.QueryRow(t.Context(), "select pgcast.check_topic($1)", topic).Scan(&back)
		if goErr := pgcast.CheckTopic(topic); (goErr == nil) != (sql == nil) {
			t.Fatalf("topic %q: Go says %v, Postgres says %v", topic, goErr, sql)
		}
		if sql == nil && back != topic {
			t.Fatalf("check_topic gave %q for %q", back, topic)
		}
	})
}

func FuzzParsePattern(f *testing.F) {
	f.Add("room:*", "room:1")
	f.Add("a:**", "a:b:c")
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		p, err := pgcast.ParsePattern(pattern)
		if err != nil {
			return
		}
		if plain := !pgcast.IsPattern(pattern); plain != (pgcast.CheckTopic(pattern) == nil) {
			t.Fatalf("%q is not a pattern: %v, but CheckTopic says %v", pattern, plain, pgcast.CheckTopic(pattern))
		} else if plain && !p.Match(pattern) {
			t.Fatalf("%q does not select itself", pattern)
		}
		want := !strings.HasPrefix(topic, "__") && selects(strings.Split(pattern, ":"), strings.Split(topic, ":"))
		if p.Match(topic) != want {
			t.Fatalf("%q selects %q: %v", pattern, topic, !want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	p, err := pgcast.ParsePattern("room:*:typing")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Match("room:1234:typing")
	}
}
