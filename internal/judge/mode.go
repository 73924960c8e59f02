package judge

import (
	"context"
	"testing"
	"time"

	"github.com/pgcast/pgcast/internal/devpg"
	"github.com/pgcast/pgcast/internal/pgtest"
	"github.com/pgcast/pgcast/migrations"
)

// Mode is one of the ways in which a commit becomes events and servers learn of it.
// Whatever the mode, the judge asks for the same.
type Mode int

// The modes. In the last, transactions that committed at the same time may have their
// events in another order than a trigger would have given them; what is of one row, and
// what is of one transaction, has its order and stays together.
const (
	Doorbell   Mode = iota // captured by triggers, woken by NOTIFY
	WALWake                // captured by triggers, woken by the WAL
	WALCapture             // captured from the WAL, and woken by it
)

// Modes are all of them.
var Modes = []Mode{Doorbell, WALWake, WALCapture}

func (m Mode) String() string {
	switch m {
	case WALWake:
		return "woken by the WAL"
	case WALCapture:
		return "captured from the WAL"
	}
	return "doorbell"
}

// Flags are what a server is to be started with.
func (m Mode) Flags() []string {
	if m == Doorbell {
		return nil
	}
	return []string{"--wake", "wal"}
}

// kind is the shared cluster for databases of the mode.
func (m Mode) kind() pgtest.Kind {
	if m == Doorbell {
		return pgtest.Doorbell
	}
	return pgtest.Logical
}

// Attach attaches a table under the topics room:{room}, as the mode captures. The table may
// not have been attached before.
func (m Mode) Attach(t testing.TB, url, table string) {
	t.Helper()
	if m != WALCapture {
		Exec(t, url, "select pgcast.attach($1::text::regclass, topic => 'room:{room}')", table)
		return
	}
	// A slot is made in a transaction of its own.
	Exec(t, url, "select pgcast.open_slot()")
	Exec(t, url, "select pgcast.attach($1::text::regclass, topic => 'room:{room}', capture => 'wal')", table)
}

// Schema makes the attached table that Writers write to.
func (m Mode) Schema(t testing.TB, url string) {
	t.Helper()
	Exec(t, url, Table)
	if m == WALCapture {
		// The topic of a deleted row is made of its columns.
		Exec(t, url, "alter table item replica identity full")
	}
	m.Attach(t, url, "item")
}

// Database is judge.Database in the mode.
func (m Mode) Database(t testing.TB) *pgtest.DB {
	t.Helper()
	return m.DatabaseOn(t, m.kind())
}

// DatabaseOn is Database on the shared cluster of a kind.
func (m Mode) DatabaseOn(t testing.TB, kind pgtest.Kind) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, &pgtest.Options{Kind: kind})
	m.Schema(t, db.URL)
	return db
}

// Cluster is judge.Cluster in the mode.
func (m Mode) Cluster(t testing.TB, opts *devpg.Options) (*devpg.Cluster, string) {
	t.Helper()
	c := pgtest.Private(t, opts)
	url := c.URL("postgres")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := migrations.Up(ctx, url); err != nil {
		t.Fatal(err)
	}
	m.Schema(t, url)
	return c, url
}
