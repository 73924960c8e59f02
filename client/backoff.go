package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/wire"
)

// maxHint bounds the pause a server can ask for.
const maxHint = time.Minute

// backoff gives pauses that double, each cut by a random part so that the clients of a
// server that went away do not come back all at once.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// after gives the pause after a connection that ended with err.
func (b *backoff) after(err error) time.Duration {
	var hint *hintError
	if errors.As(err, &hint) {
		if hint.slow {
			b.next = b.max
		} else {
			return min(hint.wait, maxHint)
		}
	}
	b.next = min(max(b.next, b.min), b.max)
	wait := b.next/2 + rand.N(b.next/2+1)
	b.next *= 2
	return wait
}

// hintError is the end of a connection that says when to come back.
type hintError struct {
	error
	wait time.Duration
	slow bool // as late as we ever do, whatever wait says
}

func (e *hintError) Unwrap() error { return e.error }

// handshakeError says what the refusal of a handshake means.
func handshakeError(target string, resp *http.Response, err error) error {
	err = fmt.Errorf("connect to %s: %w", target, err)
	if resp == nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return refusedHandshake(resp, err)
	case http.StatusTooManyRequests:
		return &hintError{error: err, slow: true}
	}
	if s, perr := strconv.Atoi(resp.Header.Get("Retry-After")); perr == nil && s > 0 {
		// All refused clients are told the same.
		wait := time.Duration(s) * time.Second
		return &hintError{error: err, wait: wait/2 + rand.N(wait)}
	}
	return err
}

// closeError says what the end of a connection means.
func closeError(err error) error {
	var ce websocket.CloseError
	if !errors.As(err, &ce) {
		return err
	}
	switch int(ce.Code) {
	case wire.ClosePolicy, wire.CloseUnauthenticated, wire.CloseForbidden:
		return &RefusedError{int(ce.Code), ce.Reason}
	case wire.CloseThrottled:
		return &hintError{error: err, slow: true}
	case wire.CloseGoingAway:
		text, ok := strings.CutPrefix(ce.Reason, "retry=")
		if ms, perr := strconv.ParseUint(text, 10, 31); ok && perr == nil {
			return &hintError{error: err, wait: time.Duration(ms) * time.Millisecond}
		}
	}
	return err
}
