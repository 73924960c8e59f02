package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// statuses are the HTTP statuses of what can go wrong; others are 400.
var statuses = map[pgcast.Code]int{
	pgcast.CodeForbidden:       http.StatusForbidden,
	pgcast.CodeUnauthenticated: http.StatusUnauthorized,
	pgcast.CodeNotFound:        http.StatusNotFound,
	pgcast.CodeReset:           http.StatusGone,
	pgcast.CodeTooLarge:        http.StatusRequestEntityTooLarge,
	pgcast.CodeUnsupported:     http.StatusUnsupportedMediaType,
	pgcast.CodeInternal:        http.StatusInternalServerError,
	pgcast.CodeUnavailable:     http.StatusServiceUnavailable,
	pgcast.CodeRateLimited:     http.StatusTooManyRequests,
}

// problem is the body of an answer that says no.
type problem struct {
	Error struct {
		Code       pgcast.Code `json:"code"`
		Message    string      `json:"message"`
		Hint       string      `json:"hint,omitempty"`
		RetryAfter int64       `json:"retry_after,omitempty"` // milliseconds
	} `json:"error"`
	Head *int64 `json:"head,omitempty"` // where to go on after, of a reset
}

// refuse answers a request with an error.
func (g *Gateway) refuse(w http.ResponseWriter, err error) { g.refuseAt(w, err, nil) }

func (g *Gateway) refuseAt(w http.ResponseWriter, err error, head *int64) {
	e := g.explain(err)
	p := problem{Head: head}
	p.Error.Code, p.Error.Message, p.Error.Hint, p.Error.RetryAfter = e.Code, e.Message, e.Hint, e.RetryAfter.Milliseconds()
	status := statuses[e.Code]
	if status == 0 {
		status = http.StatusBadRequest
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challenge(err))
	}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter(e))
	}
	text, _ := json.Marshal(p) // strings and numbers always can be
	g.answer(w, status, text)
}

// An answer goes out in pieces, each with the write timeout's time to be taken: a slow
// reader is not cut off, one that takes nothing is.
const (
	pieceBytes = 64 << 10
	largeBytes = 2 * wire.MaxServerFrame
	largeRate  = 256 << 10 // bytes a second at which an answer that holds a place among the large ones is to be taken
)

// answer sends a JSON text.
func (g *Gateway) answer(w http.ResponseWriter, status int, text []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	c := http.NewResponseController(w)
	until := time.Time{}
	if len(text) > largeBytes {
		until = time.Now().Add(g.opts.WriteTimeout + time.Duration(len(text)/largeRate)*time.Second)
	}
	for piece := range slices.Chunk(text, pieceBytes) {
		deadline := time.Now().Add(g.opts.WriteTimeout)
		if !until.IsZero() && until.Before(deadline) {
			deadline = until
		}
		_ = c.SetWriteDeadline(deadline)
		if _, err := w.Write(piece); err != nil {
			return // a client that has gone needs no answer
		}
	}
	if c.Flush() == nil {
		_ = c.SetWriteDeadline(time.Time{}) // the next answer on the connection has its own
	}
}

var errTooLarge = &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "other answers of this size are still on their way", Hint: "come back in a moment"}

// answerEvents sends an answer that is in memory until its reader has taken it. Those with
// one event larger than a frame have no bound, so that there may be only a few.
func (g *Gateway) answerEvents(w http.ResponseWriter, text []byte) {
	if len(text) > largeBytes {
		select {
		case g.large <- struct{}{}:
			defer func() { <-g.large }()
		default:
			g.refuse(w, errTooLarge)
			return
		}
	}
	g.answer(w, http.StatusOK, text)
}

// parameters gives a request's query, of which only the named ones may be there, each
// once unless it is many.
func parameters(r *http.Request, many string, names ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("the query cannot be read: %v", err)}
	}
	all, hint := append([]string(nil), names...), "there are none"
	if many != "" {
		all = append(all, many)
	}
	if len(all) > 0 {
		hint = "there are " + strings.Join(all, ", ")
	}
	for name, values := range q {
		switch {
		case name == many && name != "":
		case !slices.Contains(names, name):
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("there is no parameter %.40q", name),
				Hint: hint}
		case len(values) > 1:
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s stands twice", name)}
		}
	}
	return q, nil
}

// place reads a seq or position: a whole number in plain digits, as in frames.
func place(name, s string) (*int64, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || s[0] == '+' {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s is %.40q; it must be a whole number, 0 or more, in plain digits", name, s)}
	}
	return &n, nil
}

// amount reads a number from low on; more than high counts as high.
func amount(name, s string, absent, low, high int) (int, error) {
	if s == "" {
		return absent, nil
	}
	n, err := place(name, s)
	if err != nil {
		return 0, err
	}
	if *n < int64(low) {
		return 0, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s is %d; %d is the least", name, *n, low)}
	}
	return int(min(*n, int64(high))), nil
}

// identifier reads an event's id.
func identifier(s string) (pgcast.ID, error) {
	for i := range len(s) {
		if c := s[i]; i >= wire.MaxID || c <= ' ' || c > '~' || c == ',' || c == '@' {
			return "", &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%.80q is not an event's id", s),
				Hint: "send back the id an event came with"}
		}
	}
	return pgcast.ID(s), nil
}
