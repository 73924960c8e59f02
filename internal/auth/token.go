package auth

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pgcast/pgcast"
)

// MaxToken bounds what is looked at as a token or an API key, in bytes.
const MaxToken = 8 << 10

// MaxLeeway is the most that clocks may differ.
const MaxLeeway = time.Minute

// TokenOptions of a [Verifier]; the zero value of each field stands for its default.
type TokenOptions struct {
	// Secret is the key of tokens signed with HS256, HS384 or HS512, as SecretAlgorithm says;
	// default HS256. It has at least as many bytes as the hash.
	Secret, SecretAlgorithm string
	// Files are PEM files of public keys and certificates, as path or path=algorithm. Changes
	// are noticed within FilesEvery.
	Files []string
	// JWKSURL is where an identity provider publishes its keys: https, or http on this machine.
	JWKSURL string
	// Issuers and Audiences are those of which a token must have one; empty: any.
	Issuers, Audiences []string
	// Leeway is for how long a token is valid beside its exp and nbf, at most [MaxLeeway].
	Leeway time.Duration

	// FilesEvery is how often files are looked at; default 5 s.
	FilesEvery time.Duration
	// FetchEvery is how often the JWKS is fetched; default 10 min, and FetchPause at least.
	FetchEvery time.Duration
	// FetchPause is between two fetches, whoever wants them; default 10 s.
	FetchPause time.Duration
	// FetchTimeout bounds one fetch; default 5 s.
	FetchTimeout time.Duration
	// KeepFor is for how long keys serve that cannot be fetched again; default 24 h.
	KeepFor time.Duration
	// TLS is for fetching; default the system's.
	TLS *tls.Config
	// Registerer takes the metrics; nil: nobody does.
	Registerer prometheus.Registerer
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Verifier tells who shows a token: a JWT, signed with a key that it knows, with the
// algorithm of that key. What a token says about keys is not followed; its kid is compared,
// nothing else. It must have an exp.
type Verifier struct {
	opts      TokenOptions
	parser    *jwt.Parser
	validator *jwt.Validator
	secret    []key
	files     []*keyFile
	jwks      *jwks // nil: there is none
}

// NewVerifier makes a verifier. It reads the files; the JWKS is fetched by Run. Errors are
// *[pgcast.Error] with code invalid.
func NewVerifier(options *TokenOptions) (*Verifier, error) {
	v := &Verifier{}
	if options != nil {
		v.opts = *options
	}
	o := &v.opts
	setDefault(&o.FilesEvery, 5*time.Second)
	setDefault(&o.FetchEvery, 10*time.Minute)
	setDefault(&o.FetchPause, 10*time.Second)
	setDefault(&o.FetchTimeout, 5*time.Second)
	setDefault(&o.KeepFor, 24*time.Hour)
	o.FetchEvery = max(o.FetchEvery, o.FetchPause)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Leeway < 0 || o.Leeway > MaxLeeway {
		return nil, invalid(fmt.Sprintf("a leeway of %s", o.Leeway), fmt.Sprintf("give %s or less", MaxLeeway))
	}
	if o.Secret == "" && len(o.Files) == 0 && o.JWKSURL == "" {
		return nil, invalid("there are no keys to verify tokens with", "give a secret, files or the URL of a JWKS")
	}
	if o.Secret != "" {
		k, err := newSecret(o.Secret, o.SecretAlgorithm)
		if err != nil {
			return nil, invalid("the secret of tokens cannot be used: "+err.Error(), "")
		}
		v.secret = []key{k}
	}
	for _, name := range o.Files {
		f, err := openKeyFile(name, o.Logger)
		if err != nil {
			return nil, err
		}
		v.files = append(v.files, f)
	}
	if o.JWKSURL != "" {
		var err error
		if v.jwks, err = newJWKS(o); err != nil {
			return nil, err
		}
	}
	// The claims are not validated by the parser, which would read them before it verifies.
	v.parser = jwt.NewParser(jwt.WithValidMethods(Algorithms), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation())
	checks := []jwt.ParserOption{jwt.WithLeeway(o.Leeway), jwt.WithExpirationRequired(), jwt.WithIssuedAt()}
	if len(o.Audiences) > 0 {
		checks = append(checks, jwt.WithAudience(o.Audiences...))
	}
	v.validator = jwt.NewValidator(checks...)
	return v, nil
}

// Run notices changes of keys until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if len(v.files) > 0 {
		g.Go(func() error { return v.watch(ctx) })
	}
	if v.jwks != nil {
		g.Go(func() error { return v.jwks.run(ctx) })
	}
	g.Go(func() error {
		<-ctx.Done()
		return ctx.Err()
	})
	return g.Wait()
}

// Authenticate verifies a token. Errors are *[pgcast.Error] with code unauthenticated, or
// unavailable where the key cannot be fetched now.
func (v *Verifier) Authenticate(ctx context.Context, token string) (*Claims, error) {
	// Before anything else, so that what is far too long costs nothing.
	if len(token) > MaxToken {
		return nil, unauthenticated("this is too long for a token", fmt.Sprintf("at most %d bytes", MaxToken))
	}
	// Decoders pass over newlines, so that one token could be written in many ways.
	if strings.IndexFunc(token, foreign) >= 0 {
		return nil, errNoToken
	}
	p, h, err := v.verify(token)
	if err == errSignature && v.jwks != nil && h.mayBeNew() {
		// The key may have been published since.
		if err := v.jwks.renew(ctx); err != nil {
			return nil, err
		}
		p, _, err = v.verify(token)
	}
	if err != nil {
		return nil, err
	}
	return v.accept(p)
}

// foreign tells whether a letter cannot be in a token.
func foreign(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
}

// head is what the header of a token says.
type head struct {
	algorithm, kid string
	known          bool // there is a key with that kid and algorithm
}

// mayBeNew tells whether the token may be signed with a key that is not known yet.
func (h *head) mayBeNew() bool {
	return h.algorithm != "" && !strings.HasPrefix(h.algorithm, "HS") && !h.known
}

var (
	errSignature = unauthenticated("the token is not signed with a key that is known here", "")
	errNoToken   = unauthenticated("this is not a token", "a JWT is needed: three parts in base64url, with points in between")
	errExpired   = unauthenticated("the token has expired", "get a new one")
	errEarly     = unauthenticated("the token is not valid yet", "are the clocks right? jwt-leeway allows for a difference")
	errForOthers = unauthenticated("the token is from another issuer or for another audience", "")
	errHeader    = unauthenticated("the token's header says what is not understood here", "")
)

// verify checks the signature.
func (v *Verifier) verify(token string) (*payload, *head, error) {
	p, h := &payload{}, &head{}
	_, err := v.parser.ParseWithClaims(token, p, func(t *jwt.Token) (any, error) {
		if err := h.read(t); err != nil {
			return nil, err
		}
		var set jwt.VerificationKeySet
		for _, k := range v.keys() {
			// A key without a name may be meant by any.
			if k.algorithm == h.algorithm && (k.id == h.kid || k.id == "" || h.kid == "") {
				set.Keys = append(set.Keys, k.public)
				h.known = h.known || k.id == h.kid && k.id != ""
			}
		}
		return set, nil
	})
	switch {
	case err == nil:
		return p, h, nil
	case errors.Is(err, errHeader):
		return nil, h, errHeader
	case errors.Is(err, jwt.ErrTokenMalformed):
		return nil, h, errNoToken
	}
	return nil, h, errSignature
}

// keys gives all that are known now.
func (v *Verifier) keys() []key {
	all := slices.Clip(v.secret)
	for _, f := range v.files {
		all = append(all, *f.keys.Load()...)
	}
	if v.jwks != nil {
		all = append(all, v.jwks.known()...)
	}
	return all
}

// types are those of tokens that say who somebody is. Others that the same key signs, such
// as logout tokens, do not (RFC 8725 3.11).
var types = []string{"jwt", "at+jwt"}

// read reads a header again, more strictly than the parser does.
func (h *head) read(t *jwt.Token) error {
	text, _, _ := strings.Cut(t.Raw, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return errHeader
	}
	members, err := readObject(raw)
	if err != nil {
		return errHeader
	}
	p := payload{members: members}
	if _, ok := members["crit"]; ok {
		return errHeader // we know no extension, and it says that one must be known
	}
	typ, err := p.text("typ")
	if typ = strings.TrimPrefix(strings.ToLower(typ), "application/"); err != nil || typ != "" && !slices.Contains(types, typ) {
		return errHeader
	}
	if h.kid, err = p.text("kid"); err != nil {
		return errHeader
	}
	h.algorithm = t.Method.Alg()
	return nil
}

// accept checks the claims of a token whose signature is good.
func (v *Verifier) accept(p *payload) (*Claims, error) {
	if err := p.read(); err != nil {
		return nil, unauthenticated("the token's claims cannot be read: "+err.Error(), "")
	}
	iss, err := p.GetIssuer()
	if err == nil {
		err = v.validator.Validate(p)
	}
	switch {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, errExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return nil, errEarly
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing) && p.members["exp"] == nil:
		return nil, unauthenticated("the token has no exp", "tokens must expire")
	case errors.Is(err, jwt.ErrTokenInvalidAudience), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return nil, errForOthers
	default:
		return nil, unauthenticated("the token's claims cannot be read: "+err.Error(), "")
	}
	if len(v.opts.Issuers) > 0 && !slices.Contains(v.opts.Issuers, iss) {
		return nil, errForOthers
	}
	c, err := NewClaims(FromToken, p.raw)
	if err != nil {
		return nil, unauthenticated(err.Error(), "")
	}
	now := time.Now()
	exp, _ := p.GetExpirationTime() // it was read before
	c.Expires = exp.Add(v.opts.Leeway)
	if iat, _ := p.GetIssuedAt(); iat != nil {
		// A clock that goes ahead, within the leeway, does not put it out of reach of what is
		// revoked now.
		if c.Issued = iat.Time; c.Issued.After(now) {
			c.Issued = now
		}
	}
	if c.Subject, err = p.GetSubject(); err == nil {
		c.TokenID, err = p.text("jti")
	}
	if err == nil {
		_, err = p.GetAudience()
	}
	if err != nil {
		return nil, unauthenticated("the token's claims cannot be read: "+err.Error(), "")
	}
	return c, nil
}

func unauthenticated(message, hint string) *pgcast.Error {
	return &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: message, Hint: hint}
}

func invalid(message, hint string) *pgcast.Error {
	return &pgcast.Error{Code: pgcast.CodeInvalid, Message: message, Hint: hint}
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
