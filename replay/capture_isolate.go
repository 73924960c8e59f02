package replay

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pgcast/pgcast/db"
)

// isolate writes again what has failed, by halves, so that one change that cannot become an
// event does not hold up those that can. later says that the transaction has written before.
func (s *captureSession) isolate(ctx context.Context, groups []*group, later bool, cause error) error {
	back := []query{{sql: "rollback"}, {sql: "begin isolation level read committed read write"}}
	if later {
		back = []query{{sql: "rollback to flush"}}
	}
	if s.open {
		if _, err := s.ask(ctx, back...); err != nil {
			return err
		}
	}
	for _, g := range groups {
		if err := s.halve(ctx, g); err != nil {
			return fmt.Errorf("%w, after: %s", err, blame(cause))
		}
	}
	return nil
}

func (s *captureSession) halve(ctx context.Context, g *group) error {
	err := s.alone(ctx, g.query(s.id))
	switch {
	case err == nil || !isPoison(err):
		return err
	case len(g.changes) > 1:
		half := len(g.changes) / 2
		if err := s.halve(ctx, &group{g.rel, g.statement, g.changes[:half]}); err != nil {
			return err
		}
		return s.halve(ctx, &group{g.rel, g.statement, g.changes[half:]})
	}
	return s.poisoned(ctx, g.rel, 1, err)
}

// alone runs one statement, and undoes it alone if it fails.
func (s *captureSession) alone(ctx context.Context, q query) error {
	if !s.open {
		_, err := s.ask(ctx, q)
		return err
	}
	_, err := s.ask(ctx, query{sql: "savepoint one"}, q, query{sql: "release one"})
	if !isPoison(err) {
		return err
	}
	if _, undo := s.ask(ctx, query{sql: "rollback to one"}); undo != nil {
		return undo
	}
	return err
}

// poisoned says that changes of a table cannot become events: here, and to its topics.
func (s *captureSession) poisoned(ctx context.Context, rel *relation, n int, cause error) error {
	s.metrics.poisoned.Add(float64(n))
	if time.Since(rel.degraded) < captureTells {
		return nil
	}
	rel.degraded = time.Now()
	s.log.Error("capture: changes of a table cannot become events; they are left out, and its topics told degraded", "table", rel.String(), "error", blame(cause))
	if s.open {
		return s.tellDegraded(ctx, rel)
	}
	return db.New(s.conn).CaptureDegraded(ctx, int64(rel.root))
}

func (s *captureSession) tellDegraded(ctx context.Context, rel *relation) error {
	err := s.alone(ctx, query{sql: db.CaptureDegraded, args: [][]byte{[]byte(strconv.FormatUint(uint64(rel.root), 10))}})
	if isPoison(err) {
		s.log.Error("capture: could not tell the topics of a table", "table", rel.String(), "error", blame(err))
		return nil
	}
	return err
}

// statement gives the prepared statement for the changes of one kind of a table; nil: nothing
// becomes of them.
func (s *captureSession) statement(ctx context.Context, rel *relation, op byte, staged bool) (*statement, error) {
	key := statementKey{op, staged}
	if st, ok := rel.made.now[key]; ok {
		return st, nil
	}
	st, err := s.makeStatement(ctx, rel, op, staged)
	if err != nil {
		return nil, err
	}
	if old := rel.made.former[key]; st.sql == "" && old != nil && old.err == nil && old.name != "" {
		st = old // detached since; these changes were made before
	} else if old != nil && old.name != "" {
		if _, err := s.ask(ctx, query{sql: "deallocate " + old.name}); err != nil {
			return nil, fmt.Errorf("forget a statement: %w", err)
		}
	}
	delete(rel.made.former, key)
	rel.made.now[key] = st
	// The others too: were the table detached, it would be too late.
	for _, other := range "IUD" {
		if rel.isPublished || rel.made.now[statementKey{byte(other), staged}] != nil {
			continue
		}
		if _, err := s.statement(ctx, rel, byte(other), staged); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func (s *captureSession) makeStatement(ctx context.Context, rel *relation, op byte, staged bool) (*statement, error) {
	var queries []query
	if s.open {
		queries = append(queries, query{sql: "savepoint making"})
	}
	word := map[byte]string{'I': "INSERT", 'U': "UPDATE", 'D': "DELETE"}[op]
	queries = append(queries, query{sql: "select pgcast.decoded_sql($1::oid, $2::jsonb, $3::text, $4::boolean)",
		args: [][]byte{[]byte(strconv.FormatUint(uint64(rel.id), 10)), []byte(rel.columnsJSON), []byte(word), []byte(strconv.FormatBool(staged))}})
	results, err := s.ask(ctx, queries...)
	st := &statement{err: err}
	if err == nil {
		if text := results[len(results)-1].Rows[0][0]; text != nil {
			s.statements++
			st.name, st.sql = "change"+strconv.Itoa(s.statements), string(text)
			err = s.attend.run(ctx, func(ctx context.Context) error {
				_, err := s.conn.PgConn().Prepare(ctx, st.name, st.sql, []uint32{1016, 1185, 271, 1016, 20, 1009})
				return err
			})
			st.err = err
		}
	}
	if err != nil && !isPoison(err) {
		return nil, fmt.Errorf("make the statement for changes of %s: %w", rel, err)
	}
	if s.open {
		last := query{sql: "release making"}
		if err != nil {
			last.sql = "rollback to making"
		}
		if _, err := s.ask(ctx, last); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// renew forgets how changes are written of those tables whose attachment is another one.
func (s *captureSession) renew(ctx context.Context) error {
	results, err := s.ask(ctx, prepared("versions"))
	if err != nil {
		return fmt.Errorf("look at what is attached: %w", err)
	}
	was, now := s.versions, versions(results[0].Rows)
	s.versions = now
	each := func(relations map[uint32]*relation) {
		for _, r := range relations {
			if r.root == 0 || was[r.root] == "" || was[r.root] != now[r.root] {
				r.made.renew()
			}
		}
	}
	each(s.relations)
	for _, t := range s.streams {
		each(t.relations)
		t.lossy = true
	}
	s.images.clear()
	return nil
}

func versions(rows [][][]byte) map[uint32]string {
	list := map[uint32]string{}
	for _, row := range rows {
		root, _ := strconv.ParseUint(string(row[0]), 10, 32) // an oid
		list[uint32(root)] = string(row[1])
	}
	return list
}
