package main

import (
	"bufio"
	"context"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// copyStatement finds a COPY that wants standard input or output. It may stand after a
// comment, as in a dump, so a line's beginning counts as a statement's.
var copyStatement = regexp.MustCompile(`(?im)(?:^|;)\s*copy\b[^;]*?\s(from\s+stdin|to\s+stdout)\b`)

// copyWay tells whether a text copies, and which way, and whether it does nothing else.
func copyWay(text string) (in, out, alone bool) {
	for _, m := range copyStatement.FindAllStringSubmatch(text, -1) {
		if strings.EqualFold(m[1][:2], "to") {
			out = true
		} else {
			in = true
		}
	}
	return in, out, !strings.Contains(strings.TrimRight(text, "; \t\r\n"), ";")
}

// copy runs a COPY. It needs the connection for itself: among other statements its rows
// have no way in, and Postgres would wait for them for ever.
func (a *app) copy(ctx context.Context, conn *pgx.Conn, statement string, in bool) error {
	var tag pgconn.CommandTag
	var err error
	if in {
		if isTerminal(a.in) {
			a.sayf("reading rows from the terminal, Ctrl-D ends them\n")
		}
		tag, err = conn.PgConn().CopyFrom(ctx, a.in, statement)
	} else {
		w := bufio.NewWriter(a.out)
		tag, err = conn.PgConn().CopyTo(ctx, w, statement)
		if flushErr := w.Flush(); err == nil {
			err = flushErr
		}
	}
	if err != nil {
		return sqlError(err, statement)
	}
	a.sayf("%s\n", a.paint(a.err).dim(tag.String()))
	return nil
}

// checkCopy refuses what copy cannot do. piped says that the statement itself came on
// standard input.
func checkCopy(in, out, alone, piped bool) error {
	switch {
	case (in || out) && !alone:
		return usage(invalid(`run it as a statement of its own: pgcast sql "copy t from stdin" < rows; pg_dump --inserts writes dumps without COPY`,
			"COPY to or from standard input or output cannot stand among other statements"))
	case in && piped:
		return usage(invalid(`as in pgcast sql "copy t from stdin" < rows`, "COPY FROM STDIN must be given as an argument: standard input is for its rows"))
	}
	return nil
}
