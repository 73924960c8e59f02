// Package perimeter stands before a server's listeners: which names it answers to, who may ask,
// how many connections there may be, and the certificate that it shows. It knows nothing of
// what is behind it.
package perimeter

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
)

// LoopbackHost tells whether a Host header names this machine itself.
func LoopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // reserved, RFC 6761
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// Loopback tells whether only this machine can connect to an address, host:port.
func Loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Hosts refuses requests for any name but a loopback one and those of origins, which are
// host patterns, maybe with a scheme, as web pages' are. Where nobody has to say who he is,
// that is what keeps a site that somebody visits, and whose name was rebound to 127.0.0.1,
// from reading what a server on that person's machine streams: to the browser such a page
// and the server are one origin. hint says what else to do.
func Hosts(origins []string, hint string) func(http.Handler) http.Handler {
	var names []string
	for _, origin := range origins {
		if _, rest, ok := strings.Cut(origin, "://"); ok {
			origin = rest
		}
		names = append(names, strings.ToLower(origin))
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !LoopbackHost(r.Host) && !oneOf(names, r.Host) {
				http.Error(w, "this server is only here for this machine: "+hint, http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// oneOf tells whether a host is one of the names; a name without a port stands for any.
func oneOf(names []string, host string) bool {
	host = strings.ToLower(host)
	u := url.URL{Host: host}
	for _, name := range names {
		for _, h := range []string{host, u.Hostname()} {
			if ok, err := path.Match(name, h); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// Headers tells browsers to make of answers nothing else than they are: no page of another
// site may show them in a frame, and nothing in them runs. A handler may say otherwise.
// With secure, the connection being TLS, browsers are to come back by TLS only.
func Headers(secure bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		if secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// Is gives what tells whether a text is the token. How long a wrong one is, or where it begins
// to be wrong, cannot be told from the time that it takes.
func Is(token string) func(shown string) bool {
	want := sha256.Sum256([]byte(token))
	return func(shown string) bool {
		got := sha256.Sum256([]byte(shown))
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}

// Token lets through who shows the token, as Authorization: Bearer, and whoever asks for one
// of the open paths.
func Token(token string, next http.Handler, open ...string) http.Handler {
	is := Is(token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, path := range open {
			if r.URL.Path == path {
				next.ServeHTTP(w, r)
				return
			}
		}
		scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !is(strings.TrimSpace(shown)) || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "show the admin token: Authorization: Bearer …", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// NoBrowsers refuses what browsers send but plain reads: a page that anybody wrote must not
// be able to give orders through one that runs where the listener can be reached.
func NoBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		if !reads && (r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "") {
			http.Error(w, "not for browsers", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
