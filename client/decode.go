package client

import (
	"encoding/json"
	"fmt"

	"github.com/pgcast/pgcast"
)

// Decode reads the data of an event as a T, as [json.Unmarshal] does; no data, and null, is
// the zero T. An event that is oversize cannot be read: its data is not there.
func Decode[T any](e Event) (T, error) {
	var v T
	if e.Oversize {
		return v, &pgcast.Error{Code: pgcast.CodeTooLarge, Message: fmt.Sprintf("read event %s of %q: it is larger than the server sends", e.ID, e.Topic),
			Hint: "GET /topics/{topic}/events has it whole"}
	}
	if len(e.Data) == 0 {
		return v, nil
	}
	if err := json.Unmarshal(e.Data, &v); err != nil {
		return v, fmt.Errorf("read event %s of %q: %w", e.ID, e.Topic, err)
	}
	return v, nil
}
