package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/wire"
)

// StaticToken is for [Options.Token]: the same token, or API key, each time.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// maxHelloToken bounds a token in a hello frame, which a server that does not know us yet
// reads only if it is short. A longer one goes with the handshake.
const maxHelloToken = 3 << 10

// maxLapses is how often in a row a token may have expired when it is shown. A clock may be
// wrong, or a token kept for too long, but not for ever.
const maxLapses = 3

// token asks the app for a token; without Options.Token there is none.
func (c *Client) token(ctx context.Context) (string, error) {
	if c.opts.Token == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	token, err := c.opts.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("get a token: %w", err)
	}
	return token, nil
}

// split gives what of a token goes into the hello frame, and the header of the handshake,
// where it goes otherwise.
func (c *Client) split(token string) (hello string, header http.Header) {
	if len(token) <= maxHelloToken {
		return token, c.opts.Header
	}
	if header = c.opts.Header.Clone(); header == nil {
		header = http.Header{}
	}
	header.Set("Authorization", "Bearer "+token)
	return "", header
}

// lapsed tells whether a refusal says only that the token has expired, so that it is worth
// to come back with a new one.
func (c *Client) lapsed(refused *RefusedError) bool {
	if c.opts.Token == nil || refused.Code != wire.CloseUnauthenticated && refused.Code != http.StatusUnauthorized ||
		!strings.Contains(refused.Reason, wire.ReasonExpired) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.welcome {
		c.lapses++
	}
	return c.lapses <= maxLapses
}

// renewals shows the server a new token whenever it says that the old one expires soon,
// until the connection ends.
func (c *Client) renewals(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.expiring:
			c.renew(ctx)
		}
	}
}

// renew shows the server a new token. If that cannot be done before the old one expires, the
// connection ends, and the next one begins with a new one.
func (c *Client) renew(ctx context.Context) {
	pause := backoff{min: c.opts.MinBackoff, max: c.opts.MaxBackoff}
	for {
		token, err := c.token(ctx)
		if err == nil {
			_, err = c.call(ctx, &call{frame: wire.Frame{Type: wire.Auth, Token: token}})
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		var refused *RefusedError
		wait := pause.after(err)
		c.opts.Logger.Warn("pgcast client: the token expires and there is no new one", "error", err, "retry", wait)
		switch {
		case errors.As(err, &refused):
			return // the app has no other: the connection lasts as long as the old one
		case errors.Is(err, pgcast.ErrForbidden), errors.Is(err, &pgcast.Error{Code: pgcast.CodeUnsupported}):
			return // it may do for a new connection
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// refusedHandshake gives what a server that refuses a handshake says about it.
func refusedHandshake(resp *http.Response, err error) *RefusedError {
	var said struct {
		Error struct{ Message string } `json:"error"`
	}
	reason := err.Error()
	// The library has read the beginning, which is all there is of a message.
	if json.NewDecoder(resp.Body).Decode(&said) == nil && said.Error.Message != "" {
		reason = said.Error.Message
	}
	return &RefusedError{resp.StatusCode, reason}
}
