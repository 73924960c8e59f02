package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// Group reads what is durable about a group. Errors are *[pgcast.Error] with code
// not_found if there is none of that name, or match [pgcast.ErrUnavailable].
func (l *Log) Group(ctx context.Context, name string) (pgcast.Group, error) {
	row, err := l.queries.GroupFind(ctx, name)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return pgcast.Group{}, noGroup(name)
	case err != nil:
		return pgcast.Group{}, unavailable(fmt.Sprintf("read group %q", name), err)
	}
	return pgcast.Group{Name: name, Max: int(row.MaxMembers), Roles: row.Roles, Meta: json.RawMessage(row.Meta), Closed: row.Closed}, nil
}

// CreateGroup makes a group with the roles every group has where nobody says otherwise,
// and tells whether there was none of that name, open or closed. meta may be nil.
func (l *Log) CreateGroup(ctx context.Context, name string, max int, meta json.RawMessage) (bool, error) {
	if meta == nil {
		meta = json.RawMessage("{}")
	}
	created, err := l.queries.GroupCreate(ctx, db.GroupCreateParams{Name: name, MaxMembers: int32(max), Meta: string(meta)})
	if err != nil {
		return false, groupError(fmt.Sprintf("create group %q", name), err)
	}
	return created, nil
}

// ChangeGroup changes a group, or closes it. Errors like those of Group, and
// [pgcast.ErrClosed] where it is closed.
func (l *Log) ChangeGroup(ctx context.Context, name string, c pgcast.GroupChange) error {
	var done bool
	var err error
	if c.Close {
		done, err = l.queries.GroupClose(ctx, name)
	} else {
		arg := db.GroupSetParams{Name: name}
		if c.Meta != nil {
			text := string(c.Meta)
			arg.Meta = &text
		}
		if c.Max != nil {
			n := int32(*c.Max)
			arg.MaxMembers = &n
		}
		done, err = l.queries.GroupSet(ctx, arg)
	}
	switch {
	case err != nil:
		return groupError(fmt.Sprintf("change group %q", name), err)
	case done:
		return nil
	}
	if _, err := l.Group(ctx, name); err != nil {
		return err
	}
	return &pgcast.Error{Code: pgcast.CodeClosed, Message: fmt.Sprintf("group %q is closed", name)}
}

func noGroup(name string) error {
	return &pgcast.Error{Code: pgcast.CodeNotFound, Message: fmt.Sprintf("there is no group %q", name), Hint: "make it with create_group()"}
}

// groupError tells the caller's own doing from a database that cannot be asked.
func groupError(tried string, err error) error {
	if pg := new(pgconn.PgError); errors.As(err, &pg) && (pg.Code[:2] == "22" || pg.Code[:2] == "54") {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: pg.Message, Hint: pg.Hint}
	}
	return unavailable(tried, err)
}
