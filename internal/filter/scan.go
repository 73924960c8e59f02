package filter

import (
	"bytes"
	"encoding/json"
)

// doc is data, as far as a filter looks at it.
type doc struct {
	vals    [][]byte // by slot, as they lie there; nil: not there
	has     []bool   // by top-level member
	slots   []int    // the top-level member of each slot; the filter's
	partial bool     // what is not there may be something
}

// members are those of one object that a filter looks at.
type members []want

type want struct {
	name string
	slot int // where its value goes; -1: only members of it are looked at
	top  int // which top-level member it is, or is in
	tree members
}

// find is the wanted member of a name as it is written, or nil.
func (m members) find(raw []byte) *want {
	if bytes.IndexByte(raw, '\\') >= 0 {
		raw = unescape(raw)
	}
	for i := range m {
		if m[i].name == string(raw) {
			return &m[i]
		}
	}
	return nil
}

// scanner walks over JSON that a database has made: it does not check it, but whatever it is
// given it comes to an end.
type scanner struct {
	text []byte
	pos  int
}

// find takes the wanted members out of the object that the text is. Of two with the same
// name the last one counts, as for Postgres.
func (s *scanner) find(tree *members, d *doc) {
	if s.space(); s.pos >= len(s.text) || s.text[s.pos] != '{' {
		return
	}
	s.pos++
	for {
		s.space()
		if s.pos >= len(s.text) || s.text[s.pos] != '"' {
			return
		}
		from := s.pos + 1
		s.str()
		name := s.text[min(from, s.pos):max(from, s.pos-1)]
		s.space()
		if s.pos >= len(s.text) || s.text[s.pos] != ':' {
			return
		}
		s.pos++
		s.space()
		w := tree.find(name)
		from = s.pos
		s.skip()
		if w != nil {
			d.put(w, s.text[from:s.pos])
		}
		s.space()
		if s.pos >= len(s.text) || s.text[s.pos] != ',' {
			return
		}
		s.pos++
	}
}

// put keeps a wanted value, and what is wanted within it.
func (d *doc) put(w *want, value []byte) {
	d.has[w.top] = true
	if w.slot >= 0 {
		d.vals[w.slot] = value
	}
	if w.tree != nil {
		w.tree.clear(d)
		(&scanner{text: value}).find(&w.tree, d)
	}
}

// clear forgets what another member of the same name had.
func (m members) clear(d *doc) {
	for i := range m {
		if m[i].slot >= 0 {
			d.vals[m[i].slot] = nil
		}
		m[i].tree.clear(d)
	}
}

func (s *scanner) space() {
	for s.pos < len(s.text) && s.text[s.pos] <= ' ' {
		s.pos++
	}
}

// str walks over a string.
func (s *scanner) str() {
	s.pos++
	for {
		i := bytes.IndexByte(s.text[s.pos:], '"')
		if i < 0 {
			s.pos = len(s.text)
			return
		}
		s.pos += i + 1
		escapes := 0
		for k := s.pos - 2; k >= 0 && s.text[k] == '\\'; k-- {
			escapes++
		}
		if escapes%2 == 0 {
			return
		}
	}
}

// skip walks over a value.
func (s *scanner) skip() {
	depth := 0
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; c {
		case '"':
			s.str()
		case '{', '[':
			depth++
			s.pos++
		case '}', ']':
			if depth == 0 {
				return // of the object around it
			}
			depth--
			s.pos++
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return
			}
			s.pos++
			continue
		default:
			for s.pos < len(s.text) && !isEnd(s.text[s.pos]) {
				s.pos++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// isEnd tells whether a byte ends a number or a word.
func isEnd(c byte) bool {
	return c <= ' ' || c == ',' || c == '}' || c == ']' || c == ':' || c == '"' || c == '{' || c == '['
}

// kindOf tells what a value is, by its first byte.
func kindOf(raw []byte) kind {
	if len(raw) == 0 {
		return null
	}
	switch c := raw[0]; {
	case c == '"':
		return text
	case c == '-', isDigit(c):
		return number
	case c == 't', c == 'f':
		return boolean
	case c == 'n':
		return null
	}
	return other
}

// plain gives a string's text.
func plain(raw []byte) []byte {
	if len(raw) < 2 {
		return nil
	}
	raw = raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') >= 0 {
		return unescape(raw)
	}
	return raw
}

// unescape gives the text of what stands between a string's quotes.
func unescape(raw []byte) []byte {
	var s string
	quoted := append(append(append(make([]byte, 0, len(raw)+2), '"'), raw...), '"')
	if json.Unmarshal(quoted, &s) != nil {
		return raw
	}
	return []byte(s)
}
