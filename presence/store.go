package presence

import (
	"context"
	"encoding/json"
	"time"
)

// Change is a change of one entry of this server's. A nil Value takes it away.
type Change struct {
	Key   string
	Value json.RawMessage
	// Max, if not 0, is the most keys the roster may have on all servers together; a key
	// that would be one more is refused, one that is there already is not.
	Max int
}

// Batch is what one server changes on one topic, all of it or nothing.
type Batch struct {
	Topic string
	// Whole says that Changes are all this server has there; the store may have others.
	Whole   bool
	Changes []Change
	// Held is how many entries this server has in the store if the store has lost nothing.
	Held int
	// Others is, where a change has a Max, how many entries each other server that is alive
	// for all this one knows has. One that is not in the store, which must have been emptied,
	// has them still, and will be back with them.
	Others map[string]int
	// Lease, if not 0, is how long the entries live on without a beat, instead of the TTL:
	// the server is leaving, and its sessions may come to another.
	Lease time.Duration
}

// Applied is what became of a batch.
type Applied struct {
	Full []bool // for each change, whether it was refused by Max
	// Lost says that the batch, which was not whole, was not made: the store does not have
	// what it should have.
	Lost bool
	Err  error // nothing is known of what was done
}

// Hold is what a server believes of a topic when it says that it is alive.
type Hold struct {
	Topic string
	Held  int // its entries there
}

// Standing is how a topic stands in the store.
type Standing struct {
	Version uint64                   // of the newest batch; never the same again after a flush
	Held    int                      // this server's entries
	Leases  map[string]time.Duration // of each live server
	Err     error                    // then nothing else is known
}

// State is a topic as the store has it.
type State struct {
	Version uint64
	Peers   map[string]Peer // by server, this one included
	Err     error           // then nothing else is known
}

// Peer is one server's part of a topic.
type Peer struct {
	Lease   time.Duration // for which it is alive without another beat
	Entries map[string]json.RawMessage
}

// Store shares rosters between servers. What it holds of a server goes when that server
// has not said for a TTL that it is alive, without anybody's doing. Every method is one
// round trip and answers for each thing it was asked; one that failed says nothing of the
// others.
type Store interface {
	// Apply makes changes, in order, and has all servers told.
	Apply(ctx context.Context, batches []Batch) []Applied
	// Beat says for each topic that this server is alive.
	Beat(ctx context.Context, holds []Hold) []Standing
	// Read gives whole topics.
	Read(ctx context.Context, topics []string) []State
}

// Message is what a server tells the others of a batch.
type Message struct {
	Server  string                     `json:"s"`
	Version uint64                     `json:"v"`
	Whole   bool                       `json:"w,omitempty"`
	Lease   int64                      `json:"l"` // milliseconds
	Set     map[string]json.RawMessage `json:"set,omitempty"`
	Del     []string                   `json:"del,omitempty"`
}

// Relay carries messages between servers, at most once each.
type Relay interface {
	// Watch has a topic's messages handed to f, from now on, and calls ready whenever it
	// is certain that from here on they arrive: at first, and after each time they may not
	// have. Where that cannot be had within a second it calls ready once all the same. Both
	// must not hold up who calls them.
	Watch(topic string, f func(Message), ready func()) (stop func())
}
