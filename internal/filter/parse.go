package filter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// parser reads a filter from left to right.
type parser struct {
	text  string
	pos   int // behind tok
	from  int // of tok
	tok   token
	nodes int
	depth int
}

// token is a piece of a filter's text.
type token struct {
	kind tokenKind
	text string // of a word in lower case, of a name or string without its quotes
	raw  string // of a word
}

type tokenKind uint8

const (
	end     tokenKind = iota
	word              // a keyword, or a member's name
	name              // a member's name in double quotes
	str               // in single quotes
	num               // a number
	sign              // an operator or punctuation
	nothing           // that can be read
)

// reserved are the words that are no member's name unless in quotes.
var reserved = map[string]bool{"and": true, "or": true, "not": true, "in": true, "is": true, "starts": true, "null": true, "true": true, "false": true}

func isReserved(s string) bool { return reserved[strings.ToLower(s)] }

// isName tells whether a member's name can do without quotes.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return s != ""
}

func isLetter(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// filter reads the whole text.
func (p *parser) filter(most int) (*expr, error) {
	switch {
	case len(p.text) > most:
		return nil, invalid("", "it has %d bytes, and may have %d", len(p.text), most)
	case !utf8.ValidString(p.text):
		return nil, invalid("", "it is not UTF-8")
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind == end {
		return nil, invalid("leave it out to get everything", "it is empty")
	}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.tok.kind != end {
		return nil, p.wants("and, or or the end")
	}
	return e, nil
}

// wants says what should be where the token is.
func (p *parser) wants(what string) error {
	if p.tok.kind == end {
		return invalid("", "it ends where %s should be", what)
	}
	seen := p.text[p.from:p.pos]
	if len(seen) > 30 {
		seen = strings.ToValidUTF8(seen[:30], "") + "…"
	}
	return invalid("", "at byte %d is %s where %s should be", p.from, seen, what)
}

// node counts one more.
func (p *parser) node() error {
	if p.nodes++; p.nodes > MaxNodes {
		return invalid("", "it has more than %d conditions and values", MaxNodes)
	}
	return nil
}

func (p *parser) enter() error {
	if p.depth++; p.depth > MaxDepth {
		return invalid("", "at byte %d it is nested deeper than %d levels", p.from, MaxDepth)
	}
	return nil
}

func (p *parser) isWord(w string) bool { return p.tok.kind == word && p.tok.text == w }

func (p *parser) isSign(s string) bool { return p.tok.kind == sign && p.tok.text == s }

func (p *parser) or() (*expr, error) { return p.chain(or, p.and) }

func (p *parser) and() (*expr, error) { return p.chain(and, p.not) }

// chain reads one condition or several with the same word between them.
func (p *parser) chain(o op, one func() (*expr, error)) (*expr, error) {
	e, err := one()
	if err != nil || !p.isWord(words[o]) {
		return e, err
	}
	all := &expr{op: o}
	all.add(e)
	for p.isWord(words[o]) {
		if err := p.node(); err != nil {
			return nil, err
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if e, err = one(); err != nil {
			return nil, err
		}
		all.add(e)
	}
	return all, nil
}

// add adds a condition, or those of one of the same kind.
func (e *expr) add(kid *expr) {
	if kid.op == e.op {
		e.kids = append(e.kids, kid.kids...)
		return
	}
	e.kids = append(e.kids, kid)
}

func (p *parser) not() (*expr, error) {
	switch {
	case p.isWord("not"):
		if err := p.node(); err != nil {
			return nil, err
		}
		return p.deeper(func() (*expr, error) {
			e, err := p.not()
			return &expr{op: not, kids: []*expr{e}}, err
		})
	case p.isSign("("):
		return p.deeper(func() (*expr, error) {
			e, err := p.or()
			if err == nil && !p.isSign(")") {
				err = p.wants("and, or or )")
			}
			if err == nil {
				err = p.next()
			}
			return e, err
		})
	}
	return p.comparison()
}

// deeper takes the token and reads what is one level down.
func (p *parser) deeper(read func() (*expr, error)) (*expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	e, err := read()
	p.depth--
	return e, err
}

// operators are those between two operands; some are written in two ways.
var operators = map[string]op{"=": equal, "==": equal, "!=": unequal, "<>": unequal, "<": less, "<=": atMost, ">": greater, ">=": atLeast}

func (p *parser) comparison() (*expr, error) {
	if err := p.node(); err != nil {
		return nil, err
	}
	from := p.from
	left, err := p.operand("a condition")
	if err != nil {
		return nil, err
	}
	if o, ok := operators[p.tok.text]; ok && p.tok.kind == sign {
		if err := p.next(); err != nil {
			return nil, err
		}
		right, err := p.operand("a member or a value")
		if err != nil {
			return nil, err
		}
		return p.compare(o, left, right, from)
	}
	if left.kind != member {
		return nil, p.wants("=, !=, <, <=, > or >=")
	}
	e := &expr{args: []operand{left}}
	switch {
	case p.isWord("in"):
		e.op = in
		return e, p.list(e)
	case p.isWord("is"):
		e.op = isNull
		err := p.next()
		if err == nil && p.isWord("not") {
			e.op = isNotNull
			err = p.next()
		}
		if err == nil && !p.isWord("null") {
			err = p.wants("null")
		}
		if err == nil {
			err = p.next()
		}
		return e, err
	case p.isWord("starts"):
		e.op = startsWith
		err := p.next()
		if err == nil && !p.isWord("with") {
			err = p.wants("with")
		}
		if err == nil {
			err = p.next()
		}
		if err == nil && p.tok.kind != str {
			err = p.wants("a string in single quotes")
		}
		if err != nil {
			return nil, err
		}
		e.args = append(e.args, operand{kind: text, text: p.tok.text})
		return e, p.next()
	}
	return nil, p.wants("=, !=, <, <=, >, >=, in, is or starts with")
}

// compare checks what is compared with what.
func (p *parser) compare(o op, left, right operand, from int) (*expr, error) {
	for _, a := range []operand{left, right} {
		switch {
		case a.kind == null:
			return nil, invalid("write is null, or is not null", "at byte %d something is compared with null, which is never so", from)
		case a.kind == boolean && o != equal && o != unequal:
			return nil, invalid("compare it by = or !=", "at byte %d a truth value is compared by %s", from, words[o])
		}
	}
	if left.kind != member && right.kind != member {
		return nil, invalid("", "at byte %d two values are compared, and no member of the data", from)
	}
	return &expr{op: o, args: []operand{left, right}}, nil
}

// list reads the values behind in.
func (p *parser) list(e *expr) error {
	if err := p.next(); err != nil {
		return err
	}
	if !p.isSign("(") {
		return p.wants("(")
	}
	for first := true; first || p.isSign(","); first = false {
		if err := p.next(); err != nil {
			return err
		}
		if err := p.node(); err != nil {
			return err
		}
		from := p.from
		a, err := p.operand("a value")
		switch {
		case err != nil:
			return err
		case a.kind == null:
			return invalid("write or … is null", "at byte %d null stands in a list, which is never equal to anything", from)
		case a.kind == member:
			return invalid("a string stands in single quotes", "at byte %d a member stands in a list of values", from)
		}
		e.args = append(e.args, a)
	}
	if !p.isSign(")") {
		return p.wants(", or )")
	}
	return p.next()
}

// operand reads a member or a value; what says what else should be there.
func (p *parser) operand(what string) (o operand, err error) {
	t := p.tok
	switch {
	case t.kind == str:
		o = operand{kind: text, text: t.text}
	case t.kind == num:
		d := readDecimal([]byte(t.text))
		if d.wide() {
			return o, invalid("", "at byte %d is a number whose exponent is beyond ±%d", p.from, maxExponent)
		}
		o = operand{kind: number, text: d.String()}
	case p.isWord("true"), p.isWord("false"):
		o = operand{kind: boolean, text: t.text}
	case p.isWord("null"):
		o = operand{kind: null, text: t.text}
	case t.kind == name, t.kind == word && !reserved[t.text]:
		return p.path()
	default:
		return o, p.wants(what)
	}
	return o, p.next()
}

// path reads a member, or a member of a member.
func (p *parser) path() (o operand, err error) {
	o.kind = member
	from := p.from
	for {
		switch {
		case p.tok.kind == name:
			o.path = append(o.path, p.tok.text)
		case p.tok.kind == word && (len(o.path) == 0 || !reserved[p.tok.text]):
			o.path = append(o.path, p.tok.raw)
		default:
			return o, p.wants("a member's name")
		}
		if len(o.path) > MaxPath {
			return o, invalid("", "the member at byte %d lies deeper than %d levels", from, MaxPath)
		}
		if err := p.next(); err != nil || !p.isSign(".") {
			return o, err
		}
		if err := p.next(); err != nil {
			return o, err
		}
	}
}

// fail says what is wrong at a byte.
func (p *parser) fail(at int, format string, args ...any) error {
	return invalid("", "at byte %d %s", at, fmt.Sprintf(format, args...))
}
