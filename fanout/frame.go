// Package fanout is one process's way from the log to its sessions: a Follower reads
// the log once, the Hub encodes each event once and keeps a short ring per live topic
// or pattern, and each Session pulls what it has not sent yet, from the ring or, when
// the ring no longer reaches back, from the log. A session holds places, not queues, so
// its memory does not depend on how slowly its peer reads.
//
// The package knows neither the database nor any transport; it reads through Source,
// Topics and Patterns and writes through Sink.
package fanout

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/pgcast/pgcast"
)

// Encode appends the wire form of an event without its closing brace, so that the same
// bytes serve subscriptions by topic and, with the position added, by pattern.
type Encode func(dst []byte, e pgcast.Event) []byte

// Frame is one event, encoded once and shared by every session that gets it.
type Frame struct {
	pgcast.Event        // as it was encoded; its payload lies in text
	text         []byte // complete, without position
	positioned   func() []byte
}

func newFrame(e pgcast.Event, encode Encode) *Frame {
	f := &Frame{Event: e}
	f.text = append(encode(make([]byte, 0, 96+len(e.Topic)+len(e.Data)+len(e.Old)), e), '}')
	f.Data, f.Old = partOf(f.text, e.Data), partOf(f.text, e.Old)
	f.positioned = sync.OnceValue(func() []byte { // of f: what it names is kept
		b := append(make([]byte, 0, len(f.text)+32), f.text[:len(f.text)-1]...)
		b = append(b, `,"position":`...)
		return append(strconv.AppendInt(b, int64(f.Position), 10), '}')
	})
	return f
}

// partOf gives a part of a text where it holds it, so that it is kept once.
func partOf(text []byte, part json.RawMessage) json.RawMessage {
	if len(part) == 0 {
		return part
	}
	i := bytes.Index(text, part)
	if i < 0 {
		line := bytes.Map(inLine, part)
		if i = bytes.Index(text, line); i < 0 || len(line) != len(part) {
			return part
		}
	}
	return text[i : i+len(part) : i+len(part)]
}

// inLine is how what an encoder makes one line of comes to stand there.
func inLine(r rune) rune {
	if r == '\n' || r == '\r' {
		return ' '
	}
	return r
}

// Text is the event frame for subscriptions by topic. It must not be changed.
func (f *Frame) Text() []byte { return f.text }

// Positioned is the event frame for subscriptions by pattern. It must not be changed.
func (f *Frame) Positioned() []byte { return f.positioned() }

func (f *Frame) size() int { return len(f.text) }

// frameBytes is about what a frame takes in memory beside its text.
const frameBytes = 400

// Item is one thing a session sends: an event, a notice about a subscription, or raw
// text its transport made itself.
type Item struct {
	Frame   *Frame // an event; through a pattern if Pattern
	Pattern bool
	Notice  *Notice
	Raw     []byte
	Replay  []byte // of an event that was asked for again: what Session.Replay was given
	// Snapshot is a frame of a topic's snapshot.
	Snapshot *SnapshotFrame
}

// SnapshotFrame is a part of what a topic held when its subscription began. It is shared by
// all sessions that get it.
type SnapshotFrame struct {
	Topic string
	Text  []byte // complete; it must not be changed
	// Last says that it is the last one; then Seq is the place after which events follow, and
	// AsOf is what is to be sent back with it.
	Last bool
	Seq  int64
	AsOf pgcast.AsOf
}

// NoticeKind says what a Notice tells.
type NoticeKind int

// The notices.
const (
	Subscribed   NoticeKind = iota + 1 // Seq is the place the subscription starts from
	Unsubscribed                       // the subscription has ended
	Gap                                // events after After and before Tail are trimmed away, or not for the client
	Reset                              // the history the client saw no longer exists; goes on from Head
	Denied                             // no subscription was made, or it has ended within its snapshot, or by Forbid; Reason says why
	Replayed                           // the end of what Session.Replay sends; Truncated tells whether it is all
)

// Notice tells a client about one of its subscriptions, in its place in the stream. The
// numbers are seqs for a topic and positions for a pattern.
type Notice struct {
	Kind              NoticeKind
	Topic             string
	Ref               []byte // the client's, as it sent it; nil if it sent none
	Seq               int64
	After, Tail, Head int64
	Reason            string
	Truncated         bool
}
