package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The clients of the load know just enough of the protocol to be cheap: frames are cut,
// not parsed, and of an event only its seq is looked at.

// cutFrame cuts one frame of the server's off b. A nil payload with size 0 says that b
// does not hold a whole one yet.
func cutFrame(b []byte) (opcode byte, payload []byte, size int) {
	if len(b) < 2 {
		return 0, nil, 0
	}
	n, head := int(b[1]&0x7f), 2
	switch n {
	case 126:
		if head = 4; len(b) < head {
			return 0, nil, 0
		}
		n = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if head = 10; len(b) < head {
			return 0, nil, 0
		}
		n = int(binary.BigEndian.Uint64(b[2:]))
	}
	if len(b) < head+n {
		return 0, nil, 0
	}
	return b[0] & 0x0f, b[head : head+n : head+n], head + n
}

// appendClientFrame appends a frame as clients send it: masked, with a mask that changes
// nothing.
func appendClientFrame(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	if len(payload) < 126 {
		dst = append(dst, 0x80|byte(len(payload)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(len(payload)))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

var (
	controlStart = []byte(`{"type":"`)
	seqStart     = []byte(`,"seq":`)
	subscribedIs = []byte(`subscribed"`)
	welcomeIs    = []byte(`welcome"`)
	hbIs         = []byte(`hb"`)
)

// controlOf gives what follows the type's beginning in a frame that is no event.
func controlOf(payload []byte) ([]byte, bool) { return bytes.CutPrefix(payload, controlStart) }

// seqOf finds an event's seq, which stands behind its data.
func seqOf(payload []byte) (int64, error) {
	at := bytes.LastIndex(payload, seqStart)
	if at < 0 {
		return 0, fmt.Errorf("no seq in %.200q", payload)
	}
	n, i := int64(0), at+len(seqStart)
	for ; i < len(payload) && payload[i] >= '0' && payload[i] <= '9'; i++ {
		n = 10*n + int64(payload[i]-'0')
	}
	return n, nil
}
