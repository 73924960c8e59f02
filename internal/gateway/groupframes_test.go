package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/presence"
	"github.com/pgcast/pgcast/presence/group"
)

// groupWorld serves groups, of this server alone; on selects those that are joined by
// subscribing.
func groupWorld(t testing.TB, on string) *world {
	t.Helper()
	w := newWorld(t, withPresence(t, 0))
	rosters := presence.NewRosters(&presence.Options{Kind: "group", Every: time.Millisecond})
	groups := group.New(rosters, w.log, &group.Options{Grace: -1, Logger: discard})
	running(t, groups.Run)
	p, err := pgcast.ParsePattern(on)
	if err != nil {
		t.Fatal(err)
	}
	w.gate.opts.Live.Groups, w.gate.opts.Live.MemberOn = groups, []pgcast.Pattern{p}
	return w
}

// hears reads on to a frame that has all the parts.
func (p *peer) hears(parts ...string) {
	p.t.Helper()
	var came []string
frames:
	for range 100 {
		text := p.text()
		came = append(came, text)
		for _, part := range parts {
			if !strings.Contains(text, part) {
				continue frames
			}
		}
		return
	}
	p.t.Fatalf("never heard %q; heard\n%s", parts, strings.Join(came, "\n"))
}

// A group is made, joined up to its limit, talked in, changed and closed, and each who is
// concerned hears of it.
func TestGroupFrames(t *testing.T) {
	t.Parallel()
	w := groupWorld(t, "lobby")
	ann, bob, eve := w.dialAs(t, `{"id":"ann"}`), w.dialAs(t, `{"id":"bob"}`), w.dialAs(t, `{"id":"eve"}`)
	ann.raw(`{"type":"group","group":"x","op":"join","ref":1}`)
	ann.hears(`"ref":1`, `"code":"not_found"`)
	ann.raw(`{"type":"group","group":"x","op":"create","max":2,"data":{"game":"go"},"ref":2}`)
	ann.hears(`"op":"create"`, `"created":true`)
	ann.raw(`{"type":"group","group":"x","op":"send","event":"e","role":"member","ref":3}`)
	ann.hears(`"ref":3`, `"type":"error"`) // not in it
	ann.raw(`{"type":"group","group":"x","op":"join","role":"admin","ref":4}`)
	ann.hears(`"ref":4`, `"key":"ann"`, `"role":"admin"`, `"max":2`, `"go"`)
	ann.hears(`"__group:x"`, `"members"`, `"ann"`)
	bob.raw(`{"type":"group","group":"x","op":"join","role":"king","ref":5}`)
	bob.hears(`"ref":5`, `"type":"error"`)
	bob.raw(`{"type":"group","group":"x","op":"join","ref":6}`)
	bob.hears(`"ref":6`, `"role":"member"`)
	ann.hears(`"__group:x"`, `"bob"`)
	eve.raw(`{"type":"group","group":"x","op":"join","ref":7}`)
	eve.hears(`"ref":7`, `"code":"too_many"`)
	ann.hears(`"__group:x"`, `"full"`)
	ann.raw(`{"type":"group","group":"x","op":"send","event":"nudge","data":1,"role":"member","ref":8}`)
	bob.hears(`"__group:x"`, `"nudge"`)
	ann.raw(`{"type":"group","group":"x","op":"send","event":"psst","data":2,"member":"bob","ref":9}`)
	bob.hears(`"__group:x"`, `"psst"`)
	bob.raw(`{"type":"group","group":"x","op":"close","ref":10}`)
	bob.hears(`"ref":10`, `"code":"forbidden"`)
	ann.raw(`{"type":"group","group":"x","op":"set","data":{"game":"chess"},"ref":11}`)
	ann.hears(`"ref":11`, `"op":"set"`)
	eve.raw(`{"type":"group","group":"x","op":"list","ref":12}`)
	eve.hears(`"ref":12`, `"ann"`, `"bob"`, `"chess"`, `"closed":false`)
	bob.raw(`{"type":"group","group":"x","op":"leave","ref":13}`)
	bob.hears(`"ref":13`, `"op":"leave"`)
	ann.hears(`"leave"`, `"key":"bob"`)
	ann.raw(`{"type":"group","group":"x","op":"close","ref":14}`)
	ann.hears(`"__group:x"`, `"close"`)
	bob.raw(`{"type":"group","group":"x","op":"join","ref":15}`)
	bob.hears(`"ref":15`, `"code":"closed"`)
}

// Who subscribes to the topic of a group that is joined so is a member, until the
// subscription ends; and over HTTP the group can be looked at.
func TestGroupBySubscribing(t *testing.T) {
	t.Parallel()
	w := groupWorld(t, "lobby")
	ann := w.dialAs(t, `{"id":"ann"}`)
	ann.raw(`{"type":"group","group":"lobby","op":"create","ref":1}`)
	ann.hears(`"created":true`)
	look := func() (status int, text string) {
		rec := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/groups/lobby", nil)
		r.SetPathValue("name", "lobby")
		w.gate.Groups().ServeHTTP(rec, r)
		return rec.Code, rec.Body.String()
	}
	members := func(want int) {
		t.Helper()
		await(t, "the group has its members", func() bool {
			status, text := look()
			var g struct{ Members []any }
			return status == http.StatusOK && json.Unmarshal([]byte(text), &g) == nil && len(g.Members) == want
		})
	}
	members(0)
	ann.raw(`{"type":"subscribe","topic":"group:lobby","ref":2}`)
	ann.hears(`"__group:lobby"`, `"members"`, `"ann"`)
	members(1)
	ann.raw(`{"type":"unsubscribe","topic":"group:lobby","ref":3}`)
	members(0)
}
