package gateway

import (
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
)

// FuzzLastEventID: whatever a stranger sends is refused or understood, and what is
// understood is written again as it was.
func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "-", "0", "42:2a-64d2c5b1a0f3e", "1,-,3:4-5", "9223372036854775808", "1:", ":1", "01", "+1", "1:\n", strings.Repeat("-,", 60), "1:a:b"} {
		f.Add(s, 1)
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, text string, n int) {
		marks := make([]mark, max(0, min(n, MaxStreamTopics)))
		if err := parseMarks(text, marks); err != nil {
			if e, ok := err.(*pgcast.Error); !ok || e.Hint == "" && e.Message == "" {
				t.Errorf("the error says nothing: %v", err)
			}
			return
		}
		again := make([]mark, len(marks))
		written := string(appendMarks(nil, marks))
		if err := parseMarks(written, again); err != nil {
			t.Fatalf("%q was read, written as %q, and then refused: %v", text, written, err)
		}
		for i, m := range marks {
			if strings.ContainsAny(string(m.id), "\r\n,") {
				t.Errorf("%q: an id of several lines or places", m.id)
			}
			if a := again[i]; (a.after == nil) != (m.after == nil) || a.after != nil && *a.after != *m.after || a.id != m.id {
				t.Errorf("place %d changed on its way", i)
			}
		}
	})
}
