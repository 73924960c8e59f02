package server

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgcast/pgcast/internal/auth"
)

// newAuthenticator makes what tells who callers are. Somebody has to run it. Errors are
// *[pgcast.Error] with code invalid, and say what to set.
func newAuthenticator(o *AccessOptions, keys auth.KeyStore, registerer prometheus.Registerer, log *slog.Logger) (*auth.Chain, error) {
	known := o.Secret != "" || len(o.KeyFiles) > 0 || o.JWKSURL != ""
	if !known && o.Anonymous == nil {
		log.Warn("access: nothing says whose tokens count; only API keys are let in (set jwt-secret, jwt-key-files or jwks-url for others)")
	}
	if o.JWKSURL != "" && (len(o.Issuers) == 0 || len(o.Audiences) == 0) {
		log.Warn("access: tokens that the identity provider signs for other apps count here, too (set jwt-issuer and jwt-audience)")
	}
	var tokens *auth.Verifier
	if known {
		var err error
		tokens, err = auth.NewVerifier(&auth.TokenOptions{Secret: o.Secret, SecretAlgorithm: o.SecretAlgorithm, Files: o.KeyFiles,
			JWKSURL: o.JWKSURL, Issuers: o.Issuers, Audiences: o.Audiences, Leeway: o.Leeway, Registerer: registerer, Logger: log})
		if err != nil {
			return nil, err
		}
	}
	return auth.NewChain(tokens, auth.NewKeys(keys, &auth.KeysOptions{TTL: o.DecisionTTL, Logger: log}), registerer), nil
}
