package pgcast

import "strings"

// Table is an attached table, as far as subscriptions depend on how it is captured.
type Table struct {
	Name    string   // with its schema
	Columns []string // that are captured; of data
	Key     []string // what old always has
	Old     bool     // old has all columns
	Mend    string   // the SQL call that attaches it so that old has all columns
	// Literals are the parts of its topics' names around the values of columns. Short says
	// that such a name is never so long that it ends in a hash.
	Literals []string
	Short    bool
}

// hashAt is where the hash begins that a name which grows too long ends in.
const hashAt = 191

// Feeds tells whether the table may make events of a topic that the pattern selects. It may
// say so of a name that no row can have, never the other way round.
func (t *Table) Feeds(p Pattern) bool {
	const value = "\x00" // no name has a zero byte, and no value has a colon
	template := strings.Split(strings.Join(t.Literals, value), ":")
	if p.Match("~empty") && strings.Join(t.Literals, "") == "" {
		return true
	}
	if !p.tail && len(template) == len(p.segs) || p.tail && len(template) > len(p.segs) {
		all := true
		for i, want := range p.segs {
			all = all && (want == "*" || fits(template[i], want, i == 0))
		}
		if all {
			return true
		}
	}
	return !t.Short && t.feedsHashed(p)
}

// fits tells whether values may make a pattern's segment of a template's.
func fits(template, segment string, first bool) bool {
	before, rest, placed := strings.Cut(template, "\x00")
	if !placed {
		return template == segment
	}
	if first && before == "_" && strings.HasPrefix(segment, "%5F") {
		segment = "_" + segment[3:] // it would have begun with __
	}
	behind := rest[strings.LastIndexByte(rest, 0)+1:]
	return len(segment) >= len(before)+len(behind) && strings.HasPrefix(segment, before) && strings.HasSuffix(segment, behind)
}

// feedsHashed is Feeds for names that end in a hash. What comes before the first value is
// never cut off.
func (t *Table) feedsHashed(p Pattern) bool {
	if !IsPattern(p.text) && (len(p.text) != MaxTopic || p.text[hashAt] != '~') {
		return false
	}
	begin := strings.Split(t.Literals[0], ":")
	begin = begin[:len(begin)-1] // the rest is of a segment with a value
	for i, want := range p.segs {
		if i < len(begin) && want != "*" && want != begin[i] {
			return false
		}
	}
	return p.tail || len(p.segs) > len(begin)
}
