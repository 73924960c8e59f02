package bench

import "github.com/pgcast/pgcast"

// What the load is asked to do, and what it answers. Durations are in milliseconds, or as
// their names say.

// pacing asks for writes at a steady rate, and for the time each takes from its commit to
// the reader.
type pacing struct {
	URL     string
	Table   string
	Channel string
	Rate    int
	Seconds float64
}

// lateness is in milliseconds.
type lateness struct {
	Events   int
	P50, P99 float64
	Seen     seen
}

// seen is what clients got.
type seen struct{ Delivered, Lost, Doubled int64 }

func (s *seen) add(t seen) {
	s.Delivered += t.Delivered
	s.Lost += t.Lost
	s.Doubled += t.Doubled
}

// opening asks for clients, client i subscribed to Prefix and i modulo Topics.
type opening struct {
	Addr     string
	Sessions int
	Topics   int
	Topic    string // of all; else Prefix and a number
	Prefix   string
	Parallel int // handshakes under way at a time
	// Resume has them begin after After, where topic i had the event IDs[i], and is done
	// when all have come to Want.
	Resume      bool
	After, Want int64
	IDs         []pgcast.ID
}

// opened is in milliseconds.
type opened struct {
	All      float64 // from the first connect to the last client having what it wants
	P50, P99 float64 // from subscribe to the last event it wants, per client
	Seen     seen
}

// flooding asks for events on one topic, to every client there is.
type flooding struct {
	URL        string
	Topic      string
	Size       int // bytes of an event's data
	Publishers int // at a time, each an event a transaction
	Window     int // events that may be under way; 0: the Rate says when
	Rate       int
	Seconds    float64
}

type flooded struct {
	Published int64
	Seconds   float64 // until the last delivery
	P50, P99  float64 // from commit to client, in milliseconds; with a rate only
	Seen      seen
}

// dataOf makes JSON of so many bytes, as jsonb prints it.
func dataOf(size int) string {
	const around = `{"pad": ""}`
	pad := make([]byte, max(0, size-len(around)))
	for i := range pad {
		pad[i] = 'x'
	}
	return `{"pad": "` + string(pad) + `"}`
}
