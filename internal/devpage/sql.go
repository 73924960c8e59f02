package devpage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What one run of the SQL box may cost.
const (
	maxStatement = 1 << 20 // bytes of the request
	maxRows      = 1000
	maxCell      = 4 << 10 // bytes of one value
	maxTable     = 2 << 20 // bytes of all values
	maxNotices   = 50

	statementTimeout = 10 * time.Second
	runTimeout       = 30 * time.Second // of all statements together
)

var copyIn = regexp.MustCompile(`(?is)(^|;)\s*copy\s[^;]*\sfrom\s+stdin\b`)

// runner runs what is typed into the SQL box.
type runner struct{ pool *pgxpool.Pool }

// result is what the page gets to see of a run.
type result struct {
	Tags    []string    `json:"tags"`              // of the statements that went through
	Columns []column    `json:"columns,omitempty"` // of the last statement that gave rows
	Rows    [][]*string `json:"rows,omitempty"`    // as Postgres prints them; null is null
	Cut     bool        `json:"cut,omitempty"`     // there were more rows, or longer values
	Notices []string    `json:"notices,omitempty"` // RAISE NOTICE and its like
	Open    bool        `json:"open,omitempty"`    // a transaction was left open, and rolled back
	Millis  float64     `json:"ms"`                // in the database, round trip included
	Error   *sqlError   `json:"error,omitempty"`   // the statement that did not
	size    int         // bytes of the values so far
}

type column struct {
	Name   string `json:"name"`
	Number bool   `json:"number,omitempty"` // to be aligned at the right
}

// sqlError is an error in words. Position counts characters of the text from 1.
type sqlError struct {
	Message  string `json:"message"`
	Detail   string `json:"detail,omitempty"`
	Hint     string `json:"hint,omitempty"`
	Where    string `json:"where,omitempty"`
	Code     string `json:"code,omitempty"`
	Position int32  `json:"position,omitempty"`
}

func (s *runner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		SQL  string     `json:"sql"`
		Args []argument `json:"args"`
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatement))
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		refuse(w, http.StatusRequestEntityTooLarge, "The statement is longer than 1 MiB.", "Use pgcast sql < file.sql.")
		return
	}
	if err == nil {
		err = json.Unmarshal(body, &ask)
	}
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, "The request cannot be read: "+err.Error(), `Send {"sql": "select 1"}, or {"sql": "select $1::int", "args": [1]}.`)
		return
	case strings.TrimSpace(ask.SQL) == "":
		refuse(w, http.StatusBadRequest, "There is no SQL to run.", "")
		return
	case strings.ContainsRune(ask.SQL, 0):
		refuse(w, http.StatusBadRequest, "There is a zero byte in the statement.", "")
		return
	case copyIn.MatchString(ask.SQL): // it would wait for the timeout
		refuse(w, http.StatusBadRequest, "COPY FROM STDIN needs data, and there is no way to send it from here.", "Use INSERT, or psql.")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), runTimeout)
	defer cancel()
	res, err := s.run(ctx, ask.SQL, ask.Args)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "The database cannot be reached.", err.Error())
		return
	}
	reply(w, http.StatusOK, res)
}

// run runs the statements in a session of their own: whatever they set, lock, listen to
// or leave open is gone with it. The error is about reaching the database.
func (s *runner) run(ctx context.Context, sql string, args []argument) (*result, error) {
	res := &result{Tags: []string{}}
	config := s.pool.Config().ConnConfig
	config.RuntimeParams["application_name"] = "pgcast dev page"
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if len(res.Notices) < maxNotices {
			res.Notices = append(res.Notices, strings.ToLower(n.Severity)+": "+n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(late) // nothing of it is needed any more
	}()
	// Not a parameter of the connection: poolers refuse those they do not know.
	if _, err := conn.Exec(ctx, fmt.Sprintf("set statement_timeout = %d", statementTimeout.Milliseconds())); err != nil {
		return nil, err
	}
	began := time.Now()
	if len(args) > 0 {
		err = res.read(conn.PgConn().ExecParams(ctx, sql, texts(args), nil, nil, nil))
	} else {
		err = res.collect(conn.PgConn().Exec(ctx, sql)) // the simple protocol takes several statements
	}
	res.Millis = float64(time.Since(began).Microseconds()) / 1000
	res.Open = !conn.IsClosed() && conn.PgConn().TxStatus() != 'I'
	res.Error = inWords(ctx, err)
	return res, nil
}

// collect reads the results of all statements, and keeps the rows of the last one that
// gives any.
func (res *result) collect(results *pgconn.MultiResultReader) error {
	for results.NextResult() {
		_ = res.read(results.ResultReader()) // the reader of all results tells of it
	}
	return results.Close()
}

// read reads the result of one statement.
func (res *result) read(r *pgconn.ResultReader) error {
	if fields := r.FieldDescriptions(); len(fields) > 0 {
		res.table(fields)
	}
	for r.NextRow() {
		res.row(r.Values())
	}
	tag, err := r.Close()
	if err == nil {
		res.Tags = append(res.Tags, tag.String())
	}
	return err
}

func (res *result) table(fields []pgconn.FieldDescription) {
	res.Columns, res.Rows, res.Cut, res.size = make([]column, len(fields)), [][]*string{}, false, 0
	for i, f := range fields {
		res.Columns[i].Name = f.Name
		switch f.DataTypeOID {
		case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID, pgtype.Float4OID, pgtype.Float8OID, pgtype.NumericOID:
			res.Columns[i].Number = true
		}
	}
}

func (res *result) row(values [][]byte) {
	if len(res.Rows) >= maxRows || res.size > maxTable {
		res.Cut = true
		return
	}
	row := make([]*string, len(values))
	for i, v := range values {
		if v == nil {
			continue
		}
		text := string(v)
		if len(text) > maxCell {
			cut := maxCell
			for cut > 0 && !utf8.RuneStart(text[cut]) {
				cut--
			}
			text, res.Cut = text[:cut]+"…", true
		}
		row[i] = &text
		res.size += len(text)
	}
	res.Rows = append(res.Rows, row)
}

// inWords tells what went wrong with a statement.
func inWords(ctx context.Context, err error) *sqlError {
	switch pg, ok := errors.AsType[*pgconn.PgError](err); {
	case err == nil:
		return nil
	case ok && pg.Code == "57014" && strings.Contains(pg.Message, "statement timeout"):
		return &sqlError{Message: "The statement ran for longer than 10 s and was stopped.", Code: pg.Code,
			Hint: "pgcast sql has no such limit."}
	case ok:
		return &sqlError{Message: pg.Message, Detail: pg.Detail, Hint: pg.Hint, Where: pg.Where, Code: pg.Code, Position: pg.Position}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &sqlError{Message: "The statements together ran for longer than 30 s and were stopped.", Hint: "pgcast sql has no such limit."}
	default:
		return &sqlError{Message: "The connection to the database broke: " + err.Error()}
	}
}
