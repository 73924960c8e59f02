package migrations_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/pgtest"
)

// walReader reads a database's changes as Postgres sends them, and has decoded_sql's
// statements write their events.
type walReader struct {
	db        *pgtest.DB
	conn      *pgx.Conn // values are printed and read in it as capture does
	relations map[uint32]*pglogrepl.RelationMessage
	staged    bool
	split     int // so many rows of one kind in one statement
	rows      []change
	n         int64 // of the next event
}

// change is a row of the WAL.
type change struct {
	rel      *pglogrepl.RelationMessage
	op       string
	new, old []*pglogrepl.TupleDataColumn
	xid      uint32
}

func newWAL(t *testing.T) *walReader {
	t.Helper()
	db := pgtest.New(t, &pgtest.Options{Kind: pgtest.Logical})
	w := &walReader{db: db, relations: map[uint32]*pglogrepl.RelationMessage{}, split: 100}
	cfg, err := pgx.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1",
		"bytea_output": "hex", "timezone": "UTC", "lc_monetary": "C", "client_encoding": "UTF8", "search_path": ""} {
		cfg.RuntimeParams[name] = value
	}
	if w.conn, err = pgx.ConnectConfig(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.conn.Close(context.Background()) })
	db.Exec(t, `select pgcast.open_slot()`)
	return w
}

// clear makes room for another case: a slot takes a while to make, as it waits for
// everybody's transactions.
func (w *walReader) clear(t *testing.T) {
	t.Helper()
	w.db.Exec(t, `select pgcast.detach(relation) from pgcast.attachment`)
	w.db.Exec(t, `drop schema if exists a cascade; drop schema if exists b cascade; drop schema public cascade; create schema public; truncate pgcast.event_log`)
	w.read(t)
}

// read captures everything that has been committed.
func (w *walReader) read(t *testing.T) {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), `select data from pg_catalog.pg_logical_slot_get_binary_changes(pgcast.slot_name(), null, null, 'proto_version', '1', 'publication_names', 'pgcast_capture')`)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	var xid uint32
	for _, data := range messages {
		m, err := pglogrepl.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *pglogrepl.BeginMessage:
			xid = m.Xid
		case *pglogrepl.RelationMessage:
			w.relations[m.RelationID] = m
		case *pglogrepl.InsertMessage:
			w.add(t, change{rel: w.relations[m.RelationID], op: "INSERT", new: m.Tuple.Columns, xid: xid})
		case *pglogrepl.UpdateMessage:
			c := change{rel: w.relations[m.RelationID], op: "UPDATE", new: m.NewTuple.Columns, old: m.NewTuple.Columns, xid: xid}
			if m.OldTuple != nil {
				c.old = m.OldTuple.Columns
			}
			for i, v := range c.new {
				if v.DataType == pglogrepl.TupleDataTypeToast && m.OldTuple != nil {
					c.new[i] = c.old[i]
				}
			}
			w.add(t, c)
		case *pglogrepl.DeleteMessage:
			w.add(t, change{rel: w.relations[m.RelationID], op: "DELETE", old: m.OldTuple.Columns, xid: xid})
		case *pglogrepl.TruncateMessage:
			w.flush(t)
			w.exec(t, `select pgcast.truncated(r, now(), $2::text::xid8, 0, null, 1) from unnest(pgcast.truncated_tables($1)) r`, m.RelationIDs, strconv.Itoa(int(xid)))
		}
	}
	w.flush(t)
}

func (w *walReader) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := w.conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%v: %.1000s", err, sql)
	}
}

func (w *walReader) add(t *testing.T, c change) {
	t.Helper()
	if len(w.rows) == w.split || len(w.rows) > 0 && (w.rows[0].rel != c.rel || w.rows[0].op != c.op) {
		w.flush(t)
	}
	w.rows = append(w.rows, c)
}

// columns is what decoded_sql is told of a relation.
func columns(rel *pglogrepl.RelationMessage) string {
	type column struct {
		Name string `json:"name"`
		Type uint32 `json:"type"`
		Mod  int32  `json:"mod"`
		Key  bool   `json:"key"`
	}
	list := make([]column, len(rel.Columns))
	for i, c := range rel.Columns {
		list[i] = column{c.Name, c.DataType, c.TypeModifier, c.Flags == 1}
	}
	b, _ := json.Marshal(list)
	return string(b)
}

func (w *walReader) flush(t *testing.T) {
	t.Helper()
	if len(w.rows) == 0 {
		return
	}
	first := w.rows[0]
	var sql *string
	if err := w.conn.QueryRow(t.Context(), `select pgcast.decoded_sql($1, $2, $3, $4)`, first.rel.RelationID, columns(first.rel), first.op, w.staged).Scan(&sql); err != nil {
		t.Fatalf("decoded_sql of %s: %v", first.rel.RelationName, err)
	}
	if sql != nil {
		var n, at, xid, subxid, missing []*string
		if err := w.conn.QueryRow(t.Context(), `select setval('pgcast.event_log_id_seq', nextval('pgcast.event_log_id_seq') + $1)`, 2*len(w.rows)).Scan(&w.n); err != nil {
			t.Fatal(err)
		}
		w.n -= int64(2 * len(w.rows))
		for _, c := range w.rows {
			text := func(v any) *string { s := fmt.Sprint(v); return &s }
			n, at, xid, subxid = append(n, text(w.n)), append(at, text("2026-01-02 03:04:05+00")), append(xid, text(c.xid)), append(subxid, text(c.xid))
			w.n += 2
			var out []string
			for i, v := range c.new {
				if v.DataType == pglogrepl.TupleDataTypeToast {
					out = append(out, quoted(c.rel.Columns[i].Name))
				}
			}
			if out == nil {
				missing = append(missing, nil)
			} else {
				missing = append(missing, text("{"+strings.Join(out, ",")+"}"))
			}
		}
		params := [][]byte{array(n), array(at), array(xid), array(subxid), []byte("7"), array(missing)}
		for _, side := range []func(change) []*pglogrepl.TupleDataColumn{func(c change) []*pglogrepl.TupleDataColumn { return c.new }, func(c change) []*pglogrepl.TupleDataColumn { return c.old }} {
			if side(first) == nil {
				continue
			}
			for i := range first.rel.Columns {
				var values []*string
				for _, c := range w.rows {
					var value *string
					if v := side(c)[i]; v.DataType == pglogrepl.TupleDataTypeText {
						s := string(v.Data)
						value = &s
					}
					values = append(values, value)
				}
				params = append(params, array(values))
			}
		}
		if r := w.conn.PgConn().ExecParams(t.Context(), *sql, params, []uint32{1016, 1185, 271, 1016, 20, 1009}, nil, nil).Read(); r.Err != nil {
			t.Fatalf("%s of %s: %v\n%s", first.op, first.rel.RelationName, r.Err, *sql)
		}
	}
	w.rows = nil
}

// quoted is an element of an array as Postgres reads it.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func array(values []*string) []byte {
	list := make([]string, len(values))
	for i, v := range values {
		if list[i] = "NULL"; v != nil {
			list[i] = quoted(*v)
		}
	}
	return []byte("{" + strings.Join(list, ",") + "}")
}

// events lists the events of topics that begin with a prefix, in order, without it: those
// that came from the WAL, or those of triggers.
func (w *walReader) events(t *testing.T, prefix string, decoded bool) []string {
	t.Helper()
	rows, err := w.conn.Query(t.Context(), `select substr(topic, length($1) + 1) || ' ' || event || coalesce(' ' || data::text, '') || coalesce(' old ' || old::text, '')
		from pgcast.event_log where starts_with(topic, $1) and ((origin).xid is not null) = $2 order by id`, prefix, decoded)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clip(list)
}

// relation is what was last said of a table's columns.
func (w *walReader) relation(t *testing.T, name string) *pglogrepl.RelationMessage {
	t.Helper()
	for _, rel := range w.relations {
		if rel.RelationName == name {
			return rel
		}
	}
	t.Fatalf("no relation %s in the stream", name)
	return nil
}
