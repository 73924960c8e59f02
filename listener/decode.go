package listener

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
)

// decode reads one message of the stream; ask tells that Postgres wants an answer. What is no
// message of pgoutput is an error, and costs no more memory than it is long.
func decode(data []byte, inStream *bool) (m Message, ask bool, err error) {
	defer func() {
		// pglogrepl believes the lengths in most messages.
		if recover() != nil {
			m, ask, err = Message{}, false, errMalformed
		}
	}()
	if len(data) == 0 {
		return m, false, errors.New("an empty message")
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		return Message{End: k.ServerWALEnd}, k.ReplyRequested, err
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return m, false, err
		}
		if err := sound(x.WALData, *inStream); err != nil {
			return m, false, err
		}
		m.End = x.ServerWALEnd
		m.Message, err = pglogrepl.ParseV2(x.WALData, *inStream)
		switch m.Message.(type) {
		case *pglogrepl.StreamStartMessageV2:
			*inStream = true
		case *pglogrepl.StreamStopMessageV2:
			*inStream = false
		}
		return m, false, err
	}
	return m, false, fmt.Errorf("a message of unknown kind %q", data[0])
}

var errMalformed = errors.New("a malformed message of pgoutput")

// sound makes sure that a message is as long as the rows, the tables or the content it claims to
// have: room is made for them before they are read.
func sound(wal []byte, inStream bool) error {
	if len(wal) == 0 {
		return errMalformed
	}
	kind, rest := pglogrepl.MessageType(wal[0]), wal[1:]
	head := 0
	if inStream {
		head = 4 // the transaction
	}
	switch kind {
	case pglogrepl.MessageTypeInsert, pglogrepl.MessageTypeUpdate, pglogrepl.MessageTypeDelete:
		head += 4 // the table
	case pglogrepl.MessageTypeTruncate, pglogrepl.MessageTypeMessage:
	default:
		return nil
	}
	if len(rest) < head {
		return errMalformed
	}
	rest = rest[head:]
	switch kind {
	case pglogrepl.MessageTypeTruncate:
		if len(rest) < 5 || int64(len(rest)-5) < 4*int64(binary.BigEndian.Uint32(rest)) {
			return errMalformed
		}
		return nil
	case pglogrepl.MessageTypeMessage:
		if len(rest) < 9 {
			return errMalformed
		}
		_, content, ok := bytes.Cut(rest[9:], []byte{0}) // the prefix ends
		if !ok || len(content) < 4 || int64(len(content)-4) < int64(binary.BigEndian.Uint32(content)) {
			return errMalformed
		}
		return nil
	}
	for len(rest) > 0 {
		n := row(rest[1:])
		if n < 0 {
			return errMalformed
		}
		rest = rest[1+n:]
	}
	return nil
}

// row gives the length of a row, -1 if there is none.
func row(data []byte) int {
	if len(data) < 2 {
		return -1
	}
	at := 2
	for range binary.BigEndian.Uint16(data) {
		if at >= len(data) {
			return -1
		}
		at++
		switch data[at-1] {
		case pglogrepl.TupleDataTypeNull, pglogrepl.TupleDataTypeToast:
		case pglogrepl.TupleDataTypeText, pglogrepl.TupleDataTypeBinary:
			if len(data)-at < 4 {
				return -1
			}
			n := int64(binary.BigEndian.Uint32(data[at:]))
			if at += 4; int64(len(data)-at) < n {
				return -1
			}
			at += int(n)
		default:
			return -1
		}
	}
	return at
}
