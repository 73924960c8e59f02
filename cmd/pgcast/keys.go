package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/replay"
)

func (a *app) keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "keys",
		GroupID: groupAccess,
		Short:   "Make, list and revoke API keys",
		Long: `Make, list and revoke the API keys of backends. A key may do what its verbs and
topics say, whatever the rules; only its hash is stored.`,
		Example: `  pgcast keys create billing publish 'invoice:**'
  pgcast keys list
  pgcast keys revoke 1f3a5c7e9b2d4f60`,
		Args: needsCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.createKeyCommand(), a.listKeysCommand(), a.revokeKeyCommand())
	return cmd
}

func (a *app) createKeyCommand() *cobra.Command {
	var claims string
	var holds time.Duration
	cmd := &cobra.Command{
		Use:   "create NAME VERB[,VERB…] TOPIC…",
		Short: "Make an API key, and print it, this once",
		Example: `  pgcast keys create billing publish 'invoice:**'
  pgcast keys create reporting subscribe,history,snapshot '**' --for 720h`,
		Args: cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			k := replay.Key{Name: args[0], Verbs: strings.Split(args[1], ","), Topics: args[2:], Claims: json.RawMessage(claims)}
			if !json.Valid(k.Claims) {
				return usage(invalid(`quote it for the shell: --claims '{"team": 7}'`, "the claims are not JSON"))
			}
			if holds < 0 {
				return usage(invalid("write after how long it expires, as 720h, or leave it out", "--for is %s", holds))
			}
			if holds > 0 {
				k.Expires = time.Now().Add(holds)
			}
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				text, err := access.CreateKey(cmd.Context(), k)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.out, text)
				return err
			})
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().StringVar(&claims, "claims", "{}", "claims it has besides, for row rules, a `JSON` object")
	cmd.Flags().DurationVar(&holds, "for", 0, "`duration` after which it expires (default never)")
	return cmd
}

// keyRow is one line of the list.
type keyRow struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Verbs      []string   `json:"verbs"`
	Topics     []string   `json:"topics"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
	LastUsedAt *time.Time `json:"last_used_at"`
}

func (a *app) listKeysCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the API keys",
		Example: "  pgcast keys list",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.listKeys(cmd.Context(), asJSON) },
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	return cmd
}

func (a *app) listKeys(ctx context.Context, asJSON bool) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	list, err := collect[keyRow](ctx, conn, `select id, name, verbs, topics, created_at, expires_at, revoked_at, last_used_at from pgcast.api_key order by created_at`)
	if err != nil {
		return err
	}
	if asJSON {
		return printLines(a, list)
	}
	t := a.newTable([]string{"id", "name", "verbs", "topics", "last used", "state"})
	for _, k := range list {
		used := "never"
		if k.LastUsedAt != nil {
			used = k.LastUsedAt.UTC().Format(time.RFC3339)
		}
		t.add(k.ID, k.Name, strings.Join(k.Verbs, ","), strings.Join(k.Topics, ","), used, k.state())
	}
	return t.close()
}

func (k *keyRow) state() string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt == nil:
		return "valid"
	case time.Now().After(*k.ExpiresAt):
		return "expired"
	}
	return "valid until " + k.ExpiresAt.UTC().Format(time.RFC3339)
}

func (a *app) revokeKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Have an API key refused, and end what is live by it",
		Example: "  pgcast keys revoke 1f3a5c7e9b2d4f60",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				switch done, err := access.RevokeKey(cmd.Context(), args[0]); {
				case err != nil:
					return err
				case !done:
					return invalid("see pgcast keys list; the id is the part of the key between the underscores", "there is no such API key that counts")
				}
				return nil
			})
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	return cmd
}
