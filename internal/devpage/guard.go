package devpage

import (
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/pgcast/pgcast/internal/perimeter"
)

// onlyFromPage lets requests through that this page sent, from a browser on this machine.
// Behind it anybody may run any SQL, so each check stands on its own:
//
//   - the connection comes from this machine, whatever the server listens on;
//   - Host is a loopback name: a foreign site whose name was rebound to 127.0.0.1 is not;
//   - Origin is this very server: browsers send it with every POST;
//   - Sec-Fetch-Site, where the browser sends it, agrees;
//   - the body is declared as JSON, which a form of a foreign site cannot.
func onlyFromPage(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why, hint := foreign(r); why != "" {
			refuse(w, http.StatusForbidden, why, hint)
			return
		}
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			refuse(w, http.StatusUnsupportedMediaType, "The statement must come as application/json.", "")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// foreign tells why a request is not one of the page's own, or returns nothing.
func foreign(r *http.Request) (why, hint string) {
	const elsewhere = "Open the page on the machine where pgcast dev runs, as http://localhost:8080/, or use pgcast sql there."
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !addr.Addr().Unmap().IsLoopback() {
		return "SQL runs only for browsers on the machine where pgcast dev runs.", elsewhere
	}
	if !perimeter.LoopbackHost(r.Host) {
		return "SQL runs only where the page's address is a loopback one.", elsewhere
	}
	const notHere = "Only the page itself may run SQL here; from elsewhere, use pgcast sql."
	u, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || !strings.EqualFold(u.Host, r.Host) {
		return "The request does not come from this page.", notHere
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return "The request does not come from this page.", notHere
	}
	return "", ""
}
