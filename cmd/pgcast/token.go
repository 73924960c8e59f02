package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/auth"
)

func (a *app) tokenCommand() *cobra.Command {
	var valid time.Duration
	cmd := &cobra.Command{
		Use:     "token CLAIMS",
		GroupID: groupAccess,
		Short:   "Sign a token to try with",
		Long: `Sign a token with these claims, a JSON object, and print it.

It is signed with jwt-secret, as a server with the same secret expects it, and names the
first of jwt-issuer and of jwt-audience unless the claims do. For trying things out, and
for scripts on machines that know the secret anyway: in production tokens come from your
identity provider.`,
		Example: `  PGCAST_JWT_SECRET=$(openssl rand -hex 32) pgcast token '{"sub":"ann"}'
  curl -H "Authorization: Bearer $(pgcast token '{"sub":"ann","role":"admin"}' --for 10m)" …`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, args []string) error {
			token, err := a.token(args[0], valid)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.out, token)
			return err
		},
	}
	addSettings(cmd.Flags(), forToken)
	cmd.Flags().DurationVar(&valid, "for", time.Hour, "how long it is `valid`")
	return cmd
}

func (a *app) token(claims string, valid time.Duration) (string, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(claims), &all); err != nil || all == nil {
		return "", usage(invalid(`quote it for the shell: '{"sub":"ann"}'`, "the claims are not a JSON object"))
	}
	if valid <= 0 {
		return "", usage(invalid("write how long it is valid, as 10m", "--for is %s", valid))
	}
	o := a.set.Access
	if o.Secret == "" {
		return "", usage(invalid("set PGCAST_JWT_SECRET to what the server has; your identity provider signs with keys of its own", "there is no secret to sign with"))
	}
	for name, choices := range map[string][]string{"iss": o.Issuers, "aud": o.Audiences} {
		if _, given := all[name]; !given && len(choices) > 0 {
			all[name], _ = json.Marshal(choices[0]) // a string always can be
		}
	}
	object, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	return auth.Sign([]byte(o.Secret), o.SecretAlgorithm, object, time.Now(), valid)
}
