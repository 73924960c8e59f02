package faults

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/judge"
	"github.com/pgcast/pgcast/internal/pgtest"
)

// slotted is a primary with the table captured from the WAL, and a standby. With keep the
// standby keeps the slot, as servers from 17 on can.
func slotted(t *testing.T, bin devpg.Binaries, keep bool) (a, b *node) {
	t.Helper()
	m := judge.WALCapture
	a = newNode(t, bin)
	a.migrate()
	m.Schema(t, a.url())
	judge.Exec(t, a.url(), others)
	a.stop()
	b = a.copy()
	// A base backup has no slots; this is a cold copy.
	slots, err := filepath.Glob(filepath.Join(b.data(), "pg_replslot", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slots {
		if err := os.RemoveAll(s); err != nil {
			t.Fatal(err)
		}
	}
	a.start()
	if !keep {
		b.follow(a.url())
		return a, b
	}
	judge.Exec(t, a.url(), "select pg_create_physical_replication_slot('standby')")
	judge.Exec(t, a.url(), "alter system set synchronized_standby_slots = 'standby'")
	judge.Exec(t, a.url(), "select pg_reload_conf()")
	u, err := url.Parse(a.url())
	if err != nil {
		t.Fatal(err)
	}
	b.settings["primary_conninfo"] = fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres application_name=standby sslmode=disable", u.Hostname(), u.Port())
	b.settings["primary_slot_name"] = "standby"
	b.settings["hot_standby_feedback"] = "on"
	b.settings["sync_replication_slots"] = "on"
	b.signal("standby.signal")
	b.start()
	return a, b
}

// A standby is promoted that has the slot: the stream goes on where it was.
func TestFault51PromotedWithSlot(t *testing.T) {
	later(t)
	bin := pgtest.Binaries(t)
	if bin.Version < 17 {
		bin = newer(t, 16)
	}
	promoted(t, "51", "failover to a standby that has the slot (failover slot)", bin, true)
}

// And one that has no such slot.
func TestFault51PromotedWithoutSlot(t *testing.T) {
	later(t)
	promoted(t, "51", "failover to a standby without the slot", pgtest.Binaries(t), false)
}

func promoted(t *testing.T, number, fault string, bin devpg.Binaries, keep bool) {
	r := begin(t, number, fault)
	r.trials = trials(1, 1, 5)
	var took, late []time.Duration
	concerned, wrongly := 0, 0
	for i := range r.trials {
		a, b := slotted(t, bin, keep)
		proxy := pgtest.NewProxy(t, a.url())
		s := stage(t, proxy.URL, 1, judge.WALCapture.Flags()...)
		writeAll(t, proxy.URL, i)
		s.nextRow()
		if keep {
			judge.Await(t, "the standby has the slot", 2*time.Minute, func() bool {
				// Whatever is captured gives the slot reason to move on, which syncing waits for.
				writeRooms(t, proxy.URL, 1, 0)
				return judge.Value[bool](t, b.url(), "select exists (select from pg_replication_slots where slot_name = pgcast.slot_name() and synced and not temporary)")
			})
		}
		judge.Sequenced(t, proxy.URL)
		a.streams(b)
		before := s.topics[0].Events()
		crash(t, a)
		b.promote()
		proxy.Lead(t, b.url())
		proxy.Cut()
		began := time.Now()
		judge.Exec(t, b.url(), "insert into item (room, n) values (0, 1)")
		if !keep {
			took = append(took, toldResets(t, r, s.servers[0], b.url(), 1))
			judge.Exec(t, b.url(), "insert into item (room, n) values (0, 1)")
		}
		judge.Await(t, "the next row comes", time.Minute, func() bool { return s.topics[0].Events() > before })
		late = append(late, time.Since(began))
		s.url = b.url()
		if keep {
			s.end(r)
		} else {
			s.wholeLog(r)
		}
		c, w := resets(t, b.url(), 1)
		concerned, wrongly = concerned+c, wrongly+w
		s.servers[0].Kill()
		b.stop()
	}
	if keep {
		r.count("topics told to begin anew", concerned+wrongly, 0)
	} else {
		r.count("topics of the table told to begin anew, 5 each time", concerned, 5*r.trials)
		r.count("other topics that were told so", wrongly, 0)
		r.latency("until they are told", took, 5*time.Second)
	}
	r.latency("from the promotion to the next row at the client", late, 5*time.Second)
}
