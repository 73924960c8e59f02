// Package console is the page by which people look after a server: static files, built from
// web and embedded, and what the page asks for, as JSON. It knows no database and no gateway:
// where the answers come from is for the server to say. web/src/api.ts has the contract.
package console

import (
	"context"
	"embed"
	"io/fs"
	"net/http"
	"regexp"
	"time"

	"github.com/pgcast/pgcast/internal/static"
)

//go:embed dist
var dist embed.FS

// Topics tells of topics. Errors are *[pgcast.Error] with code not_found or unavailable.
type TopicSource interface {
	// Topics gives at most limit topics whose names have a text in them, whatever the case, and come
	// after a name.
	Topics(ctx context.Context, search, after string, limit int) (Topics, error)
	Topic(ctx context.Context, name string) (TopicDetail, error)
}

// TableSource tells of tables, and attaches and detaches them.
type TableSource interface {
	Tables(ctx context.Context) (Tables, error)
	// Plan says what an order would do, and changes nothing.
	Plan(ctx context.Context, o Order) (Plan, error)
	Run(ctx context.Context, o Order) (Plan, error)
}

// SessionSource tells of this server's sessions.
type SessionSource interface {
	Sessions(search string, limit int) Sessions
	// Disconnect ends one, and tells whether there was one of that id.
	Disconnect(id string) bool
}

// Options of a console. All sources are required.
type Options struct {
	// Shown tells whether a token is the admin token; nil: there is none, and nobody needs one.
	Shown func(token string) bool
	// Me is told about the server, without Token, SignedIn and Now.
	Me func() Me
	// Overview gives the samples after a moment, in milliseconds since 1970.
	Overview func(ctx context.Context, since int64) (Overview, error)
	Topics   TopicSource
	Tables   TableSource
	Sessions SessionSource
	// Health gives the doctor's findings: new ones if fresh, else maybe some of a moment ago.
	Health func(ctx context.Context, fresh bool) (Health, error)
	// Socket serves the sessions of those who use the console. It sees to it itself who they are.
	Socket http.Handler
}

// New makes the console's handler, for everything at /console.
func New(opts *Options) http.Handler {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // dist is a valid path
	}
	c := &console{opts: *opts}
	page := static.Handler("/console/", files)
	mux := http.NewServeMux()
	mux.Handle("GET /console", http.RedirectHandler("/console/", http.StatusPermanentRedirect))
	mux.HandleFunc("/console/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only to be read", http.StatusMethodNotAllowed)
			return
		}
		if r.URL.Path == "/console/" {
			r.URL.Path = "/console/index.html"
		}
		page.ServeHTTP(w, r)
	})
	mux.Handle("/console/ws", opts.Socket)
	c.api(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy(r.Host))
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		mux.ServeHTTP(w, r)
	})
}

// plainHost is a host that may be written into a header of ours as it is.
var plainHost = regexp.MustCompile(`^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?$`)

// policy lets the page load and ask for nothing but what is of its own host, and run nothing
// that is not in files.
func policy(host string) string {
	connect := "'self'"
	if plainHost.MatchString(host) { // to older browsers a WebSocket of the same host is not 'self'
		connect += " ws://" + host + " wss://" + host
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src " + connect +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// console answers.
type console struct{ opts Options }

// me is open to all: the page has to know whether to ask for a token.
func (c *console) me(r *http.Request) (any, error) {
	in := c.mayAsk(r)
	me := Me{}
	if in {
		me = c.opts.Me()
	}
	me.Token, me.SignedIn, me.Now = c.opts.Shown != nil, in, time.Now().UnixMilli()
	return me, nil
}
