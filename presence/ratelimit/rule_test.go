package ratelimit

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgcast/pgcast"
)

func TestParseRules(t *testing.T) {
	t.Parallel()
	got, err := ParseRules(" publish session 50/1s burst 100 block 10s,connect  ip 20/10s,, history subject 5/m block 1h burst 7 , publish session 1000/h,")
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{{Publish, Session, 50, time.Second, 100, 10 * time.Second}, {Connect, IP, 20, 10 * time.Second, 20, 0},
		{History, Subject, 5, time.Minute, 7, time.Hour}, {Publish, Session, 1000, time.Hour, 1000, 0}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, err := ParseRules(" , "); got != nil || err != nil {
		t.Errorf("nothing reads as %v, %v", got, err)
	}
	for text, says := range map[string]string{
		"publish":                                                "not complete",
		"publish session":                                        "write VERB KEY",
		"write session 5/1s":                                     "write one of connect, subscribe, publish, history, cursor",
		"publish user 5/1s":                                      "write one of ip, session, subject, topic",
		"connect session 5/1s":                                   "count connections by ip or subject",
		"connect topic 5/1s":                                     "no topic yet",
		"publish session 5":                                      "write a time",
		"publish session 5/":                                     "write a time",
		"publish session 5/second":                               "write a time",
		"publish session 5/1":                                    "500ms",
		"publish session 5/0s":                                   "write a time",
		"publish session 5/100us":                                "from 1ms",
		"publish session 5/1000h":                                "to 168h0m0s",
		"publish session 0/1s":                                   "whole number from 1",
		"publish session -1/1s":                                  "whole number from 1",
		"publish session +1/1s":                                  "whole number from 1",
		"publish session /1s":                                    `"" is no count`,
		"publish session 1.5/1s":                                 "whole number from 1",
		"publish session 10000000/1s":                            "to 1000000",
		"publish session 5/1s burst":                             "nothing behind it",
		"publish session 5/1s burst 0":                           "whole number from 1",
		"publish session 5/1s burst 7 burst 8":                   "stands twice",
		"publish session 5/1s block 10":                          "write a time",
		"publish session 5/1s blocks 10s":                        `nobody knows what "blocks" is`,
		"publish session 5/1s, publish session 5/1000ms burst 7": "stands twice",
		strings.Repeat("publish session 5/1s,", 2):               "leave one of them out",
	} {
		_, err := ParseRules(text)
		var e *pgcast.Error
		if !errors.As(err, &e) || e.Code != pgcast.CodeInvalid || e.Hint == "" || !strings.Contains(e.Error(), says) {
			t.Errorf("%s: %v; want something about %q", text, err, says)
		}
	}
	var many []string
	for i := range MaxRules + 1 {
		many = append(many, "publish session 1/"+(time.Duration(i+1)*time.Second).String())
	}
	if _, err := ParseRules(strings.Join(many, ",")); err == nil {
		t.Error("there may be any number of rules")
	}
}

// What is read is within its limits, and reads the same when it is written again.
func FuzzParseRules(f *testing.F) {
	for _, s := range []string{"publish session 50/1s burst 100 block 10s, connect ip 20/10s", "cursor topic 1/h", "history subject 0/1s", ",,", "publish session 5/1s burst burst"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rules, err := ParseRules(s)
		if err != nil {
			return
		}
		var again []string
		for _, r := range rules {
			if r.Count < 1 || r.Count > MaxCount || r.Burst < 1 || r.Burst > MaxCount || r.Per < time.Millisecond || r.Per > MaxPer || r.Block < 0 || r.Block > MaxPer {
				t.Errorf("%q reads as %+v", s, r)
			}
			again = append(again, r.String())
		}
		same, err := ParseRules(strings.Join(again, ","))
		if err != nil || !cmp.Equal(rules, same) {
			t.Errorf("%q reads as %v, and that as %v, %v", s, rules, same, err)
		}
	})
}

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func TestAddress(t *testing.T) {
	t.Parallel()
	trusted := prefixes("10.0.0.0/8", "fd00::/8", "127.0.0.0/8")
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"203.0.113.7:1234", nil, "203.0.113.7"},
		{"[2001:db8:1:2:3::4]:1234", nil, "2001:db8:1:2::/64"},
		{"[::ffff:203.0.113.7]:1234", nil, "203.0.113.7"},
		{"[fe80::1%eth0]:1234", nil, "fe80::/64"},
		{"@", nil, "unknown"},
		{"", []string{"203.0.113.7"}, "unknown"},
		// Only a trusted proxy is believed.
		{"203.0.113.7:1", []string{"198.51.100.1"}, "203.0.113.7"},
		{"10.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		{"[fd00::1]:1", []string{"2001:db8::1"}, "2001:db8::/64"},
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		// What the client wrote itself stands to the left of what the proxies say.
		{"10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1 , 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"1.1.1.1, 198.51.100.1", "10.0.0.2,10.0.0.3"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"10.0.0.9, 10.0.0.2"}, "10.0.0.9"},
		{"10.0.0.1:1", []string{"1.1.1.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:1", []string{"1.1.1.1, nonsense"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:1", []string{"[2001:db8::1]:4711"}, "2001:db8::/64"},
		{"10.0.0.1:1", []string{"[2001:db8::1]"}, "2001:db8::/64"},
	} {
		if got := AddressKey(Address(c.remote, c.forwarded, trusted)); got != c.want {
			t.Errorf("%s forwarded for %q: %s; want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

// Nothing that stands in the header is believed of anybody but a trusted proxy, and what
// was written before a proxy's own word changes nothing.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"", ",", "1.2.3.4", "1.2.3.4, 10.0.0.1", "[::1]:2", "10.0.0.1,10.0.0.2,", "\x00", "::ffff:10.0.0.1", "fe80::1%x"} {
		f.Add(s, "198.51.100.1")
	}
	trusted := prefixes("10.0.0.0/8")
	f.Fuzz(func(t *testing.T, header, client string) {
		if got := Address("203.0.113.7:1", []string{header}, trusted).String(); got != "203.0.113.7" {
			t.Errorf("%q made it %s", header, got)
		}
		_ = AddressKey(Address(header, []string{client}, trusted))
		got := Address("10.0.0.1:1", []string{header}, trusted)
		if !got.IsValid() {
			t.Errorf("%q leads to nobody", header)
		}
		said := "198.51.100.1"
		if got := Address("10.0.0.1:1", []string{header + "," + said}, trusted).String(); got != said {
			t.Errorf("%q before it made it %s", header, got)
		}
		if got := Address("10.0.0.1:1", []string{header, said}, trusted).String(); got != said {
			t.Errorf("%q before it made it %s", header, got)
		}
	})
}
