package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// scanner walks JSON text without building anything from it. It accepts what RFC 8259
// accepts, down to a number of levels. encoding/json would do, but it matches member
// names in any case, takes the last of two equal members, and has no limit on depth.
type scanner struct {
	text []byte
	pos  int
	room int // levels of nesting still allowed
	exp  int // the largest exponent a number may have, either way; 0 for any

	strict bool // no object may have a member twice, nor all together more than MaxMembers
	count  int  // members so far
	names  [][]byte
}

func (s *scanner) fail(want string) error {
	if s.pos >= len(s.text) {
		return fmt.Errorf("it ends where %s should be", want)
	}
	return fmt.Errorf("byte %d is %q where %s should be", s.pos, s.text[s.pos], want)
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *scanner) peek() byte {
	if s.pos < len(s.text) {
		return s.text[s.pos]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// enter goes one level down.
func (s *scanner) enter() error {
	if s.room == 0 {
		return fmt.Errorf("it is nested too deep at byte %d", s.pos)
	}
	s.room--
	s.pos++
	return nil
}

// skip walks over one value.
func (s *scanner) skip() error {
	switch c := s.peek(); c {
	case '{':
		return s.object(nil)
	case '[':
		return s.array(nil)
	case '"':
		return s.str()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		if c == '-' || isDigit(c) {
			return s.number()
		}
		return s.fail("a value")
	}
}

// object walks over an object and gives each member to f, if f is not nil.
func (s *scanner) object(f func(name, value []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	s.space()
	if s.take('}') {
		s.room++
		return nil
	}
	own := len(s.names)
	defer func() { s.names = s.names[:own] }()
	var many map[string]struct{}
	for {
		s.space()
		from := s.pos
		if s.peek() != '"' {
			return s.fail("a member's name")
		}
		if err := s.str(); err != nil {
			return err
		}
		name := s.text[from:s.pos]
		if s.strict {
			if err := s.note(name, own, &many); err != nil {
				return err
			}
		}
		s.space()
		if !s.take(':') {
			return s.fail("':'")
		}
		s.space()
		from = s.pos
		if err := s.skip(); err != nil {
			return err
		}
		if f != nil {
			if err := f(name, s.text[from:s.pos:s.pos]); err != nil {
				return err
			}
		}
		s.space()
		if s.take('}') {
			s.room++
			return nil
		}
		if !s.take(',') {
			return s.fail("',' or '}'")
		}
	}
}

// fewMembers is how many names are compared one by one.
const fewMembers = 16

// note notes a member of the object whose names begin at own. Which of two members with one
// name counts differs between readers, and a proxy that checks one while the other is obeyed
// is a hole.
func (s *scanner) note(raw []byte, own int, many *map[string]struct{}) error {
	if s.count++; s.count > MaxMembers {
		return fmt.Errorf("it has more than %d members", MaxMembers)
	}
	name := key(raw)
	if *many == nil {
		for _, other := range s.names[own:] {
			if bytes.Equal(other, name) {
				return fmt.Errorf("it has member %s twice", clip(raw))
			}
		}
		s.names = append(s.names, name)
		if len(s.names)-own < fewMembers {
			return nil
		}
		*many = make(map[string]struct{}, 2*fewMembers)
		for _, other := range s.names[own:] {
			(*many)[string(other)] = struct{}{}
		}
		return nil
	}
	if _, there := (*many)[string(name)]; there {
		return fmt.Errorf("it has member %s twice", clip(raw))
	}
	(*many)[string(name)] = struct{}{}
	return nil
}

// array walks over an array and gives each item to f, if f is not nil.
func (s *scanner) array(f func(item []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	s.space()
	if s.take(']') {
		s.room++
		return nil
	}
	for {
		s.space()
		from := s.pos
		if err := s.skip(); err != nil {
			return err
		}
		if f != nil {
			if err := f(s.text[from:s.pos:s.pos]); err != nil {
				return err
			}
		}
		s.space()
		if s.take(']') {
			s.room++
			return nil
		}
		if !s.take(',') {
			return s.fail("',' or ']'")
		}
	}
}

func (s *scanner) str() error {
	s.pos++
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c < 0x20:
			return s.fail("a string's text")
		case c == '\\':
			s.pos++
			switch s.peek() {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				s.pos++
			case 'u':
				s.pos++
				for range 4 {
					if !isHex(s.peek()) {
						return s.fail("a hexadecimal digit")
					}
					s.pos++
				}
			default:
				return s.fail("an escape")
			}
		default:
			s.pos++
		}
	}
	return s.fail("the end of a string")
}

func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') {
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.take('.') {
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		from := s.pos
		if err := s.digits(); err != nil {
			return err
		}
		if n, err := strconv.Atoi(string(s.text[from:s.pos])); s.exp > 0 && (err != nil || n > s.exp) {
			return fmt.Errorf("the exponent at byte %d is beyond ±%d", from, s.exp)
		}
	}
	return nil
}

// digits walks over one digit or more.
func (s *scanner) digits() error {
	if !isDigit(s.peek()) {
		return s.fail("a digit")
	}
	for isDigit(s.peek()) {
		s.pos++
	}
	return nil
}

func (s *scanner) literal(word string) error {
	for i := range len(word) {
		if !s.take(word[i]) {
			return s.fail(word)
		}
	}
	return nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// unquote gives the text of a JSON string that the scanner has accepted. ok is false
// when raw is some other value.
func unquote(raw []byte) (text string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') >= 0 {
		return text, json.Unmarshal(raw, &text) == nil
	}
	return string(raw[1 : len(raw)-1]), true
}

// key gives a member's name without its quotes. Nobody needs escapes in it, but they
// are allowed.
func key(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	text, _ := unquote(raw)
	return []byte(text)
}

// whole reads a number that is written as nothing but decimal digits: 41, but neither
// -1 nor 4.1e1 nor 41.0, so that a number means the same to every reader.
func whole(raw []byte) (n int64, ok bool) {
	for _, c := range raw {
		if !isDigit(c) {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return n, err == nil
}

func isNull(raw []byte) bool { return string(raw) == "null" }
