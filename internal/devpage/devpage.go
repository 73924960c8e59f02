// Package devpage is the page that pgcast dev serves: SQL on one side, the live stream
// on the other, and who else has it open. Its files are embedded and use nothing from anywhere else; what they ask
// of the server is /ws and the handful of paths under /dev/ here. It serves the example
// applications as well, which use the client at /client/.
package devpage

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcast/pgcast/examples"
	"github.com/pgcast/pgcast/internal/static"
	"github.com/pgcast/pgcast/replay"
)

// Options of the page; Pool is required.
type Options struct {
	// Pool leads to the database that the page's SQL box writes to.
	Pool    *pgxpool.Pool
	Version string
	// Demo says that the demo's schema is there: the presets and examples then use it.
	Demo bool
	// Command is how to call pgcast in a shell; default pgcast.
	Command string
	// Metrics, if set, gives the URL of the metrics. It is asked with every load of the
	// page, because the port may be known only once the server runs.
	Metrics func() string
	// Console, if set, gives the URL of the console; empty where there is none.
	Console func() string
}

// The topic that the example subscribes to, and on which the page is present, with and
// without the demo.
const (
	demoTopic = "room:1"
	noteTopic = "notes"
)

//go:embed page
var files embed.FS

// page answers for everything but /dev/sql.
type page struct {
	opts  Options
	log   *replay.Log
	files map[string]file // by path in the URL
}

// file is one of the page's files, ready to be sent.
type file struct {
	text []byte
	kind string // Content-Type
	etag string
	csp  func(host string) string
}

// Handler serves the page at /, and what it needs under /dev/.
func Handler(o Options) http.Handler {
	if o.Command == "" {
		o.Command = "pgcast"
	}
	p := &page{opts: o, log: replay.NewLog(o.Pool, nil), files: map[string]file{}}
	p.load()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.serveFile)
	mux.HandleFunc("GET /dev/{name}", p.serveFile)
	mux.HandleFunc("GET /dev/info", p.info)
	mux.HandleFunc("GET /dev/head", p.head)
	mux.Handle("POST /dev/sql", onlyFromPage(&runner{pool: o.Pool}))
	mux.Handle("GET /examples/", exampleApps())
	return harden(mux)
}

func (p *page) load() {
	entries, err := fs.ReadDir(files, "page")
	if err != nil {
		panic(fmt.Sprintf("devpage: the embedded page cannot be read: %v", err)) // the build put it there
	}
	for _, e := range entries {
		text, err := files.ReadFile("page/" + e.Name())
		if err != nil {
			panic(fmt.Sprintf("devpage: the embedded page cannot be read: %v", err))
		}
		f := file{text: text, kind: mime.TypeByExtension(path.Ext(e.Name())), csp: pagePolicy}
		switch path.Ext(e.Name()) { // the machine's own table of types may say anything
		case ".html":
			f.kind = "text/html; charset=utf-8"
		case ".js":
			f.kind = "text/javascript; charset=utf-8"
		case ".css":
			f.kind = "text/css; charset=utf-8"
		}
		if e.Name() == "example.html" {
			if !p.opts.Demo {
				f.text = bytes.ReplaceAll(f.text, []byte(demoTopic), []byte(noteTopic))
			}
			f.csp = examplePolicy(f.text)
		}
		sum := sha256.Sum256(f.text)
		f.etag = `"` + hex.EncodeToString(sum[:12]) + `"`
		name := "/dev/" + e.Name()
		if e.Name() == "index.html" {
			name = "/"
		}
		p.files[name] = f
	}
}

func (p *page) serveFile(w http.ResponseWriter, r *http.Request) {
	f, ok := p.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Content-Security-Policy", f.csp(r.Host))
	h.Set("Cache-Control", "no-cache") // another pgcast may listen on this port tomorrow
	h.Set("ETag", f.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.text))
}

// info tells the page about the server, once per load.
func (p *page) info(w http.ResponseWriter, r *http.Request) {
	answer := struct {
		Version  string `json:"version"`
		Demo     bool   `json:"demo"`
		Topic    string `json:"topic"` // on which the page is present
		Command  string `json:"command"`
		Metrics  string `json:"metrics,omitempty"`
		Console  string `json:"console,omitempty"`
		Postgres string `json:"postgres,omitempty"`
	}{Version: p.opts.Version, Demo: p.opts.Demo, Topic: noteTopic, Command: p.opts.Command}
	if p.opts.Demo {
		answer.Topic = demoTopic
	}
	if p.opts.Metrics != nil {
		answer.Metrics = p.opts.Metrics()
	}
	if p.opts.Console != nil {
		answer.Console = p.opts.Console()
	}
	// The page is also of use while the database is away.
	_ = p.opts.Pool.QueryRow(r.Context(), "select split_part(current_setting('server_version'), ' ', 1)").Scan(&answer.Postgres)
	reply(w, http.StatusOK, answer)
}

// head tells how far the log is, whoever listens, and what time it is there: write times
// are by the database's clock, which may not be the browser's.
func (p *page) head(w http.ResponseWriter, r *http.Request) {
	var answer struct {
		Position int64 `json:"position"`
		Clock    int64 `json:"clock"` // microseconds since 1970
	}
	position, err := p.log.Position(r.Context())
	if err == nil {
		answer.Position = int64(position)
		err = p.opts.Pool.QueryRow(r.Context(), "select (extract(epoch from clock_timestamp()) * 1000000)::bigint").Scan(&answer.Clock)
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "The database cannot be asked right now.", err.Error())
		return
	}
	reply(w, http.StatusOK, answer)
}

func reply(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // a browser that has gone needs no answer
}

// refuse answers with an error that the page shows as it is.
func refuse(w http.ResponseWriter, status int, message, hint string) {
	reply(w, status, map[string]any{"error": sqlError{Message: message, Hint: hint}})
}

// harden sets the headers that go with every answer.
func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
}

// hostText is a Host header that may be repeated in another header.
var hostText = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]{1,255}$`)

// sockets names the WebSocket of a host: some browsers do not count it as 'self'.
func sockets(host string) string {
	if !hostText.MatchString(host) {
		return ""
	}
	return " ws://" + host + " wss://" + host
}

// pagePolicy lets the page load its own files and talk to its own server, nothing else.
func pagePolicy(host string) string {
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'" + sockets(host) +
		"; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
}

// exampleApps serves the example applications: a directory each, whose address is that of its
// index.html. They may load their own files and the client, and talk to this server.
func exampleApps() http.Handler {
	files := static.Handler("/examples/", examples.Files())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/") {
			r = r.Clone(r.Context())
			r.URL.Path += "index.html"
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"+
			sockets(r.Host)+"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		files.ServeHTTP(w, r)
	})
}

var inlineScript = regexp.MustCompile(`(?s)<script[^>]*>(.*?)</script>`)

// examplePolicy lets the example run the script it has in it, and nothing else.
func examplePolicy(text []byte) func(string) string {
	var hashes strings.Builder
	for _, m := range inlineScript.FindAllSubmatch(text, -1) {
		sum := sha256.Sum256(m[1])
		hashes.WriteString(" 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'")
	}
	return func(host string) string {
		return "default-src 'none'; script-src" + hashes.String() + "; connect-src 'self'" + sockets(host) +
			"; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
	}
}
