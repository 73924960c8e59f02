package replay

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// Security shows the rows of tables whose row security is enforced as their policies have
// it: as pgcast.enforce() says, to a role with the caller's claims. All methods are safe for
// concurrent use.
type Security struct {
	log     *Log
	opts    SecurityOptions
	slots   chan struct{}
	metrics *securityMetrics
	state   atomic.Pointer[enforcement] // nil: not known yet
	stale   atomic.Bool                 // a table has another shape, or a check has failed

	mu       sync.Mutex
	failures map[string]*failure // by table and claims
}

// SecurityOptions bound what row security costs the database.
type SecurityOptions struct {
	// Timeout is for how long one check of rows may take; default 1 s. What could not be
	// checked is not shown.
	Timeout time.Duration
	// Checks is the number of checks under way at once; the others wait. Default 4.
	Checks     int
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// NewSecurity makes a Security that reads snapshots through the log. opts may be nil. Until
// Load has succeeded nothing is shown.
func NewSecurity(log *Log, opts *SecurityOptions) *Security {
	s := &Security{log: log, failures: map[string]*failure{}}
	if opts != nil {
		s.opts = *opts
	}
	if s.opts.Timeout <= 0 {
		s.opts.Timeout = time.Second
	}
	if s.opts.Checks <= 0 {
		s.opts.Checks = 4
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.Default()
	}
	s.slots = make(chan struct{}, s.opts.Checks)
	s.metrics = newSecurityMetrics(s.opts.Registerer)
	return s
}

// enforcement is what was loaded: the tables by number.
type enforcement struct{ tables []*secured }

// secured is a table whose row security is enforced.
type secured struct {
	db.EnforcementListRow
	topics *regexp.Regexp
}

// same reports whether callers see two tables alike.
func (t *secured) same(o *secured) bool {
	return t.Relation == o.Relation && t.Role == o.Role && slices.Equal(t.Claims, o.Claims) && (t.Claims == nil) == (o.Claims == nil) &&
		slices.Equal(t.Key, o.Key) && slices.Equal(t.Literals, o.Literals)
}

func (e *enforcement) of(relation int64) *secured {
	if e == nil {
		return nil
	}
	for _, t := range e.tables {
		if t.Relation == relation {
			return t
		}
	}
	return nil
}

// behind gives the tables whose events a topic, or a pattern, may have.
func (e *enforcement) behind(topic string) (list []*secured) {
	if e == nil {
		return nil
	}
	for _, t := range e.tables {
		if pgcast.IsPattern(topic) || t.topics.MatchString(topic) {
			list = append(list, t)
		}
	}
	return list
}

// anyValue are the values of a template's placeholders, as pgcast.expand_topic() writes them.
const anyValue = `(?:~null|(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})*)`

// topicsOf gives what selects the topics that a template's literal parts may have made.
func topicsOf(literals []string) (*regexp.Regexp, error) {
	if len(literals) == 1 {
		return regexp.Compile("^" + regexp.QuoteMeta(literals[0]) + "$")
	}
	parts := make([]string, len(literals))
	for i, l := range literals {
		parts[i] = regexp.QuoteMeta(l)
	}
	first := parts[0]
	if first == "_" {
		first, parts[0] = "(?:_|%5F)", "(?:_|%5F)" // a name does not begin with __
	}
	whole := strings.Join(parts, anyValue)
	if strings.Join(literals, "") == "" {
		whole += "|~empty"
	}
	// Names that grow too long end in a hash.
	return regexp.Compile("^(?:" + whole + "|" + first + ".*~[0-9a-f]{64})$")
}

// Load reads which tables' row security is enforced, and how, and tells whether that is
// otherwise than before; then lenses that were given before may not be Current any more.
func (s *Security) Load(ctx context.Context) (changed bool, err error) {
	rows, err := s.log.queries.EnforcementList(ctx)
	if err != nil {
		return false, unavailable("read which tables have row security", err)
	}
	now, was := &enforcement{}, s.state.Load()
	for _, r := range rows {
		t := &secured{EnforcementListRow: r}
		if t.topics, err = topicsOf(r.Literals); err != nil {
			return false, fmt.Errorf("read the topics of %s: %w", r.Name, err)
		}
		now.tables = append(now.tables, t)
		before := was.of(t.Relation)
		if t.Problem != "" && (before == nil || before.Problem != t.Problem) {
			s.opts.Logger.Warn("row security: rows of a table are shown to nobody", "table", t.Name, "role", t.Role, "problem", t.Problem, "mend", t.Mend)
		}
	}
	s.state.Store(now)
	s.metrics.tables.Set(float64(len(now.tables)))
	return was == nil || !slices.EqualFunc(was.tables, now.tables, (*secured).same), nil
}

// Current tells whether a lens, or nil, is what Lens would give for a topic now.
func (s *Security) Current(topic string, l *RowLens) bool {
	state := s.state.Load()
	if state == nil {
		return true // for as long as nothing is shown
	}
	var has []*secured
	if l != nil {
		if has = l.tables; len(has) == 0 {
			return false // of a time when nothing was known
		}
	}
	return slices.EqualFunc(has, state.behind(topic), (*secured).same)
}

// Tables is the number of tables whose row security is enforced.
func (s *Security) Tables() int {
	if state := s.state.Load(); state != nil {
		return len(state.tables)
	}
	return 0
}

// Stale reports, once, that what Load has read may not hold any more, because a table has
// been altered.
func (s *Security) Stale() bool { return s.stale.Swap(false) }

// Lens gives how a topic, or a pattern, is shown to a caller with these claims, a JSON object;
// nil: as it is.
func (s *Security) Lens(claims json.RawMessage, topic string) *RowLens {
	state := s.state.Load()
	l := &RowLens{security: s, tables: state.behind(topic)}
	if state != nil && len(l.tables) == 0 {
		return nil
	}
	if err := json.Unmarshal(claims, &l.claims); err != nil {
		l.claims = nil // nobody's
	}
	h := sha256.New()
	for _, t := range l.tables {
		fmt.Fprintf(h, "%d %q %q %q %q %q\x00", t.Relation, t.Role, t.Claims, t.Key, t.Literals, l.shown(t))
	}
	l.key = string(h.Sum(nil))
	return l
}

// shown are the claims that a table's policies are told.
func (l *RowLens) shown(t *secured) string {
	names := t.Claims
	if names == nil {
		names = slices.Sorted(maps.Keys(l.claims))
	}
	b := []byte{'{'}
	for _, name := range names {
		value, known := l.claims[name]
		if !known {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		text, _ := json.Marshal(name) // a string always can be
		b = append(append(append(b, text...), ':'), value...)
	}
	return string(append(b, '}'))
}
