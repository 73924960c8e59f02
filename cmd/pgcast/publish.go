package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/replay"
)

func (a *app) publishCommand() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:     "publish TOPIC EVENT [JSON | -]",
		GroupID: groupData,
		Short:   "Add an event to a topic",
		Long: `Add an event to a topic, and print its id. It is written to the database, as any
other event, so no server needs to run.

With --key the same topic and key again, within 24 hours, adds nothing and prints the
first event's id: a script may be run twice.`,
		Example: `  pgcast publish room:1 typing '{"by": "ann"}'
  pgcast publish deploys finished --key "$CI_JOB_ID" < report.json -`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			data := ""
			if len(args) == 3 {
				var err error
				if data, err = a.readArgument(args[2]); err != nil {
					return err
				}
			}
			if key == "" && cmd.Flags().Changed("key") { // as of an unset variable in a script
				return usage(invalid("leave it out to publish at every call", "--key is empty"))
			}
			return a.publish(cmd.Context(), args[0], args[1], data, key)
		},
	}
	addSettings(cmd.Flags(), forDatabase)
	cmd.Flags().StringVar(&key, "key", "", "idempotency `key`: publish once, however often this runs")
	return cmd
}

func (a *app) publish(ctx context.Context, topic, event, data, key string) error {
	if err := pgcast.CheckTopic(topic); err != nil {
		return usage(err)
	}
	if err := pgcast.CheckEventName(event); err != nil {
		return usage(err)
	}
	var payload json.RawMessage
	if strings.TrimSpace(data) != "" {
		var any json.RawMessage
		if err := json.Unmarshal([]byte(data), &any); err != nil {
			return usage(invalid(`quote it for the shell: '{"by": "ann"}'; a text is '"hello"'`, "the data is not JSON: %v", err))
		}
		payload = json.RawMessage(data)
	}
	pool, err := a.connectPool(ctx, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	id, err := replay.NewLog(pool, nil).Publish(ctx, topic, event, payload, key)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, id)
	return err
}
