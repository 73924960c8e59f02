package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgcast/pgcast"
)

const (
	maxOrder   = 64 << 10 // bytes
	maxSearch  = 256      // bytes
	mostLines  = 200      // of a page of topics or sessions
	plainLines = 50
)

func (c *console) api(mux *http.ServeMux) {
	mux.HandleFunc("GET /console/api/me", answered(c.me))
	get := func(path string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET /console/api/"+path, answered(func(r *http.Request) (any, error) {
			if err := ownRead(r); err != nil {
				return nil, err
			}
			if !c.mayAsk(r) {
				return nil, errToken
			}
			return answer(r)
		}))
	}
	post := func(path string, answer func(r *http.Request) (any, error)) {
		mux.HandleFunc("POST /console/api/"+path, answered(func(r *http.Request) (any, error) {
			if err := ownOrder(r); err != nil {
				return nil, err
			}
			if !c.mayAsk(r) {
				return nil, errToken
			}
			return answer(r)
		}))
	}
	mux.HandleFunc("/console/api/", answered(func(*http.Request) (any, error) { return nil, errNoSuch }))
	get("overview", c.overview)
	get("topics", c.topics)
	get("topic", c.topic)
	get("sessions", c.sessions)
	post("sessions/disconnect", c.disconnect)
	c.tables(get, post)
	c.docs(mux, get)
	get("health", func(r *http.Request) (any, error) {
		return c.opts.Health(r.Context(), r.URL.Query().Get("fresh") == "1")
	})
}

type route func(path string, answer func(r *http.Request) (any, error))

func (c *console) tables(get, post route) {
	get("tables", func(r *http.Request) (any, error) { return c.opts.Tables.Tables(r.Context()) })
	post("tables/plan", func(r *http.Request) (any, error) {
		var o Order
		if err := order(r, &o, `{"action":"attach","table":"public.messages"}`); err != nil {
			return nil, err
		}
		return c.opts.Tables.Plan(r.Context(), o)
	})
	post("tables/run", func(r *http.Request) (any, error) {
		var o Order
		if err := order(r, &o, `{"action":"attach","table":"public.messages"}`); err != nil {
			return nil, err
		}
		return c.opts.Tables.Run(r.Context(), o)
	})
}

var (
	errToken  = &pgcast.Error{Code: pgcast.CodeUnauthenticated, Message: "show the admin token", Hint: "Authorization: Bearer …"}
	errNoSuch = &pgcast.Error{Code: pgcast.CodeNotFound, Message: "the console has no such path"}
	errOrigin = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "orders are taken from the console's own page only"}
	errReader = &pgcast.Error{Code: pgcast.CodeForbidden, Message: "the console answers no page but its own"}
	errKind   = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "an order is JSON", Hint: "Content-Type: application/json"}
)

// mayAsk tells whether a request shows the admin token, or nobody has to.
func (c *console) mayAsk(r *http.Request) bool {
	if c.opts.Shown == nil {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && c.opts.Shown(strings.TrimSpace(token))
}

// ownOrder refuses an order that a page of another site could have a browser send: without
// JSON as its type it would be sent without asking, and a browser says where it comes from.
func ownOrder(r *http.Request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return errKind
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || origin.Host == "" || !strings.EqualFold(origin.Host, r.Host) {
		return errOrigin
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return errOrigin
	}
	return nil
}

// ownRead refuses what a page of another site has a browser ask. It could not read the answer,
// but have the doctor look, and tell from the time how much there is.
func ownRead(r *http.Request) error {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin": // no browser, or an old one; somebody who typed it; the page
		return nil
	}
	return errReader
}

// order reads what an order says.
func order(r *http.Request, into any, example string) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxOrder+1))
	if err == nil && len(text) > maxOrder {
		err = fmt.Errorf("it is longer than %d bytes", maxOrder)
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err = d.Decode(into); err == nil {
			if _, more := d.Token(); more != io.EOF {
				err = errors.New("something follows it")
			}
		}
	}
	if err != nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: "the order cannot be read: " + err.Error(), Hint: "as " + example}
	}
	return nil
}

// page reads what most lists are asked for.
func page(r *http.Request) (search string, limit int, err error) {
	q := r.URL.Query()
	search, limit = q.Get("search"), plainLines
	if len(search) > maxSearch {
		return "", 0, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("search is longer than %d bytes", maxSearch)}
	}
	for _, name := range []string{"search", "after"} { // the database would not take it
		if text := q.Get(name); !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return "", 0, &pgcast.Error{Code: pgcast.CodeInvalid, Message: name + " is no text in UTF-8, or has a zero byte in it"}
		}
	}
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > mostLines {
			return "", 0, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("limit is a number from 1 to %d", mostLines)}
		}
	}
	return search, limit, nil
}

func (c *console) overview(r *http.Request) (any, error) {
	since := int64(0)
	if text := r.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "since is a moment in milliseconds since 1970"}
		}
	}
	return c.opts.Overview(r.Context(), since)
}

func (c *console) topics(r *http.Request) (any, error) {
	search, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	return c.opts.Topics.Topics(r.Context(), search, r.URL.Query().Get("after"), limit)
}

func (c *console) topic(r *http.Request) (any, error) {
	name := r.URL.Query().Get("name")
	if name == "" {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: "which topic?", Hint: "topic?name=room:1"}
	}
	return c.opts.Topics.Topic(r.Context(), name)
}

func (c *console) sessions(r *http.Request) (any, error) {
	search, limit, err := page(r)
	if err != nil {
		return nil, err
	}
	return c.opts.Sessions.Sessions(search, limit), nil
}

func (c *console) disconnect(r *http.Request) (any, error) {
	var o struct {
		ID string `json:"id"`
	}
	if err := order(r, &o, `{"id":"17"}`); err != nil {
		return nil, err
	}
	if !c.opts.Sessions.Disconnect(o.ID) {
		return nil, &pgcast.Error{Code: pgcast.CodeNotFound, Message: "this server has no such session", Hint: "it may have ended by itself; look again"}
	}
	return nil, nil
}

// status is how an error's code is said in HTTP.
func status(code pgcast.Code) int {
	switch code {
	case pgcast.CodeInvalid, pgcast.CodeInvalidTopic:
		return http.StatusBadRequest
	case pgcast.CodeUnauthenticated:
		return http.StatusUnauthorized
	case pgcast.CodeForbidden:
		return http.StatusForbidden
	case pgcast.CodeNotFound:
		return http.StatusNotFound
	case pgcast.CodeUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// answered answers with JSON: what is asked for, 204 for nothing, or what is wrong.
func answered(answer func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		v, err := answer(r)
		if err != nil {
			e := explain(err)
			if e.Code == pgcast.CodeUnauthenticated {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			send(w, status(e.Code), map[string]any{"error": map[string]string{"code": string(e.Code), "message": e.Message, "hint": e.Hint}})
			return
		}
		if v == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		send(w, http.StatusOK, v)
	}
}

// explain makes of an error what may be shown. Whoever runs the server may know what its
// database says.
func explain(err error) *pgcast.Error {
	var e *pgcast.Error
	if errors.As(err, &e) {
		return e
	}
	return &pgcast.Error{Code: pgcast.CodeInternal, Message: err.Error()}
}

func send(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		slog.Error("console: an answer cannot be written as JSON", "error", err)
		http.Error(w, "the answer cannot be written", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone needs no answer
}
