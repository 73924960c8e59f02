package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Which web pages may connect: those of the host the request is for, and those on the
// list. What is no browser sends no Origin.
func TestOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) {
		s.Origins = []string{"friend.example", "*.wide.example:8443", "https://strict.example"}
	})
	for _, c := range []struct {
		host, origin string
		ok           bool
	}{
		{"app.com", "", true},
		{"app.com", "https://app.com", true},
		{"app.com", "http://app.com", true}, // a proxy may have ended TLS
		{"app.com", "https://APP.com", true},
		{"App.Com", "https://app.com", true},
		{"app.com:8080", "http://app.com:8080", true},
		{"app.com:8080", "http://app.com:9090", false},
		{"app.com:8080", "http://app.com", false},
		{"app.com", "null", false},
		{"app.com", "https://evil-app.com", false},
		{"app.com", "https://app.com.evil.com", false},
		{"app.com", "https://app.com@evil.com", false},
		{"app.com", "https://evil.com/app.com", false},
		{"app.com", "https://evil.com#app.com", false},
		{"app.com", "app.com", false},
		{"app.com", "file://", false},
		{"app.com", "https://%zz", false},
		{"app.com", "https://friend.example", true},
		{"app.com", "http://Friend.Example", true},
		{"app.com", "https://friend.example:444", false},
		{"app.com", "https://sub.friend.example", false},
		{"app.com", "https://notfriend.example", false},
		{"app.com", "https://a.wide.example:8443", true},
		{"app.com", "https://a.wide.example", false},
		{"app.com", "https://wide.example:8443", false},
		{"app.com", "https://strict.example", true},
		{"app.com", "http://strict.example", false},
	} {
		res := w.shake(t, c.host, c.origin)
		want := http.StatusForbidden
		if c.ok {
			want = http.StatusSwitchingProtocols
		}
		if res.StatusCode != want {
			t.Errorf("host %q, origin %q: status %d; want %d", c.host, c.origin, res.StatusCode, want)
		}
	}
	await(t, "nobody is left", func() bool { return w.clients() == 0 })
}

// shake makes a handshake and closes the connection.
func (w *world) shake(t *testing.T, host, origin string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", w.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text := fmt.Sprintf(handshake, host)
	if origin != "" {
		text = strings.Replace(text, "\r\nConnection:", "\r\nOrigin: "+origin+"\r\nConnection:", 1)
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}
