package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/presence"
)

// getPresence serves GET /topics/{topic}/presence: who is here, or with count how many.
func (g *Gateway) getPresence(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	text, err := g.present(ctx, r)
	switch {
	case r.Context().Err() != nil:
		return // nobody is there any more
	case err != nil:
		g.refuse(w, liveError(err))
		return
	}
	g.answerEvents(w, text)
}

func (g *Gateway) present(ctx context.Context, r *http.Request) ([]byte, error) {
	users, topic := g.opts.Live.Presence, r.PathValue("topic")
	if users == nil {
		return nil, errNoLive
	}
	v, err := parameters(r, "", "count")
	if err != nil {
		return nil, err
	}
	if err := pgcast.CheckTopic(topic); err != nil {
		return nil, err
	}
	claims, err := g.asker(r)
	if err == nil {
		err = g.may(ctx, claims, topic, auth.Presence)
	}
	if err != nil {
		return nil, err
	}
	switch only := v.Get("count"); {
	case only == "true", only == "" && v.Has("count"):
		n, err := users.Count(ctx, topic)
		return appendCount(nil, n), err
	case only == "", only == "false":
		list, err := users.List(ctx, topic)
		return appendPresent(list), err
	default:
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("count is %.40q", only), Hint: "true, or leave it out"}
	}
}

func appendPresent(list []presence.Entry) []byte {
	size := 64
	for _, e := range list {
		size += len(e.Key) + len(e.Value) + 8
	}
	b := appendCount(make([]byte, 0, size), len(list))
	b = append(b[:len(b)-1], `,"users":`...)
	return append(appendUsers(b, list), '}')
}
