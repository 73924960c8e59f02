package pgcast

import (
	"fmt"
	"regexp"
	"strings"
)

// MaxTopic is the longest topic name or pattern, in bytes.
const MaxTopic = 256

// MaxEventName is the longest event name, in bytes.
const MaxEventName = 128

// CheckTopic tells why name cannot be the name of a topic that somebody publishes or
// subscribes to, or returns nil. A name is 1 to MaxTopic printable ASCII bytes
// without " and \; its segments are split by ':'; a segment that is * or ** makes it
// a pattern; names that begin with __ are the server's own.
func CheckTopic(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if IsPattern(name) {
		return &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("topic %q is a pattern", name),
			Hint: "a topic's segments cannot be * or **; patterns are for subscribing"}
	}
	return nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return &Error{Code: CodeInvalidTopic, Message: "the topic is empty", Hint: "a topic is 1 to 256 printable ASCII bytes"}
	case len(name) > MaxTopic:
		return &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("the topic is %d bytes long", len(name)), Hint: "256 bytes at most"}
	case strings.HasPrefix(name, "__"):
		return &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("topic %q is the server's own", name), Hint: "names that begin with __ are reserved"}
	}
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			return &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("topic %q has byte 0x%02x at %d", name, c, i),
				Hint: `printable ASCII without " and \ only; encode the rest as %XX`}
		}
	}
	return nil
}

// CheckEventName tells why name cannot be an event's name, or returns nil: 1 to
// MaxEventName printable ASCII bytes without " and \.
func CheckEventName(name string) error {
	bad := name == "" || len(name) > MaxEventName
	for i := 0; i < len(name) && !bad; i++ {
		c := name[i]
		bad = c < 0x20 || c > 0x7e || c == '"' || c == '\\'
	}
	if bad {
		return &Error{Code: CodeInvalidEvent, Message: fmt.Sprintf("%.40q is not an event name", name),
			Hint: `1 to 128 printable ASCII bytes without " and \`}
	}
	return nil
}

// IsPattern reports whether a segment of s is * or **.
func IsPattern(s string) bool {
	if !strings.Contains(s, "*") {
		return false
	}
	for seg := range strings.SplitSeq(s, ":") {
		if seg == "*" || seg == "**" {
			return true
		}
	}
	return false
}

// Pattern selects topics by name: a segment * stands for exactly one segment, a last
// segment ** for one or more. No pattern selects a name that begins with __.
type Pattern struct {
	text string
	segs []string // without the last, where tail is set
	tail bool     // ends in **
}

// ParsePattern reads a pattern. A plain topic name is a pattern that selects itself.
func ParsePattern(s string) (Pattern, error) {
	if err := checkName(s); err != nil {
		return Pattern{}, err
	}
	p := Pattern{text: s, segs: strings.Split(s, ":")}
	if last := len(p.segs) - 1; p.segs[last] == "**" {
		p.segs, p.tail = p.segs[:last], true
	}
	for _, seg := range p.segs {
		if seg == "**" {
			return Pattern{}, &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("pattern %q has ** before its end", s),
				Hint: "** stands for any tail and must be the last segment"}
		}
	}
	return p, nil
}

// String gives the text the pattern was made from.
func (p Pattern) String() string { return p.text }

// Match reports whether the pattern selects topic.
func (p Pattern) Match(topic string) bool {
	if strings.HasPrefix(topic, "__") {
		return false
	}
	rest, more := topic, true
	for _, want := range p.segs {
		if !more {
			return false
		}
		var seg string
		seg, rest, more = strings.Cut(rest, ":")
		if want != "*" && want != seg {
			return false
		}
	}
	return more == p.tail
}

// Contains reports whether the pattern selects every topic that q selects.
func (p Pattern) Contains(q Pattern) bool {
	a, b := len(p.segs), len(q.segs)
	if q.tail && !p.tail || !p.tail && a != b || p.tail && b+btoi(q.tail) <= a {
		return false // q selects topics of other lengths
	}
	for i, want := range p.segs {
		if want != "*" && want != q.segs[i] {
			return false
		}
	}
	return true
}

// Overlaps reports whether there is a topic that both patterns select.
func (p Pattern) Overlaps(q Pattern) bool {
	a, b := len(p.segs), len(q.segs)
	if !p.tail && b+btoi(q.tail) > a || !q.tail && a+btoi(p.tail) > b {
		return false // one asks for more segments than the other allows
	}
	for i := range min(a, b) {
		if x, y := p.segs[i], q.segs[i]; x != y && x != "*" && y != "*" {
			return false
		}
	}
	return true
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Regexp gives the pattern as a regular expression for Postgres's ~ operator,
// so that the database can select the same topics.
func (p Pattern) Regexp() string {
	var b strings.Builder
	b.WriteString("^(?!__)")
	for i, seg := range p.segs {
		if i > 0 {
			b.WriteByte(':')
		}
		if seg == "*" {
			b.WriteString("[^:]*")
		} else {
			b.WriteString(regexp.QuoteMeta(seg))
		}
	}
	if p.tail {
		if len(p.segs) > 0 {
			b.WriteByte(':')
		}
		b.WriteString(".*")
	}
	b.WriteByte('$')
	return b.String()
}
