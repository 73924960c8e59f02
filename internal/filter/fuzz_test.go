package filter

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzParse: whatever text comes as a filter, it is refused or read within its limits, its
// canonical text reads as the same filter, and it can be judged by whatever data there is.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"a = 1", "price > 10 and status in ('open', 'new')", `not ("odd name" is null or a.b.c <> -1.5e3)`, "x starts with 'it''s'", "a = 1; drop table m", "((((", "a = b or true = c", "1e99999 < a", "'"} {
		f.Add(text, `{"a":1,"price":12.5,"status":"open","x":"it's","c":true}`)
	}
	f.Fuzz(func(t *testing.T, text, data string) {
		began := time.Now()
		p, err := Parse(text)
		quoted, _ := json.Marshal(text)
		_, _ = Read(quoted)
		_, _ = Read(json.RawMessage(text))
		if err != nil {
			return
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("it took %v to read %d bytes", d, len(text))
		}
		again, err := parse(p.String(), 1<<20)
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is %q, which reads as %v, %v", text, p, again, err)
		}
		if nodes(p.root) > MaxNodes || len(p.slots) > 2*MaxNodes {
			t.Errorf("%q has %d nodes", text, nodes(p.root))
		}
		if got := p.Match([]byte(data)); got != again.Match([]byte(data)) || got && !p.May([]byte(data)) {
			t.Errorf("%q and %q differ on %q", text, p, data)
		}
	})
}

func nodes(e *expr) int {
	n := 0
	switch e.op {
	case and, or:
		n = len(e.kids) - 1
	default:
		n = 1 + max(0, len(e.args)-1)*btoi(e.op == in)
	}
	for _, kid := range e.kids {
		n += nodes(kid)
	}
	return n
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
