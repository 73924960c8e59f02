package auth

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Chain tells who shows a credential of any kind.
type Chain struct {
	Tokens *Verifier // nil: tokens are not accepted
	Keys   *Keys     // nil: API keys are not accepted

	count *credentialMetrics
}

// NewChain makes a chain of either or both. registerer takes its metrics; nil: nobody does.
func NewChain(tokens *Verifier, keys *Keys, registerer prometheus.Registerer) *Chain {
	return &Chain{tokens, keys, newCredentialMetrics(registerer)}
}

// Authenticate verifies a token or an API key. Errors are *[pgcast.Error] with code
// unauthenticated or unavailable; they say nothing of the credential itself.
func (c *Chain) Authenticate(ctx context.Context, credential string) (*Claims, error) {
	claims, err := c.authenticate(ctx, credential)
	c.count.count(err)
	return claims, err
}

func (c *Chain) authenticate(ctx context.Context, credential string) (*Claims, error) {
	switch key := strings.HasPrefix(credential, KeyPrefix); {
	case credential == "":
		return nil, ErrUnauthenticated
	case key && c.Keys != nil:
		return c.Keys.Authenticate(ctx, credential)
	case key:
		return nil, errKey
	case c.Tokens != nil:
		return c.Tokens.Authenticate(ctx, credential)
	}
	return nil, unauthenticated("tokens are not accepted here", "show an API key")
}

// Run keeps what verifies up to date until ctx ends.
func (c *Chain) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if c.Tokens != nil {
		g.Go(func() error { return c.Tokens.Run(ctx) })
	}
	if c.Keys != nil {
		g.Go(func() error { return c.Keys.Run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		return ctx.Err()
	})
	return g.Wait()
}
