package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
)

// The exit codes.
const (
	exitFailure = 1
	exitUsage   = 2 // also for settings that cannot be used: trying again will not help
)

// usageError is a command line that cannot be understood.
type usageError struct {
	err     error
	command string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func exitCode(err error) int {
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// invalid is an error about what the user gave, with what to do instead.
func invalid(hint, format string, args ...any) error {
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// report prints an error once, with what to do about it.
func (a *app) report(ctx context.Context, err error) {
	p := a.paint(a.err)
	var many interface{ Unwrap() []error }
	var usage *usageError
	if errors.As(err, &usage) && errors.As(usage.err, &many) {
		for _, e := range many.Unwrap() {
			a.reportOne(p, e)
		}
		return
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.sayf("pgcast: interrupted\n")
		return
	}
	a.reportOne(p, explain(err))
	// A setting's error has said what to do; a command line's has not.
	var known *pgcast.Error
	if usage != nil && !errors.As(err, &known) {
		a.sayf("%s %s --help\n", p.dim("see:"), usage.command)
	}
}

func (a *app) reportOne(p paint, err error) {
	text, hint := err.Error(), ""
	var known *pgcast.Error
	if errors.As(err, &known) && known.Hint != "" {
		// The hint is at the end of the text, in brackets: it gets a line of its own.
		text = strings.Replace(text, " ("+known.Hint+")", "", 1)
		hint = known.Hint
	}
	a.sayf("%s %s\n", p.red("pgcast:"), indent(text))
	if hint != "" {
		a.sayf("%s %s\n", p.dim("hint:"), indent(hint))
	}
}

// indent puts the later lines of a text under its first.
func indent(text string) string {
	return strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}

// explain turns what Postgres says into what to do about it, where we know.
func explain(err error) error {
	var known *pgcast.Error
	if errors.As(err, &known) && known.Message != "" {
		return err
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return explainPostgres(err, pg)
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: oneLine(connect.Error()),
			Hint: "is Postgres running there, and is database-url right? pgcast config shows which one is used"}
	}
	for _, l := range listenHints {
		if errors.Is(err, l.is) {
			return &pgcast.Error{Code: pgcast.CodeInvalid, Message: err.Error(), Hint: l.hint}
		}
	}
	return err
}

// listenHints are what to do about an address that cannot be listened on.
var listenHints = []struct {
	is   error
	hint string
}{
	{syscall.EADDRINUSE, "another program listens there, perhaps a pgcast: stop it, or give another --listen or --admin-listen; port 0 takes any free one"},
	{syscall.EADDRNOTAVAIL, "this machine has no such address; give another --listen or --admin-listen"},
}

func explainPostgres(err error, pg *pgconn.PgError) error {
	// What our own functions raise says who speaks, and so does the line it gets here.
	text, ours := strings.CutPrefix(pg.Message, "pgcast: ")
	e := &pgcast.Error{Code: pgcast.CodeInvalid, Message: text, Hint: pg.Hint}
	switch {
	case !ours && missingSchema(pg):
		e.Hint = "this database has no pgcast yet, or an older one: run pgcast migrate up"
	case pg.Hint != "":
	case pg.Code == "42501":
		e.Hint = "connect as a role that may do this"
	case pg.Code[:2] == "28":
		e.Hint = "check user and password in database-url"
	case pg.Code == "42602":
		e.Hint = `names are written as in SQL: 'public."Messages"'`
	case pg.Code == "3D000":
		e.Hint = "create it, or correct database-url"
	default:
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			e.Hint = "pgcast config shows which database-url is used"
		}
	}
	if pg.Detail != "" {
		e.Message += "\n" + pg.Detail
	}
	return e
}

// missingSchema tells an object of schema pgcast that is not there from any other.
func missingSchema(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "3F000", "42P01", "42883", "42703":
		return strings.Contains(pg.Message, "pgcast.") || strings.Contains(pg.Message, `schema "pgcast"`)
	}
	return false
}

// oneLine is for errors that list every address they tried, some of them twice: with TLS
// and without.
func oneLine(text string) string {
	var parts []string
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\t' }) {
		if !slices.ContainsFunc(parts, func(said string) bool { return strings.HasSuffix(said, part) }) {
			parts = append(parts, part)
		}
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), ":; ", ": ")
}

// usage marks an error as one about the command line.
func usage(err error) error { return &usageError{err: err} }

func isCanceled(err error) bool { return errors.Is(err, context.Canceled) }
