package gateway

import (
	"context"
	"net/http"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
)

// Groups serves who is in a group, under /groups/{name}.
func (g *Gateway) Groups() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /groups/{name}", g.guarded(byTicket, g.getGroup))
	mux.HandleFunc("OPTIONS /groups/{name}", g.preflight)
	return mux
}

func (g *Gateway) getGroup(w http.ResponseWriter, r *http.Request) {
	text, err := g.readGroup(r)
	if err != nil {
		g.refuse(w, err)
		return
	}
	g.answerEvents(w, text)
}

func (g *Gateway) readGroup(r *http.Request) ([]byte, error) {
	if _, err := parameters(r, ""); err != nil {
		return nil, err
	}
	if g.opts.Live.Groups == nil {
		return nil, errNoLive
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	name := r.PathValue("name")
	if err := pgcast.CheckGroup(name); err != nil {
		return nil, err
	}
	claims, err := g.asker(r)
	if err == nil {
		err = g.may(ctx, claims, pgcast.GroupTopic(name), auth.Group)
	}
	if err != nil {
		return nil, err
	}
	info, members, err := g.opts.Live.Groups.List(ctx, name)
	return groupText(info, members), err
}
