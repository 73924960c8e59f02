package filter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
)

func must(t testing.TB, text string) *Filter {
	t.Helper()
	f, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What a filter means, by example; docs/filters.md has the rules.
func TestMatch(t *testing.T) {
	t.Parallel()
	const row = `{"id": 7, "price":12.50, "big":123456789012345678901234567890.5, "tiny":1e-7, "name":"O'Neil", "odd name":"x", "tab":"a\tb",
		"city":"Z\u00fcrich", "ok":true, "none":null, "tags":["a"], "a":{"b":{"c":-3,"n":null},"id":8}, "": 5, "text_id":"7", "a.b": 1, "e\"q": 2}`
	for text, want := range map[string]bool{
		`id = 7`: true, `id = 7.0`: true, `7 = id`: true, `id = 70e-1`: true, `id != 7`: false, `id <> 8`: true, `id == 7`: true,
		`price > 12.4999999999999999999999`: true, `price >= 12.5`: true, `price <= 12.49`: false, `5 < price`: true, `5 > price`: false,
		`big = 123456789012345678901234567890.5`: true, `big > 123456789012345678901234567890.4999`: true, `big < 123456789012345678901234567890.6`: true,
		`big = 123456789012345678901234567890`: false, `tiny = 0.0000001`: true, `tiny < 1e-6`: true, `tiny > 0`: true, `a.b.c < -2.999`: true, `a.b.c = -3`: true, `a.b.c > -30`: true,
		`name = 'O''Neil'`: true, `name > 'O'`: true, `name starts with 'O'`: true, `name starts with 'o'`: false, `"odd name" = 'x'`: true,
		"tab = 'a\tb'": true, `city = 'Zürich'`: true, `city starts with 'Zü'`: true, `city < 'Zz'`: false,
		`ok = true`: true, `ok != true`: false, `ok = false`: false, `ok = 'true'`: false,
		`none is null`: true, `missing is null`: true, `id is null`: false, `id is not null`: true, `a.b.n is null`: true, `a.x.y is null`: true, `tags.x is null`: true,
		`none = 1`: false, `none != 1`: false, `not none = 1`: true, `missing < 1`: false,
		`id = '7'`: false, `id != '7'`: false, `text_id = '7'`: true, `text_id > 5`: false, `tags = 'a'`: false, `a = 'a'`: false, `a is null`: false, `a != 1`: false,
		`id in (1, 7)`: true, `id in (1, '7')`: false, `name in ('x', 'O''Neil', 3, true)`: true, `not id in (1, 2)`: true, `ok in (true)`: true,
		`id = a.id`: false, `id < a.id`: true, `id = text_id`: false, `ok = ok`: true, `ok < ok`: false, `none = none`: false, `price > id`: true, `tags = tags`: false,
		`id = 7 and price = 12.5`: true, `id = 7 and price = 1 or ok = true`: true, `id = 7 and (price = 1 or ok = false)`: false,
		`id = 1 or id = 2 or id = 7`: true, `not (id = 7 and ok = true)`: false, `NOT id = 8 AND ok = TRUE`: true, `not not id = 7`: true,
		`"" = 5`: true, `"a.b" = 1`: true, `"e""q" = 2`: true, `"a"."b"."c" = -3`: true, `a.id = 8`: true,
	} {
		if got := must(t, text).Match([]byte(row)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
	f := must(t, "a = 1")
	for data, want := range map[string]bool{``: false, `null`: false, `[1]`: false, `"a"`: false, `{}`: false, `{"a":1}`: true, " {\n\"a\" :\t1 } ": true,
		`{"b":{"a":1}}`: false, `{"a":2,"a":1}`: true, `{"a":1,"a":2}`: false, `{"\u0061":1}`: true, `{"a":"1"}`: false, `{"b":"\\\"","a":1}`: true, `{"b":"}","c":["}"],"a":1}`: true, `{"a":1`: true, `{"a`: false} {
		if got := f.Match([]byte(data)); got != want {
			t.Errorf("%s: %t", data, got)
		}
	}
	if f := must(t, "a.b = 1"); f.Match([]byte(`{"a":{"b":1},"a":{"c":1}}`)) {
		t.Error("what another member of the same name had still counts")
	}
}

// Of data that is there in part only, what is missing may have been anything.
func TestMay(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`id = 7`: true, `id = 8`: false, `price > 5`: true, `price is null`: true, `price is not null`: true, `id = 8 and price > 5`: false, `id = 7 and price > 5`: true,
		`id = 8 or price > 5`: true, `not price > 5`: true, `not id = 7`: false, `price in (1)`: true, `name starts with 'x'`: true, `id = price`: true, `id.x = 1`: false, `x.y = 1`: true,
	} {
		if got := must(t, text).May([]byte(`{"id":7}`)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

// A filter has one canonical text, which reads as the same one.
func TestString(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`a=1`: `a = 1`, ` A  = 01e0`: ``, `((a = 1))`: `a = 1`, `(a=1 and b=2) and c=3`: `a = 1 and b = 2 and c = 3`, `(a=1 or b=2) and c=3`: `(a = 1 or b = 2) and c = 3`,
		`a=1 or (b=2 and c=3)`: `a = 1 or b = 2 and c = 3`, `not(a=1)`: `not a = 1`, `not(a=1 or b=2)`: `not (a = 1 or b = 2)`, `"a" <> -0.50`: `a != -0.5`, `"and" = 'x''y'`: `"and" = 'x''y'`,
		`a in(1,'b',TRUE)`: `a in (1, 'b', true)`, `a IS NOT NULL`: `a is not null`, `Starts2 starts WITH 'x'`: `Starts2 starts with 'x'`, `"a b".c = 1e3`: `"a b".c = 1000`, `a.is = 1`: ``, `a."is" = 1`: `a."is" = 1`,
		`a = 1e30`: `a = 1e30`, `a = 123456e-12`: `a = 123456e-12`, `a = -0`: `a = 0`, `a = 0e9999999`: `a = 0`,
		`a = 100e99998`: `a = 1e100000`, `a = 100e99999`: ``, `a = 0.15e-99999`: `a = 15e-100001`, `a = 0.15e-100000`: ``, `"" = 1`: `"" = 1`,
	} {
		f, err := Parse(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("%s was read as %s", text, f)
		case want != "" && (err != nil || f.String() != want):
			t.Errorf("%s: %v, %v; want %s", text, f, err, want)
		case want != "":
			if again, err := Parse(want); err != nil || again.String() != want {
				t.Errorf("%s reads as %v, %v", want, again, err)
			}
		}
	}
}

// What cannot be read is refused with where and why.
func TestErrors(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("(", MaxDepth+1) + "a = 1" + strings.Repeat(")", MaxDepth+1)
	for text, want := range map[string]string{
		``: "it is empty", ` `: "it is empty", `a`: "it ends where =, !=, <, <=, >, >=, in, is or starts with should be", `a =`: "it ends where a member or a value should be",
		`a = 1 b`: "at byte 6 is b where and, or or the end should be", `a = 1)`: "at byte 5 is ) where", `(a = 1`: "it ends where and, or or ) should be",
		`a ~ 1`: "at byte 2 is ~ where", `a = é`: "at byte 4 is é where", `a = 'x`: "at byte 4 begins what has no closing '", `"a = 1`: "at byte 0 begins what has no closing \"",
		`a = 01`: "at byte 4 is no number", `a = 1x`: "at byte 4 is no number", `a = -`: "at byte 4 is no number", `a = 1.`: "no number", `a = 1e9999999`: "beyond ±100000",
		`1 = 1`: "at byte 0 two values are compared", `'x'`: "it ends where =", `a = null`: "write is null", `null = a`: "write is null", `true < a`: "compare it by = or !=",
		`a in ()`: "at byte 6 is ) where a value should be", `a in (null)`: "null stands in a list", `a in (b)`: "a member stands in a list", `a in (1`: "it ends where , or ) should be", `a in 1`: "where ( should be",
		`a is 1`: "where null should be", `a starts 'x'`: "where with should be", `a starts with 1`: "where a string in single quotes should be", `a..b = 1`: "where a member's name should be", `a. = 1`: "a member's name",
		`a.b.c.d.e.f.g.h.i = 1`: "deeper than 8", `and = 1`: "at byte 0 is and where a condition should be", `a = 1;drop table m`: "at byte 5 is ; where", `a = 1 -- x`: "at byte 6 is no number", "a = '\xff'": "not UTF-8",
		deep: "nested deeper than 16", strings.Repeat("not ", MaxDepth+1) + "a = 1": "nested deeper than 16", strings.Repeat("a = 1 or ", MaxNodes/2) + "a = 1": "more than 64",
		`a in (` + strings.Repeat("1,", MaxNodes) + `1)`: "more than 64", "a = '" + strings.Repeat("x", MaxText) + "'": "it has 1030 bytes",
	} {
		_, err := Parse(text)
		var e *pgcast.Error
		if !errors.As(err, &e) || e.Code != pgcast.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v; want %s", text, err, want)
		}
	}
}

// In a frame a filter is a string, or an object.
func TestRead(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`"a = 1"`: `a = 1`, `"a = 'x\u0079'"`: `a = 'xy'`, `{"a":1}`: `a = 1`, `{"a":"x'y","b c":null,"d.e":true, "n":-1.50}`: `a = 'x''y' and "b c" is null and "d.e" = true and n = -1.5`, `{"and":1}`: `"and" = 1`,
		`{}`: ``, `[]`: ``, `1`: ``, `null`: ``, ``: ``, `{"a":[1]}`: ``, `{"a":{"b":1}}`: ``, `{"a":1,"a":2}`: ``, `{"a":`: ``, `{"a":1e999999}`: ``, `"a ="`: ``,
		`{"a":"` + strings.Repeat("x", MaxText) + `"}`: ``, `"` + strings.Repeat(" ", 8*MaxText) + `"`: ``,
	} {
		f, err := Read(json.RawMessage(raw))
		switch {
		case want == "" && !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalid}):
			t.Errorf("%.60s: %v, %v", raw, f, err)
		case want != "" && (err != nil || f.String() != want):
			t.Errorf("%.60s: %v, %v; want %s", raw, f, err, want)
		}
	}
}
