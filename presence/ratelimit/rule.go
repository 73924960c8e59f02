package ratelimit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
)

// Verb is what a rule limits.
type Verb string

// The verbs, and what a call of each costs.
const (
	Connect   Verb = "connect"   // a WebSocket handshake, a stream or a ticket: 1
	Subscribe Verb = "subscribe" // 1 for each topic or pattern
	Publish   Verb = "publish"   // 1; so is what a group frame tells others
	History   Verb = "history"   // 1 for each 100 events that may come, at least
	Cursor    Verb = "cursor"    // a move: 1. Always counted by each server alone
)

var verbs = []Verb{Connect, Subscribe, Publish, History, Cursor}

// Kind is what a rule's buckets are kept by.
type Kind string

// The kinds of keys. What a caller lacks falls to the next one it has: one without a
// subject is counted by its session, and one without a session by its address.
const (
	IP      Kind = "ip" // the client's address; of IPv6 its /64
	Session Kind = "session"
	Subject Kind = "subject" // of a token that was checked; what a client says of itself is none
	Topic   Kind = "topic"   // for all callers together
)

var kinds = []Kind{IP, Session, Subject, Topic}

// Rule is one limit.
type Rule struct {
	Verb  Verb
	Kind  Kind
	Count int           // tokens that come back in Per, 1 to MaxCount
	Per   time.Duration // 1 ms to MaxPer
	// Burst is how many tokens a bucket holds, and so how many calls may come at once; 1 to
	// MaxCount.
	Burst int
	// Block is for how long a key is denied everything by this rule after one denial; 0 to
	// MaxPer.
	Block time.Duration
}

// Limits of rules.
const (
	MaxRules = 32
	MaxCount = 1_000_000
	MaxPer   = 7 * 24 * time.Hour
)

// String is the rule as ParseRules reads it.
func (r Rule) String() string {
	s := r.name()
	if r.Burst != r.Count {
		s += " burst " + strconv.Itoa(r.Burst)
	}
	if r.Block > 0 {
		s += " block " + r.Block.String()
	}
	return s
}

// name is what tells a rule from others.
func (r Rule) name() string { return fmt.Sprintf("%s %s %d/%s", r.Verb, r.Kind, r.Count, r.Per) }

// ParseRules reads rules with commas in between, as
//
//	publish session 50/1s burst 100 block 10s, connect ip 20/10s
//
// Errors are *[pgcast.Error] with code invalid and, as hint, what to write.
func ParseRules(text string) ([]Rule, error) {
	var rules []Rule
	for part := range strings.SplitSeq(text, ",") {
		words := strings.Fields(part)
		if len(words) == 0 {
			continue
		}
		r, err := parseRule(words)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(rules, func(o Rule) bool { return o.name() == r.name() }) {
			return nil, invalid("leave one of them out", "the rule %q stands twice", r.name())
		}
		rules = append(rules, r)
	}
	if len(rules) > MaxRules {
		return nil, invalid(fmt.Sprintf("write at most %d", MaxRules), "there are %d rules", len(rules))
	}
	return rules, nil
}

const form = "write VERB KEY COUNT/TIME [burst COUNT] [block TIME], as publish session 50/1s burst 100 block 10s"

func invalid(hint, format string, args ...any) error {
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func parseRule(words []string) (r Rule, err error) {
	text := strings.Join(words, " ")
	if len(words) < 3 {
		return r, invalid(form, "the rule %.80q is not complete", text)
	}
	r.Verb, r.Kind = Verb(words[0]), Kind(words[1])
	if !slices.Contains(verbs, r.Verb) {
		return r, invalid("write one of "+joined(verbs), "in the rule %.80q, %.40q is nothing that can be limited", text, words[0])
	}
	if !slices.Contains(kinds, r.Kind) {
		return r, invalid("write one of "+joined(kinds), "in the rule %.80q, %.40q is nothing to count by", text, words[1])
	}
	if r.Verb == Connect && (r.Kind == Session || r.Kind == Topic) {
		return r, invalid("count connections by ip or subject", "in the rule %.80q, a connection has no %s yet", text, r.Kind)
	}
	count, per, _ := strings.Cut(words[2], "/")
	if r.Count, err = parseCount(text, count); err != nil {
		return r, err
	}
	if per != "" && (per[0] < '0' || per[0] > '9') {
		per = "1" + per // 50/s
	}
	if r.Per, err = parseTime(text, per); err != nil {
		return r, err
	}
	r.Burst = r.Count
	for rest := words[3:]; len(rest) > 0; rest = rest[2:] {
		option := rest[0]
		if len(rest) == 1 || slices.Contains(words[3:len(words)-len(rest)], option) {
			return r, invalid(form, "in the rule %.80q, %.40q stands twice or has nothing behind it", text, option)
		}
		switch option {
		case "burst":
			r.Burst, err = parseCount(text, rest[1])
		case "block":
			r.Block, err = parseTime(text, rest[1])
		default:
			err = invalid(form, "in the rule %.80q, nobody knows what %.40q is", text, option)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

func parseCount(rule, s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxCount || s[0] == '+' {
		return 0, invalid(fmt.Sprintf("write a whole number from 1 to %d", MaxCount), "in the rule %.80q, %.40q is no count", rule, s)
	}
	return n, nil
}

func parseTime(rule, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond || d > MaxPer || d%time.Millisecond != 0 {
		return 0, invalid("write a time from 1ms to "+MaxPer.String()+" with a unit, as 500ms, 10s, 1m or 24h", "in the rule %.80q, %.40q is no time", rule, s)
	}
	return d, nil
}

func joined[T ~string](list []T) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}
