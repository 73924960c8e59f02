package filter

import "strings"

// next takes the next token.
func (p *parser) next() error {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
	p.from = p.pos
	rest := p.text[p.pos:]
	if rest == "" {
		p.tok = token{kind: end}
		return nil
	}
	switch c := rest[0]; {
	case isLetter(c):
		n := 1
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			n++
		}
		p.take(word, n, strings.ToLower(rest[:n]))
		p.tok.raw = rest[:n]
	case isDigit(c), c == '-':
		n := numberLen(rest)
		if n == 0 || n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n])) {
			return p.fail(p.from, "is no number: it is written as in JSON")
		}
		p.take(num, n, rest[:n])
	case c == '\'', c == '"':
		return p.quoted(rest, c)
	default:
		n := 1
		if len(rest) > 1 {
			if _, two := operators[rest[:2]]; two {
				n = 2
			}
		}
		if strings.IndexByte("=<>(),.", c) < 0 && n == 1 {
			p.take(nothing, n, "")
			for p.pos < len(p.text) && p.text[p.pos]&0xc0 == 0x80 {
				p.pos++ // the rest of a character
			}
			return nil
		}
		p.take(sign, n, rest[:n])
	}
	return nil
}

func (p *parser) take(k tokenKind, n int, text string) {
	p.tok = token{kind: k, text: text}
	p.pos += n
}

// quoted takes a string or a name, in which the quote stands twice for itself.
func (p *parser) quoted(rest string, quote byte) error {
	q := string(quote)
	n := 1
	for {
		i := strings.IndexByte(rest[n:], quote)
		if i < 0 {
			return p.fail(p.from, "begins what has no closing %s", q)
		}
		if n += i + 1; n == len(rest) || rest[n] != quote {
			break
		}
		n++
	}
	k := str
	if quote == '"' {
		k = name
	}
	p.take(k, n, strings.ReplaceAll(rest[1:n-1], q+q, q))
	return nil
}

// numberLen is the length of the JSON number that a text begins with; 0: there is none.
func numberLen(s string) int {
	n := 0
	digits := func() bool {
		from := n
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		return n > from
	}
	if s[0] == '-' {
		n++
	}
	if n < len(s) && s[n] == '0' {
		n++
	} else if !digits() {
		return 0
	}
	if n < len(s) && s[n] == '.' {
		if n++; !digits() {
			return 0
		}
	}
	if n < len(s) && s[n]|0x20 == 'e' {
		n++
		if n < len(s) && (s[n] == '+' || s[n] == '-') {
			n++
		}
		if !digits() {
			return 0
		}
	}
	return n
}
