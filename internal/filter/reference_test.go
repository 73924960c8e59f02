package filter

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// reference judges by what the docs say, in the most obvious way: everything is decoded, and
// numbers are fractions.
func reference(e *expr, data map[string]any) bool {
	value := func(o operand) any {
		switch o.kind {
		case member:
			var v any = data
			for _, name := range o.path {
				all, ok := v.(map[string]any)
				if !ok {
					return nil
				}
				v = all[name]
			}
			return v
		case number:
			return json.Number(o.text)
		case boolean:
			return o.text == "true"
		}
		return o.text
	}
	compare := func(o op, a, b any) bool {
		order := 0
		switch a := a.(type) {
		case json.Number:
			b, ok := b.(json.Number)
			if !ok {
				return false
			}
			x, _ := new(big.Rat).SetString(string(a))
			y, _ := new(big.Rat).SetString(string(b))
			order = x.Cmp(y)
		case string:
			b, ok := b.(string)
			if !ok {
				return false
			}
			order = strings.Compare(a, b)
		case bool:
			b, ok := b.(bool)
			if !ok || o != equal && o != unequal {
				return false
			}
			if a != b {
				order = 1
			}
		default:
			return false
		}
		return map[op]bool{equal: order == 0, unequal: order != 0, less: order < 0, atMost: order <= 0, greater: order > 0, atLeast: order >= 0}[o]
	}
	switch e.op {
	case and:
		for _, kid := range e.kids {
			if !reference(kid, data) {
				return false
			}
		}
		return true
	case or:
		for _, kid := range e.kids {
			if reference(kid, data) {
				return true
			}
		}
		return false
	case not:
		return !reference(e.kids[0], data)
	case in:
		for _, v := range e.args[1:] {
			if compare(equal, value(e.args[0]), value(v)) {
				return true
			}
		}
		return false
	case isNull:
		return value(e.args[0]) == nil
	case isNotNull:
		return value(e.args[0]) != nil
	case startsWith:
		s, ok := value(e.args[0]).(string)
		return ok && strings.HasPrefix(s, e.args[1].text)
	}
	return compare(e.op, value(e.args[0]), value(e.args[1]))
}

var (
	names   = rapid.SampledFrom([]string{"a", "b", "c", "odd name", "is", "ü", `q"`, ""})
	numbers = rapid.OneOf(rapid.SampledFrom([]string{"0", "-0", "1", "-1", "1.0", "10", "1e1", "100e-1", "0.1", "1.5", "99999999999999999999", "99999999999999999999.5",
		"1e25", "10000000000000000000000000", "1E-25", "-123456789012345678", "1234567890123456789", "0.00", "1e-3", "0.001"}),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?`))
	texts = rapid.SampledFrom([]string{"", "a", "ab", "abc", "it's", `"`, `\`, "ü", "\u2028", "\t\n", "1", "true", "null", "\U0001f600"})
)

// values are what a member may have, as JSON.
var values = rapid.Custom(func(t *rapid.T) string {
	switch rapid.IntRange(0, 6).Draw(t, "kind") {
	case 0:
		return "null"
	case 1:
		return rapid.SampledFrom([]string{"true", "false"}).Draw(t, "truth")
	case 2:
		return rapid.SampledFrom([]string{`{}`, `[]`, `[1,"}"]`, `{"x":"{"}`}).Draw(t, "other")
	case 3, 4:
		b, _ := json.Marshal(texts.Draw(t, "text"))
		return string(b)
	}
	return numbers.Draw(t, "number")
})

func objects(depth int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		space := rapid.SampledFrom([]string{"", " ", "\n\t"})
		var b strings.Builder
		b.WriteString("{")
		for i := range rapid.IntRange(0, 6).Draw(t, "members") {
			if i > 0 {
				b.WriteString(",")
			}
			name, _ := json.Marshal(names.Draw(t, "name"))
			v := ""
			if depth > 0 && rapid.IntRange(0, 2).Draw(t, "deeper") == 0 {
				v = objects(depth-1).Draw(t, "object")
			} else {
				v = values.Draw(t, "value")
			}
			b.WriteString(space.Draw(t, "space") + string(name) + space.Draw(t, "space") + ":" + space.Draw(t, "space") + v + space.Draw(t, "space"))
		}
		return b.String() + "}"
	})
}

var paths = rapid.Custom(func(t *rapid.T) operand {
	return operand{kind: member, path: rapid.SliceOfN(names, 1, 3).Draw(t, "path")}
})

var literals = rapid.Custom(func(t *rapid.T) operand {
	switch rapid.IntRange(0, 2).Draw(t, "literal") {
	case 0:
		return operand{kind: text, text: texts.Draw(t, "text")}
	case 1:
		return operand{kind: boolean, text: rapid.SampledFrom([]string{"true", "false"}).Draw(t, "truth")}
	}
	return operand{kind: number, text: readDecimal([]byte(numbers.Draw(t, "number"))).String()}
})

func exprs(depth int) *rapid.Generator[*expr] {
	return rapid.Custom(func(t *rapid.T) *expr {
		if depth > 0 {
			switch rapid.IntRange(0, 4).Draw(t, "logic") {
			case 0, 1:
				e := &expr{op: rapid.SampledFrom([]op{and, or}).Draw(t, "op")}
				for range rapid.IntRange(2, 3).Draw(t, "kids") {
					e.add(exprs(depth-1).Draw(t, "kid"))
				}
				return e
			case 2:
				return &expr{op: not, kids: []*expr{exprs(depth-1).Draw(t, "kid")}}
			}
		}
		left := paths.Draw(t, "left")
		switch o := rapid.SampledFrom([]op{equal, unequal, less, atMost, greater, atLeast, in, isNull, isNotNull, startsWith}).Draw(t, "op"); o {
		case in:
			return &expr{op: o, args: append([]operand{left}, rapid.SliceOfN(literals, 1, 3).Draw(t, "list")...)}
		case isNull, isNotNull:
			return &expr{op: o, args: []operand{left}}
		case startsWith:
			return &expr{op: o, args: []operand{left, {kind: text, text: texts.Draw(t, "prefix")}}}
		default:
			right := rapid.OneOf(literals, paths).Draw(t, "right")
			if right.kind == boolean && o != equal && o != unequal {
				o = equal
			}
			if right.kind != member && rapid.Bool().Draw(t, "mirror") {
				left, right = right, left
			}
			return &expr{op: o, args: []operand{left, right}}
		}
	})
}

// Whatever the filter and the data, compiled and canonical text say the same as the obvious
// way to judge; and of a part of the data never less than that.
func TestAgainstReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := exprs(2).Draw(t, "filter")
		f, err := newFilter(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(f.String(), 1<<20)
		if err != nil || again.String() != f.String() {
			t.Fatalf("%s reads as %v, %v", f, again, err)
		}
		for range 8 {
			data := objects(2).Draw(t, "data")
			var decoded map[string]any
			dec := json.NewDecoder(strings.NewReader(data))
			dec.UseNumber()
			if err := dec.Decode(&decoded); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			// encoding/json merges objects of the same name; here, as in Postgres, the last counts.
			if want := reference(e, decoded); f.Match([]byte(data)) != want && !twice(data) {
				t.Fatalf("%s on %s: not %t", f, data, want)
			} else if again.Match([]byte(data)) != f.Match([]byte(data)) {
				t.Fatalf("%s and what it reads as differ on %s", f, data)
			}
			whole := f.Match([]byte(data))
			for name := range decoded {
				delete(decoded, name)
				break
			}
			if part, _ := json.Marshal(decoded); whole && !f.May(part) {
				t.Fatalf("%s holds of %s, but cannot of a part of it, %s", f, data, part)
			}
		}
	})
}

// twice tells whether an object in a text has a member twice.
func twice(data string) bool {
	dec := json.NewDecoder(strings.NewReader(data))
	dec.UseNumber()
	found := false
	var walk func()
	walk = func() {
		tok, err := dec.Token()
		if err != nil {
			return
		}
		switch tok {
		case json.Delim('{'):
			seen := map[any]bool{}
			for dec.More() {
				name, _ := dec.Token()
				found = found || seen[name]
				seen[name] = true
				walk()
			}
			_, _ = dec.Token()
		case json.Delim('['):
			for dec.More() {
				walk()
			}
			_, _ = dec.Token()
		}
	}
	walk()
	return found
}

func BenchmarkMatch(b *testing.B) {
	row := []byte(`{"id":123456,"room_id":42,"author":"somebody","body":"` + strings.Repeat("lorem ipsum ", 20) + `","price":12.50,"status":"open","created_at":"2026-01-01T00:00:00+00:00"}`)
	for name, text := range map[string]string{"one": `status = 'open'`, "three": `price > 10 and status in ('open', 'new') and not author starts with 'x'`} {
		f := must(b, text)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !f.Match(row) {
					b.Fatal("no match")
				}
			}
		})
	}
}
