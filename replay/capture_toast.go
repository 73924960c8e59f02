package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// readTarget is how many bytes one round of reading large values should give.
const readTarget = 4 << 20

// readsAtOnce bounds how many rows are read by one flush, by what they were like so far.
func (s *captureSession) readsAtOnce() int {
	if s.reading.rows == 0 {
		return 16
	}
	return min(max(readTarget*s.reading.rows/(s.reading.bytes+1), 1), 500)
}

// reading is what was read of large values.
type reading struct{ rows, bytes int }

// wanting is the changes of a table that lack the same columns.
type wanting struct {
	rel     *relation
	columns []int
	changes []*change
}

// complete reads the large values that the stream has left out, by key. What has gone since
// is left out of the event too.
func (s *captureSession) complete(ctx context.Context, changes []*change) error {
	if s.reads == 0 {
		return nil
	}
	var all []*wanting
	for _, c := range changes {
		if len(c.toast) == 0 {
			continue
		}
		i := slices.IndexFunc(all, func(w *wanting) bool { return w.rel == c.rel && slices.Equal(w.columns, c.toast) })
		if i < 0 {
			i, all = len(all), append(all, &wanting{rel: c.rel, columns: c.toast})
		}
		all[i].changes = append(all[i].changes, c)
	}
	for _, w := range all {
		if err := s.readRows(ctx, w); err != nil {
			return err
		}
	}
	s.reads = 0
	return nil
}

func (s *captureSession) readRows(ctx context.Context, w *wanting) error {
	rows, err := s.readByKey(ctx, w)
	if err != nil {
		return err
	}
	var names list
	for _, i := range w.columns {
		names.value([]byte(w.rel.columns[i].Name))
	}
	missing := names.end()
	for n, c := range w.changes {
		row := rows[n]
		if row == nil {
			c.missing = missing
		} else {
			for k, i := range w.columns {
				c.new[i] = row[k]
				c.size += len(row[k])
				s.images.learn(c.key, w.rel.columns[i].Name, row[k])
			}
		}
		for _, i := range w.columns {
			c.old[i] = c.new[i] // unchanged
		}
		c.toast = nil
	}
	return nil
}

// readByKey gives the values of the wanted columns for each change whose row is still there.
func (s *captureSession) readByKey(ctx context.Context, w *wanting) (map[int][][]byte, error) {
	found := map[int][][]byte{}
	if len(w.rel.keys) == 0 {
		return found, nil
	}
	sql, err := s.readStatement(ctx, w)
	if err != nil || sql == "" {
		return found, err
	}
	// One row is read once, however often it was changed.
	first, of := map[string]int{}, make([]int, len(w.changes))
	keys := make([]list, len(w.rel.keys))
	for n, c := range w.changes {
		row := c.new
		if s.streamed != nil { // not committed yet: the row is still to be found by the key it had
			row = c.old
		}
		key := imageKey(w.rel, 0, row)
		if _, known := first[key]; !known {
			first[key] = len(first) + 1
			for k, i := range w.rel.keys {
				keys[k].value(row[i])
			}
		}
		of[n] = first[key]
	}
	q := query{sql: sql}
	for i := range keys {
		q.args = append(q.args, keys[i].end())
	}
	results, err := s.guarded(ctx, q)
	if err != nil || results == nil {
		return found, err
	}
	rows := map[int][][]byte{}
	for _, row := range results.Rows {
		i, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return nil, fmt.Errorf("read rows of %s: %w", w.rel, err)
		}
		rows[i] = row[1:]
		s.reading.rows++
		for _, v := range row[1:] {
			s.reading.bytes += len(v)
		}
	}
	for n := range w.changes {
		if row := rows[of[n]]; row != nil {
			found[n] = row
		}
	}
	return found, nil
}

func (s *captureSession) readStatement(ctx context.Context, w *wanting) (string, error) {
	names := make([]string, len(w.columns))
	var wanted list
	for k, i := range w.columns {
		names[k] = w.rel.columns[i].Name
		wanted.value([]byte(names[k]))
	}
	text, err := json.Marshal(names)
	if err != nil {
		return "", fmt.Errorf("name columns of %s: %w", w.rel, err)
	}
	if sql, ok := w.rel.made.reads[string(text)]; ok {
		return sql, nil
	}
	result, err := s.guarded(ctx, query{sql: "select pgcast.toast_sql($1::oid, $2::jsonb, $3::text[])",
		args: [][]byte{strconv.AppendUint(nil, uint64(w.rel.id), 10), []byte(w.rel.columnsJSON), wanted.end()}})
	if err != nil {
		return "", err
	}
	sql := ""
	if result != nil && len(result.Rows) == 1 {
		sql = string(result.Rows[0][0])
	}
	w.rel.made.reads[string(text)] = sql
	return sql, nil
}

// guarded runs a statement that may fail for reasons of its own: then there is no result.
func (s *captureSession) guarded(ctx context.Context, q query) (*pgconn.Result, error) {
	queries, at := []query{q}, 0
	if s.open {
		queries, at = []query{{sql: "savepoint one"}, q, {sql: "release one"}}, 1
	}
	results, err := s.ask(ctx, queries...)
	if isPoison(err) {
		s.log.Warn("capture: could not read large values; they are left out of their events", "error", blame(err))
		if s.open {
			_, err = s.ask(ctx, query{sql: "rollback to one"})
			return nil, err
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return results[at], nil
}
