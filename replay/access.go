package replay

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/db"
)

// Access asks the database who may do what, and keeps there what is known of credentials.
// It holds no state. All methods are safe for concurrent use; errors match
// [pgcast.ErrUnavailable] where nothing else is said.
type Access struct {
	pool    *pgxpool.Pool
	queries *db.Queries
	opts    AccessOptions
}

// AccessOptions; the zero value is usable.
type AccessOptions struct {
	Role    string        // that pgcast.authorize() is called as; default the connection's own
	Timeout time.Duration // for one statement that decides; default 1 s
}

// Question is whether somebody may do something.
type Question struct {
	Who         int // among the claims it is asked with
	Verb, Topic string
}

// NewAccess makes an Access on the pool. opts may be nil.
func NewAccess(pool *pgxpool.Pool, opts *AccessOptions) *Access {
	a := &Access{pool: pool, queries: db.New(pool)}
	if opts != nil {
		a.opts = *opts
	}
	if a.opts.Timeout <= 0 {
		a.opts.Timeout = time.Second
	}
	return a
}

// Decide asks pgcast.authorize() each question, of those whose claims they point at, in one
// read-only transaction that is rolled back. What one question does to it, by an error or
// by taking too long, is that question's alone: then they are asked one by one, for as long
// as ctx lasts. An answer counts only where its error is nil.
func (a *Access) Decide(ctx context.Context, claims []json.RawMessage, questions []Question) (allowed []bool, errs []error) {
	allowed, errs = make([]bool, len(questions)), make([]error, len(questions))
	err := a.decide(ctx, claims, questions, allowed)
	if err == nil {
		return allowed, errs
	}
	for i, q := range questions {
		if len(questions) > 1 && ofTheQuestion(err) {
			errs[i] = a.decide(ctx, claims[q.Who:q.Who+1], []Question{{0, q.Verb, q.Topic}}, allowed[i:i+1])
		} else {
			errs[i] = err
		}
	}
	return allowed, errs
}

// ofTheQuestion tells whether the database did answer, so that another question may have
// another answer.
func ofTheQuestion(err error) bool {
	pg := new(pgconn.PgError)
	return errors.As(err, &pg) && pg.Code[:2] != "08" && pg.Code[:2] != "53" && pg.Code[:3] != "57P"
}

func (a *Access) decide(ctx context.Context, claims []json.RawMessage, questions []Question, allowed []bool) error {
	arg := db.AccessDecideParams{Claims: make([]string, len(claims))}
	for i, c := range claims {
		arg.Claims[i] = string(c)
	}
	for _, q := range questions {
		arg.Who, arg.Verbs, arg.Topics = append(arg.Who, int32(q.Who)+1), append(arg.Verbs, q.Verb), append(arg.Topics, q.Topic)
	}
	var got []db.AccessDecideRow
	err := a.inRollback(ctx, func(b *pgx.Batch) {
		b.Queue(db.AccessDecide, arg.Claims, arg.Who, arg.Verbs, arg.Topics).Query(func(rows pgx.Rows) (err error) {
			got, err = pgx.CollectRows(rows, pgx.RowToStructByPos[db.AccessDecideRow])
			return err
		})
	})
	if err != nil {
		return unavailable(fmt.Sprintf("ask pgcast.authorize() %d questions", len(questions)), err)
	}
	if len(got) != len(questions) {
		return unavailable("ask pgcast.authorize()", fmt.Errorf("%d answers to %d questions", len(got), len(questions)))
	}
	for _, r := range got {
		allowed[r.N-1] = r.Allowed
	}
	return nil
}

// inRollback sends what queue adds in one go, within a read-only transaction that ends in a
// rollback.
func (a *Access) inRollback(ctx context.Context, queue func(*pgx.Batch)) error {
	conn, err := a.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	b := new(pgx.Batch)
	b.Queue("begin isolation level read committed read only")
	b.Queue(db.AccessLimit, strconv.FormatInt(max(a.opts.Timeout.Milliseconds(), 1), 10), a.opts.Role)
	queue(b)
	b.Queue("rollback")
	if err = conn.SendBatch(ctx, b).Close(); err == nil || conn.Conn().IsClosed() {
		return err
	}
	if _, end := conn.Exec(ctx, "rollback"); end != nil {
		_ = conn.Conn().Close(ctx) // what is left of it is nobody's to go on with
	}
	return err
}

// Revocation says that tokens do not count any more.
type Revocation struct {
	Kind      string // sub, jti or session
	Value     string
	At, Until time.Time // of a sub, what was issued after At counts
}

// Revocations lists those that hold, of this latest while; 0: all.
func (a *Access) Revocations(ctx context.Context, latest time.Duration) ([]Revocation, error) {
	rows, err := a.queries.RevocationList(ctx, latest.Seconds())
	if err != nil {
		return nil, unavailable("read the revocations", err)
	}
	list := make([]Revocation, len(rows))
	for i, r := range rows {
		list[i] = Revocation{r.Kind, r.Value, r.RevokedAt, r.Until}
	}
	return list, nil
}

// Revoke has all servers refuse the tokens of a sub that were issued until now, one by its
// jti, or a session. It holds as long as tokens live. What cannot be revoked has code
// invalid.
func (a *Access) Revoke(ctx context.Context, kind, value string, holds time.Duration) error {
	arg := db.RevocationAddParams{Seconds: holds.Seconds()}
	for _, k := range []struct {
		name  string
		field **string
	}{{"sub", &arg.Sub}, {"jti", &arg.Jti}, {"session", &arg.Session}} {
		if k.name == kind {
			*k.field = &value
		}
	}
	return a.done("revoke a "+kind, a.queries.RevocationAdd(ctx, arg))
}

// Recheck has all servers ask anew about everybody whose claims contain these, an object.
func (a *Access) Recheck(ctx context.Context, claims json.RawMessage) error {
	return a.done("have access looked at anew", a.queries.AccessRecheck(ctx, string(claims)))
}

// done tells the caller's own doing from a database that cannot be asked.
func (a *Access) done(tried string, err error) error {
	if err == nil {
		return nil
	}
	if pg := new(pgconn.PgError); errors.As(err, &pg) && pg.Code[:2] == "22" {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: strings.TrimPrefix(pg.Message, "pgcast: "), Hint: pg.Hint}
	}
	return unavailable(tried, err)
}

// AccessRule is a row of pgcast.rule.
type AccessRule struct {
	ID     int64           `json:"id"`
	Verbs  []string        `json:"verbs"`
	Topic  string          `json:"topic"`
	Role   string          `json:"role,omitempty"`
	Claims json.RawMessage `json:"claims"`
}

// Rules lists the rules, oldest first.
func (a *Access) Rules(ctx context.Context) ([]AccessRule, error) {
	rows, err := a.queries.AccessRules(ctx)
	if err != nil {
		return nil, unavailable("read the rules", err)
	}
	list := make([]AccessRule, len(rows))
	for i, r := range rows {
		list[i] = AccessRule{r.ID, r.Verbs, r.Topic, r.Role, json.RawMessage(r.Claims)}
	}
	return list, nil
}

// Allow adds a rule and gives its number. Claims may be nil; what cannot be a rule has code
// invalid.
func (a *Access) Allow(ctx context.Context, r AccessRule) (int64, error) {
	arg := db.AccessAllowParams{Verbs: r.Verbs, Topic: r.Topic, Claims: "{}"}
	if r.Claims != nil {
		arg.Claims = string(r.Claims)
	}
	if r.Role != "" {
		arg.Role = &r.Role
	}
	id, err := a.queries.AccessAllow(ctx, arg)
	return id, a.done("add a rule", err)
}

// Forbid takes a rule away, and tells whether there was one.
func (a *Access) Forbid(ctx context.Context, id int64) (bool, error) {
	n, err := a.queries.AccessForbid(ctx, id)
	if err != nil {
		return false, unavailable("take a rule away", err)
	}
	return n > 0, nil
}

// Key is an API key as it is stored.
type Key struct {
	ID, Name      string
	Hash          []byte // SHA-256 of the whole key
	Verbs, Topics []string
	Claims        json.RawMessage
	Expires       time.Time // zero: never
	Revoked       bool
}

// Key reads an API key. The error has code not_found if there is none.
func (a *Access) Key(ctx context.Context, id string) (Key, error) {
	r, err := a.queries.KeyFind(ctx, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Key{}, &pgcast.Error{Code: pgcast.CodeNotFound, Message: "there is no such API key"}
	case err != nil:
		return Key{}, unavailable("read an API key", err)
	}
	k := Key{ID: r.ID, Name: r.Name, Hash: r.Hash, Verbs: r.Verbs, Topics: r.Topics, Claims: json.RawMessage(r.Claims), Revoked: r.Revoked}
	if r.Expires {
		k.Expires = r.ExpiresAt
	}
	return k, nil
}

// Used notes that an API key has just been used.
func (a *Access) Used(ctx context.Context, id string) error {
	return a.done("note that an API key was used", a.queries.KeyUsed(ctx, id))
}

// CreateKey makes an API key of a Key's name, verbs, topics, claims (may be nil) and expiry,
// and gives its text, which nobody can read again.
func (a *Access) CreateKey(ctx context.Context, k Key) (string, error) {
	arg := db.KeyCreateParams{Name: k.Name, Verbs: k.Verbs, Topics: k.Topics, Claims: "{}"}
	if k.Claims != nil {
		arg.Claims = string(k.Claims)
	}
	arg.ExpiresAt = pgtype.Timestamptz{Time: k.Expires, Valid: !k.Expires.IsZero()}
	text, err := a.queries.KeyCreate(ctx, arg)
	return text, a.done("make an API key", err)
}

// RevokeKey ends an API key, and tells whether there was one that counted.
func (a *Access) RevokeKey(ctx context.Context, id string) (bool, error) {
	done, err := a.queries.KeyRevoke(ctx, id)
	if err != nil {
		return false, unavailable("revoke an API key", err)
	}
	return done, nil
}

// IssueTicket keeps what is known of a caller, in JSON, under a ticket. Only the ticket's
// hash is stored.
func (a *Access) IssueTicket(ctx context.Context, ticket string, claims json.RawMessage, holds time.Duration) error {
	hash := sha256.Sum256([]byte(ticket))
	return a.done("keep a ticket", a.queries.TicketIssue(ctx, db.TicketIssueParams{Hash: hash[:], Claims: string(claims), Seconds: holds.Seconds()}))
}

// RedeemTicket gives what is kept under a ticket, and forgets it: of all who bring the same
// one, on whatever server, one is given it. The error has code unauthenticated if there is
// nothing.
func (a *Access) RedeemTicket(ctx context.Context, ticket string) (json.RawMessage, error) {
	hash := sha256.Sum256([]byte(ticket))
	claims, err := a.queries.TicketRedeem(ctx, hash[:])
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "the ticket is not valid, or was used already", Hint: "ask for a new one: POST /tickets"}
	case err != nil:
		return nil, unavailable("redeem a ticket", err)
	}
	return json.RawMessage(claims), nil
}
