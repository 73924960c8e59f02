package gateway

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/pgcast/pgcast"
)

// allowed tells whether a request comes from a web page that may connect: one of the
// request's own host, or one on the list. What is no browser sends no Origin. It decides
// as the websocket library does for handshakes.
func (g *Gateway) allowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if strings.EqualFold(r.Host, u.Host) {
		return true
	}
	return g.listed(u, false)
}

// trusted tells whether a request is known to come from a page that may use the cookies of its
// user: one of the server's own origin, or one that the list names, not just any.
func (g *Gateway) trusted(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return r.Header.Get("Sec-Fetch-Site") == "same-origin"
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if u.Scheme != "https" && secure(r) {
		return false // whoever is on the way could have written the page
	}
	return strings.EqualFold(r.Host, u.Host) || g.listed(u, true)
}

// listed tells whether an origin is on the list; if it is to be named, other than by a pattern
// that everything matches.
func (g *Gateway) listed(u *url.URL, named bool) bool {
	for _, pattern := range g.opts.Origins {
		of := func(scheme, host string) string {
			if strings.Contains(pattern, "://") {
				return scheme + "://" + host
			}
			return host
		}
		match := func(target string) bool {
			ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(target))
			return err == nil && ok
		}
		if match(of(u.Scheme, u.Host)) && !(named && (match(of(u.Scheme, "nobody.invalid")) || match(of(u.Scheme, "nobody.invalid:1")))) {
			return true
		}
	}
	return false
}

// admitPage refuses requests of web pages that may not connect, and tells browsers that
// the others may read the answer. It reports whether to go on.
func (g *Gateway) admitPage(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Add("Vary", "Origin")
	if !g.allowed(r) {
		g.metrics.refused.Inc()
		g.refuse(w, &pgcast.Error{Code: pgcast.CodeForbidden, Message: "pages of this origin may not connect",
			Hint: "allow it with --allowed-origins"})
		return false
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate")
	}
	return true
}

// preflight answers a browser that asks what a page of another origin may send.
func (g *Gateway) preflight(w http.ResponseWriter, r *http.Request) {
	if !g.admitPage(w, r) {
		return
	}
	w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
	w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, X-Requested-With, "+EventHeader+", "+KeyHeader)
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}
