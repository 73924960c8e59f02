package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) configCommand() *cobra.Command {
	var asJSON, reference bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show what is in force, and where each value comes from",
		Long: `Show every setting, its value and where the value comes from. Passwords are hidden.

A setting can be given in four ways; the first one found counts:
  1. a flag                   --max-frame 1MiB
  2. an environment variable  PGCAST_MAX_FRAME=1MiB (an empty one counts as not set)
  3. the settings file        max-frame: 1MiB, in ./pgcast.yaml or the file named by
                              --config or PGCAST_CONFIG
  4. its default`,
		Example: `  pgcast config
  pgcast config --json | jq -r '.[] | select(.from != "default") | .name'
  pgcast config --reference > settings.md`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if reference {
				return a.printReference()
			}
			return a.printConfig(asJSON)
		},
	}
	addSettings(cmd.Flags(), forAny)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array")
	cmd.Flags().BoolVar(&reference, "reference", false, "list all settings with their defaults, as a table in Markdown")
	return cmd
}

func (a *app) printConfig(asJSON bool) error {
	if a.set.DatabaseURL == "" {
		if dev, err := runningDev(a.set.DataDir); err == nil && dev != nil {
			a.set.texts["database-url"] = dev.DatabaseURL
			a.set.from["database-url"] = "running pgcast dev"
		}
	}
	type line struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		From  string `json:"from"`
	}
	var lines []line
	for _, s := range allSettings {
		value := a.set.texts[s.name]
		if s.secret {
			value = shown(s, value)
		}
		lines = append(lines, line{s.name, value, a.set.from[s.name]})
	}
	if asJSON {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(lines); err != nil {
			return err
		}
	} else {
		t := a.newTable([]string{"setting", "value", "from"})
		for _, l := range lines {
			t.add(l.Name, l.Value, l.From)
		}
		if err := t.close(); err != nil {
			return err
		}
	}
	return a.set.check()
}

// shown is what may be shown of a secret setting.
func shown(s setting, value string) string {
	switch {
	case s.kind == "url":
		return redact(value)
	case value == "":
		return ""
	}
	return "(hidden)"
}

// printReference writes the table that the docs show.
func (a *app) printReference() error {
	var b strings.Builder
	b.WriteString("| Setting | Environment | Default | |\n| --- | --- | --- | --- |\n")
	for _, s := range allSettings {
		value := s.value
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s |\n", s.name, envName(s.name), value, strings.ReplaceAll(s.help, "|", `\|`))
	}
	_, err := fmt.Fprint(a.out, b.String())
	return err
}

// check refuses settings that do not go together.
func (s *settings) check() error {
	if err := s.checkOpen(); err != nil {
		return err
	}
	if err := s.checkDatabase(); err != nil {
		return err
	}
	if err := s.checkRedis(); err != nil {
		return err
	}
	return s.checkHeartbeat()
}

// checkHeartbeat makes sure that a server says that it lives before it counts as dead, also
// when one heartbeat is lost. A heartbeat that was not given follows the TTL.
func (s *settings) checkHeartbeat() error {
	ttl, beat := s.Live.PresenceTTL, &s.Live.PresenceBeat
	switch {
	case *beat <= ttl/2:
	case !s.given("presence-heartbeat"):
		*beat = ttl / 3
	default:
		return usage(invalid("set presence-heartbeat to a third of presence-ttl, or leave it out",
			"presence-heartbeat %s (%s) is more than half of presence-ttl %s: users would come and go", *beat, s.from["presence-heartbeat"], ttl))
	}
	return nil
}
