// Package filter is what subscriptions narrow events and rows down by: a small grammar of
// conditions on the members of their data, compiled once and judged on the JSON as it lies
// there. No filter ever becomes SQL. docs/filters.md is its normative text.
package filter

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pgcast/pgcast"
)

// Limits of one filter. They bound what it costs to judge an event by it.
const (
	MaxText  = 1024 // bytes, as written
	MaxNodes = 64   // comparisons, items of lists, ands, ors and nots
	MaxDepth = 16   // levels of parentheses and nots
	MaxPath  = 8    // members of members
)

// Filter is a condition on data. It does not change, and is safe for concurrent use.
type Filter struct {
	root  *expr
	text  string
	names []string // top-level members it looks at, in the order of their slots
	tree  members
	slots []int // the top-level member of each path
	judge judge
	docs  sync.Pool
}

// truth is what can be said of a condition: of data that is known in part only, perhaps
// that it may hold.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// judge tells whether a condition holds.
type judge func(*doc) truth

// Parse reads a filter's text. Errors are *[pgcast.Error] with code invalid and tell at which
// byte something else should be.
func Parse(text string) (*Filter, error) { return parse(text, MaxText) }

func parse(text string, most int) (*Filter, error) {
	p := &parser{text: text}
	root, err := p.filter(most)
	if err != nil {
		return nil, err
	}
	return newFilter(root)
}

// newFilter compiles an expression.
func newFilter(root *expr) (*Filter, error) {
	c := &compiler{}
	f := &Filter{root: root, text: root.String()}
	f.judge = c.judge(root)
	f.tree, f.names, f.slots = c.tree, c.names, c.slots
	n := len(f.slots)
	f.docs.New = func() any { return &doc{vals: make([][]byte, n), has: make([]bool, len(f.names)), slots: f.slots} }
	return f, nil
}

// String gives the filter's canonical text, which reads as the same filter. Two filters with
// the same text select the same.
func (f *Filter) String() string { return f.text }

// Members are the top-level members of data that the filter looks at.
func (f *Filter) Members() []string { return slices.Clone(f.names) }

// Match tells whether data, a JSON text, fulfils the condition. What is not there is null.
func (f *Filter) Match(data []byte) bool { return f.ask(data, false) == yes }

// May tells whether data of which not all top-level members are there may have fulfilled the
// condition.
func (f *Filter) May(data []byte) bool { return f.ask(data, true) != no }

func (f *Filter) ask(data []byte, partial bool) truth {
	d := f.read(data)
	d.partial = partial
	t := f.judge(d)
	f.done(d)
	return t
}

// read takes out of data what the filter looks at; done must follow.
func (f *Filter) read(data []byte) *doc {
	d := f.docs.Get().(*doc)
	(&scanner{text: data}).find(&f.tree, d)
	return d
}

func (f *Filter) done(d *doc) {
	clear(d.vals)
	clear(d.has)
	f.docs.Put(d)
}

// invalid is an error of whoever wrote the filter.
func invalid(hint, format string, args ...any) error {
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the filter cannot be used: " + fmt.Sprintf(format, args...), Hint: hint}
}

// op is what an expression says.
type op uint8

const (
	and op = iota
	or
	not
	equal
	unequal
	less
	atMost
	greater
	atLeast
	in
	isNull
	isNotNull
	startsWith
)

var words = [...]string{and: "and", or: "or", not: "not", equal: "=", unequal: "!=", less: "<", atMost: "<=", greater: ">", atLeast: ">=",
	in: "in", isNull: "is null", isNotNull: "is not null", startsWith: "starts with"}

// expr is a condition.
type expr struct {
	op   op
	kids []*expr   // of and, or and not
	args []operand // of the others; of in first what is looked for
}

// kind is what a value is.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	other // an object or array, which nothing is compared with
	member
)

// operand is what is compared: a member of data, or a value.
type operand struct {
	kind kind
	path []string // of a member
	text string   // of a string, a number as it is canonically written, or true or false
}

// String gives an expression's canonical text.
func (e *expr) String() string {
	var b strings.Builder
	e.write(&b)
	return b.String()
}

func (e *expr) write(b *strings.Builder) {
	switch e.op {
	case and, or:
		for i, kid := range e.kids {
			if i > 0 {
				b.WriteString(" " + words[e.op] + " ")
			}
			kid.within(b, kid.op == or)
		}
	case not:
		b.WriteString("not ")
		e.kids[0].within(b, e.kids[0].op == and || e.kids[0].op == or)
	case in:
		e.args[0].write(b)
		b.WriteString(" in (")
		for i, a := range e.args[1:] {
			if i > 0 {
				b.WriteString(", ")
			}
			a.write(b)
		}
		b.WriteByte(')')
	default:
		e.args[0].write(b)
		b.WriteString(" " + words[e.op])
		if len(e.args) > 1 {
			b.WriteByte(' ')
			e.args[1].write(b)
		}
	}
}

func (e *expr) within(b *strings.Builder, parentheses bool) {
	if parentheses {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	e.write(b)
}

func (o operand) write(b *strings.Builder) {
	switch o.kind {
	case member:
		for i, name := range o.path {
			if i > 0 {
				b.WriteByte('.')
			}
			if isName(name) && !isReserved(name) {
				b.WriteString(name)
			} else {
				b.WriteString(`"` + strings.ReplaceAll(name, `"`, `""`) + `"`)
			}
		}
	case text:
		b.WriteString("'" + strings.ReplaceAll(o.text, "'", "''") + "'")
	default:
		b.WriteString(o.text)
	}
}
