package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/prometheus/common/expfmt"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/internal/auth"
	"github.com/pgcast/pgcast/internal/wire"
)

// outOfOrder cannot tell who anybody is.
type outOfOrder struct{}

func (outOfOrder) Authenticate(_ context.Context, credential string) (*auth.Claims, error) {
	return nil, &pgcast.Error{Code: pgcast.CodeUnavailable, Message: "the keys could not be fetched"}
}

func (outOfOrder) Issue(context.Context, *auth.Claims) (string, error) {
	return "", errors.New("insert: connection refused")
}

func (outOfOrder) Redeem(context.Context, string) (*auth.Claims, error) {
	return nil, fmt.Errorf("select: %w", pgcast.ErrUnavailable)
}

// S2: no token, key, ticket or cookie is ever in a log, at whatever level, in an answer, a
// close reason or a metric, whether it is good, bad or broken.
func TestS2Canaries(t *testing.T) {
	t.Parallel()
	var logs logged
	logger := slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, world := range []string{"works", "fails"} {
		t.Run(world, func(t *testing.T) {
			d := newDoor(t, func(s *setup) {
				s.Logger = logger
				if world == "fails" {
					s.Access.Authenticator, s.Access.Tickets = outOfOrder{}, outOfOrder{}
				}
			})
			d.http.Config.ErrorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug)
			d.rules.deny("mallory", auth.Connect, "")
			good := d.token(t, "ann", map[string]any{"jti": "canary-claim"})
			canaries := []string{
				good, d.token(t, "mallory"), d.token(t, "bob"), good + "x", "canary-token",
				"pgk_canary_0123456789abcdef0123456789abcdef",
			}
			var said bytes.Buffer // everything the server answers
			hear := func(p *peer) {
				for {
					text, err := p.read()
					fmt.Fprintln(&said, text)
					if err != nil {
						fmt.Fprintln(&said, err)
						return
					}
				}
			}
			listen := func(res *http.Response, text string) {
				fmt.Fprintln(&said, text, res.Status, res.Header)
			}
			page := http.Header{"Origin": {d.http.URL}, "X-Requested-With": {requestedWith}}
			post := http.Header{"Content-Type": {"application/json"}, EventHeader: {"said"}}
			for _, secret := range canaries {
				for _, h := range []http.Header{bearing(secret), {"Authorization": {secret}}, {"Authorization": {"Bearer a", "Bearer " + secret}}, {"Cookie": {"session=" + secret}}} {
					for _, path := range []string{"/topics/room:1/events", "/topics/room:1/snapshot", "/topics/room:1/sse", "/topics/room:1/presence", "/groups/a", "/ws"} {
						listen(d.ask(t, "GET", path, h, ""))
					}
					listen(d.ask(t, "POST", "/topics/room:1/events", with(post, "Authorization", h["Authorization"]...), "{}"))
				}
				for _, query := range []string{"token=" + secret, "ticket=" + secret, "after=" + secret, "id=" + secret, "x=" + secret, "ticket=a&ticket=" + secret} {
					for _, path := range []string{"/topics/room:1/events", "/topics/room:1/sse", "/ws", "/tickets", "/__ws/auth"} {
						listen(d.ask(t, map[bool]string{true: "POST", false: "GET"}[path[1] != 't' || path == "/tickets"], path+"?"+query, nil, ""))
					}
				}
				for _, h := range []http.Header{with(page, "Cookie", "session="+secret), with(page, "Authorization", "Bearer "+secret)} {
					res, text := d.ask(t, "POST", "/__ws/auth", h, "")
					for _, c := range res.Cookies() {
						canaries = append(canaries, c.Value)
						if p, res, err := d.knock(t, "", with(page, "Cookie", c.Name+"="+c.Value)); err == nil {
							listen(res, "")
							_ = p.ws.CloseNow()
						}
						p := d.enter(t, "", with(page, "Cookie", c.Name+"="+c.Value)) // used by now
						p.raw(`{}`)
						hear(p)
					}
					res.Header.Del("Set-Cookie")
					listen(res, text)
				}
				for _, knock := range []struct {
					query     string
					header    http.Header
					protocols []string
				}{
					{"", bearing(secret), nil}, {"", with(page, "Authorization", "Bearer "+secret), nil},
					{"", nil, []string{"pgcast", "pgcast.token." + secret}}, {"", page, []string{"pgcast", "pgcast.token." + secret}},
					{"?ticket=" + secret, nil, nil}, {"?ticket=" + secret, page, nil}, {"?token=" + secret, page, nil},
				} {
					p, res, err := d.knock(t, knock.query, knock.header, knock.protocols...)
					if res != nil {
						listen(res, "")
					}
					if err == nil {
						for _, text := range []string{
							`{"type":"unsubscribe","topic":"a","ref":1}`, fmt.Sprintf(`{"type":"auth","ref":2,"token":%q}`, secret),
							fmt.Sprintf(`{"type":"auth","ref":2,"token":[%q]}`, secret), fmt.Sprintf(`{"type":"auth","ref":2,"token":%q`, secret),
							secret, `{"type":"nonsense"}`,
						} {
							_ = p.ws.Write(t.Context(), websocket.MessageText, []byte(text)) // it may be closed by now
						}
						for range 8 {
							text, err := p.read()
							if fmt.Fprintln(&said, text, err); err != nil || strings.Contains(text, "nonsense") {
								break
							}
						}
						_ = p.ws.CloseNow()
					}
				}
				for _, hello := range []string{`{"type":"hello","token":%q}`, `{"type":"hello","token":[%q]}`, `{"type":"hello","token":%q`, `{"type":%q}`, `{"type":"subscribe","topic":"room:1","token":%q}`} {
					p := d.enter(t, "", nil)
					p.raw(fmt.Sprintf(hello, secret))
					text, err := p.read()
					fmt.Fprintln(&said, text, err)
					_ = p.ws.CloseNow()
				}
			}
			if world == "works" {
				ticket := d.ticket(t, good)
				canaries = append(canaries, ticket)
				for range 2 {
					listen(d.ask(t, "GET", "/topics/room:1/events?ticket="+ticket, nil, ""))
				}
				p := d.enter(t, "?ticket="+d.ticket(t, good), nil)
				p.want(wire.Welcome)
				d.gate.Revoke(func(*auth.Claims, string) bool { return true })
				hear(p)
			}
			await(t, "all are gone", func() bool { return d.clients() == 0 })
			families, err := d.registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				if _, err := expfmt.MetricFamilyToText(&said, f); err != nil {
					t.Fatal(err)
				}
			}
			everything := said.String() + logs.String()
			for _, secret := range canaries {
				for _, part := range []string{secret, secret[len(secret)-12:]} {
					if at := strings.Index(everything, part); at >= 0 {
						t.Errorf("%.30s… is told: %s", secret, everything[max(0, at-200):min(len(everything), at+len(part)+20)])
					}
				}
			}
			if strings.Contains(everything, "canary-claim") {
				t.Error("the claims of a token are told")
			}
			t.Logf("%d secrets, %d bytes of answers and metrics, %d bytes of logs", len(canaries), said.Len(), len(logs.String()))
		})
	}
}
