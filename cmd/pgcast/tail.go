package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
	"github.com/pgcast/pgcast/internal/wire"
)

func (a *app) tailCommand() *cobra.Command {
	t := &tail{app: a}
	cmd := &cobra.Command{
		Use:     "tail [PATTERN]",
		GroupID: groupData,
		Short:   "Show events as they come",
		Long: `Show the events of a topic, or of all topics that a pattern selects, as they come.

In a pattern * stands for one segment of the name, a last ** for any rest; without one
all topics are shown. Quote patterns for the shell. It goes on through restarts of the
server, and Ctrl-C says how to go on later from the same place.

The server is that of --url, or of the pgcast dev running here, or the one at --listen.`,
		Example: `  pgcast tail 'room:*'
  pgcast tail room:1 --after 0
  pgcast tail --json | jq -c '[.topic, .seq]'
  pgcast tail --url wss://live.example.com/ws`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			t.pattern = "**"
			if len(args) == 1 {
				t.pattern = args[0]
			}
			t.resumes = cmd.Flags().Changed("after")
			for _, name := range []string{"config", "data-dir", "listen", "url"} {
				if f := cmd.Flags().Lookup(name); f.Changed {
					t.where = append(t.where, "--"+name, quote(f.Value.String()))
				}
			}
			return t.run(cmd.Context())
		},
	}
	addSettings(cmd.Flags(), forTail)
	f := cmd.Flags()
	f.Int64Var(&t.from.After, "after", 0, "begin after this `place`: a topic's seq, or a pattern's position; 0 is the very beginning (default: only what is new)")
	f.StringVar((*string)(&t.from.ID), "id", "", "`id` of the event at that place, so that a restored database is noticed")
	f.BoolVar(&t.json, "json", false, "one JSON object per event, as on the wire")
	f.StringVar(&t.url, "url", "", "`address` of the server, as ws://localhost:8080/ws")
	return cmd
}

// tail is one run of the command.
type tail struct {
	*app
	pattern string
	url     string
	where   []string // the flags that led to the server
	json    bool
	resumes bool
	from    client.From // where to go on, now

	paint paint
	known bool // from is a place
}

func (t *tail) run(ctx context.Context) error {
	if _, err := pgcast.ParsePattern(t.pattern); err != nil {
		return usage(err)
	}
	if t.from.After < 0 || t.from.ID != "" && !t.resumes {
		return usage(invalid("as in --after 41 --id 2a-60f1; Ctrl-C prints both", "--after must be a place, and --id goes with it"))
	}
	if err := t.findServer(ctx); err != nil {
		return err
	}
	t.paint = t.app.paint(t.out)
	o := &client.Options{Logger: t.logger(slog.LevelWarn)}
	if t.set.Token != "" {
		o.Token = client.StaticToken(t.set.Token)
	}
	c := client.New(t.url, o)
	var from *client.From
	if t.known = t.resumes; t.known {
		from = &client.From{After: t.from.After, ID: t.from.ID}
	}
	if err := c.Subscribe(t.pattern, from); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	err := t.show(c.Items(ctx))
	cancel()
	if end := <-ran; !isCanceled(end) {
		err = end // what the server refused us for
	}
	if t.known {
		t.sayf("\nto go on from here: %s\n", t.resume())
	}
	if isCanceled(err) {
		return nil
	}
	var refused *client.RefusedError
	if errors.As(err, &refused) {
		return invalid("is "+t.url+" a pgcast server that lets you in?", "%s", refused)
	}
	return err
}

// findServer settles on the server, and sees whether anybody is there: to try again for
// ever is right for a server that goes away, not for one that was never there.
func (t *tail) findServer(ctx context.Context) error {
	if t.url == "" && !t.set.given("listen") {
		dev, err := runningDev(t.set.DataDir)
		if err != nil {
			return err
		}
		if dev != nil {
			t.url = dev.WebSocket
		}
	}
	if t.url == "" {
		t.url = "ws://" + t.set.Listen + "/ws"
	}
	u, err := url.Parse(t.url)
	if err != nil || u.Host == "" {
		return usage(invalid("as ws://localhost:8080/ws or wss://live.example.com/ws", "--url is not an address of a server"))
	}
	port := u.Port()
	if port == "" {
		port = map[bool]string{true: "443", false: "80"}[u.Scheme == "wss" || u.Scheme == "https"]
	}
	dialer := net.Dialer{Timeout: connectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "no server at " + u.Redacted() + ": " + err.Error(),
			Hint: "start one with pgcast serve or pgcast dev, or say where it is with --url"}
	}
	return conn.Close()
}

// show prints what the client gives, and keeps the place.
func (t *tail) show(items func(func(client.Item, error) bool)) error {
	note := t.app.paint(t.err).dim
	warn := t.app.paint(t.err).yellow
	for item, err := range items {
		if err != nil {
			return err
		}
		switch it := item.(type) {
		case client.Event:
			t.from, t.known = it.From(), true
			if err := t.print(it.Event); err != nil {
				return err
			}
		case client.Subscribed:
			if !t.known {
				t.from, t.known = client.From{After: it.Seq}, true
			}
			t.sayf("%s\n", note(fmt.Sprintf("subscribed to %s after %d", it.Topic, it.Seq)))
		case client.Gap:
			t.sayf("%s\n", warn(fmt.Sprintf("gap: events of %s after %d and before %d are trimmed", it.Topic, it.After, it.Tail)))
			if !pgcast.IsPattern(it.Topic) {
				t.from = client.From{After: it.Tail - 1}
			}
		case client.Reset:
			t.sayf("%s\n", warn(fmt.Sprintf("reset: the history of %s is not the one seen before; going on after %d", it.Topic, it.Head)))
			t.from = client.From{After: it.Head}
		case client.Denied:
			return invalid("a topic is 1 to 256 printable ASCII bytes; the server may have other reasons",
				"the server denies %s: %s", it.Topic, it.Reason)
		}
	}
	return nil
}

// print writes one event: as on the wire for a program, in colour for a person.
func (t *tail) print(e pgcast.Event) error {
	if t.json {
		line := wire.AppendEventEnd(wire.AppendEventBody(nil, e), e.Position)
		_, err := t.out.Write(append(line, '\n'))
		return err
	}
	var b strings.Builder
	if _, at, ok := e.ID.Parts(); ok {
		b.WriteString(t.paint.dim(at.Local().Format("15:04:05.000")) + "  ")
	}
	b.WriteString(t.paint.cyan(plain(e.Topic)) + " " + t.paint.dim("#"+strconv.FormatInt(int64(e.Seq), 10)) + "  ")
	colour := t.paint.magenta
	switch e.Name {
	case pgcast.Created:
		colour = t.paint.green
	case pgcast.Updated:
		colour = t.paint.yellow
	case pgcast.Deleted, pgcast.Truncated:
		colour = t.paint.red
	}
	b.WriteString(colour(plain(e.Name)))
	switch {
	case e.Oversize:
		b.WriteString("  " + t.paint.dim("(too large for the wire)"))
	case len(e.Data) > 0:
		b.WriteString("  " + plain(string(e.Data)))
	}
	if was := changed(e); was != "" {
		b.WriteString("  " + t.paint.dim("was "+plain(was)))
	}
	b.WriteByte('\n')
	_, err := t.out.WriteString(b.String())
	return err
}

// changed gives, as JSON, what an event's old values say that its data does not.
func changed(e pgcast.Event) string {
	var old, now map[string]json.RawMessage
	if json.Unmarshal(e.Old, &old) != nil || json.Unmarshal(e.Data, &now) != nil {
		return ""
	}
	maps.DeleteFunc(old, func(name string, v json.RawMessage) bool { return bytes.Equal(v, now[name]) })
	if len(old) == 0 {
		return ""
	}
	text, _ := json.Marshal(old) // it came as JSON
	return string(text)
}

// resume is the command that goes on where this one ends.
func (t *tail) resume() string {
	words := []string{commandName(), "tail", quote(t.pattern), "--after", strconv.FormatInt(t.from.After, 10)}
	if t.from.ID != "" {
		words = append(words, "--id", string(t.from.ID))
	}
	words = append(words, t.where...)
	if t.json {
		words = append(words, "--json")
	}
	return strings.Join(words, " ")
}
