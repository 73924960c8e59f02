package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/replay"
)

// withAccess does something with who may do what, as the database has it; no server needs to
// run.
func (a *app) withAccess(ctx context.Context, do func(*replay.Access) error) error {
	pool, err := a.connectPool(ctx, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	return do(replay.NewAccess(pool, nil))
}

func (a *app) rulesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "rules",
		GroupID: groupAccess,
		Short:   "List the rules of who may do what",
		Long: `List the rules of who may do what. What no rule allows is refused, by servers that
have access control; and no rule forbids. Add one with pgcast allow.`,
		Example: `  pgcast rules
  pgcast rules --json | jq -r .topic
  pgcast rules delete 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				list, err := access.Rules(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printLines(a, list)
				}
				t := a.newTable([]string{"id", "verbs", "topic", "role", "claims"})
				for _, r := range list {
					t.add(strconv.FormatInt(r.ID, 10), strings.Join(r.Verbs, ","), r.Topic, r.Role, strings.TrimPrefix(string(r.Claims), "{}"))
				}
				return t.close()
			})
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object per line")
	remove := &cobra.Command{
		Use:     "delete ID",
		Short:   "Take a rule away",
		Long:    "Take a rule away. What is live by it alone ends at once, on all servers.",
		Example: "  pgcast rules delete 7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usage(invalid("see pgcast rules", "%q is not the number of a rule", args[0]))
			}
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				switch found, err := access.Forbid(cmd.Context(), id); {
				case err != nil:
					return err
				case !found:
					return invalid("see pgcast rules", "there is no rule %d", id)
				}
				return nil
			})
		},
	}
	addSettings(remove.Flags(), forDatabase)
	cmd.AddCommand(remove)
	return cmd
}

func (a *app) allowCommand() *cobra.Command {
	r := replay.AccessRule{}
	var claims string
	cmd := &cobra.Command{
		Use:     "allow VERB[,VERB…] TOPIC",
		GroupID: groupAccess,
		Short:   "Add a rule of who may do what",
		Long: `Add a rule, and print its number. Verbs are connect, subscribe, history, snapshot,
publish, presence, cursor and group. The topic may be a pattern, with claims in braces:
user:{sub}, org:{org_id}:**. It counts at once, on all servers.`,
		Example: `  pgcast allow subscribe,history,presence 'room:*'
  pgcast allow subscribe,history 'user:{sub}:**'
  pgcast allow publish news --role editor
  pgcast allow subscribe 'org:{org_id}:**' --claims '{"plan": "pro"}'`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Verbs, r.Topic, r.Claims = strings.Split(args[0], ","), args[1], json.RawMessage(claims)
			if !json.Valid(r.Claims) {
				return usage(invalid(`quote it for the shell: --claims '{"plan": "pro"}'`, "the claims are not JSON"))
			}
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				id, err := access.Allow(cmd.Context(), r)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(a.out, id)
				return err
			})
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().StringVar(&r.Role, "role", "", "only to those with this `role`")
	cmd.Flags().StringVar(&claims, "claims", "{}", "only to those whose claims contain these, a `JSON` object")
	return cmd
}

func (a *app) revokeCommand() *cobra.Command {
	var holds time.Duration
	kinds := []auth.RevokedBy{auth.BySubject, auth.ByTokenID, auth.BySession}
	values := make([]string, len(kinds))
	cmd := &cobra.Command{
		Use:     "revoke (--sub SUB | --jti JTI | --session KEY)",
		GroupID: groupAccess,
		Short:   "Have tokens refused, and end what is live by them",
		Long: `Have all servers refuse, from now on, the tokens that were issued to a sub until now,
one token by its jti, or a session. What is live of them ends within a second.

--for is for how long it holds: as long as tokens live. API keys are revoked with
pgcast keys revoke.`,
		Example: `  pgcast revoke --sub ann
  pgcast revoke --jti 5f2b --for 24h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var kind auth.RevokedBy
			var value string
			n := 0
			for i, v := range values {
				if v != "" {
					kind, value = kinds[i], v
					n++
				}
			}
			if n != 1 {
				return usage(invalid("give one of --sub, --jti and --session", "it is not said what is to be revoked"))
			}
			return a.withAccess(cmd.Context(), func(access *replay.Access) error {
				return access.Revoke(cmd.Context(), string(kind), value, holds)
			})
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	for i, kind := range kinds {
		cmd.Flags().StringVar(&values[i], string(kind), "", "the `"+string(kind)+"` to revoke")
	}
	cmd.Flags().DurationVar(&holds, "for", 30*24*time.Hour, "`duration` for which it holds")
	return cmd
}
