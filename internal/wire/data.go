package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/pgcast/pgcast"
)

// Data reads an event's data that stands alone, as the body of a request: any JSON, null
// when there is nothing. Errors are *[pgcast.Error] with code invalid_event.
func Data(text []byte) (json.RawMessage, error) {
	s := scanner{text: text, room: MaxDepth - 1, exp: MaxExponent, strict: true} // in a frame it would stand one level down
	s.space()
	if s.pos == len(text) {
		return nil, nil
	}
	err := error(nil)
	if !utf8.Valid(text) {
		err = errors.New("it is not UTF-8")
	} else if err = s.skip(); err == nil {
		if s.space(); s.pos < len(text) {
			err = s.fail("the end")
		}
	}
	if err != nil {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalidEvent, Message: fmt.Sprintf("the data is not JSON that can be read: %v", err)}
	}
	return text, nil
}
