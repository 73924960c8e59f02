package devpage

import (
	"bytes"
	"encoding/json"
	"errors"
)

// argument is a parameter of a statement, as Postgres reads it: nil is NULL. Strings, numbers
// and booleans are what they say; objects and arrays are JSON.
type argument []byte

func (a *argument) UnmarshalJSON(text []byte) error {
	switch {
	case bytes.Equal(text, []byte("null")):
		*a = nil
		return nil
	case text[0] != '"':
		*a = bytes.Clone(text)
		return nil
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	if bytes.IndexByte([]byte(s), 0) >= 0 {
		return errors.New("there is a zero byte in an argument")
	}
	*a = append(argument{}, s...) // empty, not NULL
	return nil
}

// texts gives arguments to the protocol, which takes one statement with them.
func texts(args []argument) [][]byte {
	list := make([][]byte, len(args))
	for i, a := range args {
		list[i] = a
	}
	return list
}
