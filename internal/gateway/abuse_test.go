package gateway

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/wire"
)

// part makes a frame that need not be its message's last, and may have reserved bits.
func part(final bool, bits, opcode byte, payload []byte) []byte {
	p := masked(opcode, payload)
	if !final {
		p[0] &^= 0x80
	}
	p[0] |= bits
	return p
}

const (
	opContinuation = 0
	opBinary       = 2
	rsv1           = 0x40
)

// S16: what RFC 6455 forbids ends the connection with 1002, what is larger than a frame may
// be with 1009; what it allows, however odd, is understood.
func TestS16Frames(t *testing.T) {
	t.Parallel()
	const limit = 4 << 10
	w := newWorld(t, func(s *setup) { s.MaxFrame, s.closeWait = limit, 300*time.Millisecond })
	hello := []byte(`{"type":"unsubscribe","ref":"odd","topic":"a"}`)
	bytewise := func(text []byte, between ...byte) (b []byte) {
		for i := range text {
			opcode := byte(opContinuation)
			if i == 0 {
				opcode = opText
			}
			b = append(append(b, part(i == len(text)-1, 0, opcode, text[i:i+1])...), between...)
		}
		return b
	}
	unmasked := append([]byte{0x80 | opText, byte(len(hello))}, hello...)
	lying := func(n uint64) []byte {
		return append(binary.BigEndian.AppendUint64([]byte{0x80 | opText, 0x80 | 127}, n), 1, 2, 3, 4, 'x')
	}
	big := bytes.Repeat([]byte("x"), limit/2)
	for _, c := range []struct {
		name string
		send []byte
		code int // 0: it is answered
	}{
		{"a ping of 125 bytes", append(masked(opPing, big[:125]), masked(opText, hello)...), 0},
		{"a ping of 126 bytes", masked(opPing, big[:126]), 1002},
		{"a ping in fragments", part(false, 0, opPing, nil), 1002},
		{"a pong that nobody asked for", append(masked(opPong, []byte("x")), masked(opText, hello)...), 0},
		{"reserved bit 1 without compression", part(true, rsv1, opText, hello), 1002},
		{"reserved bit 2", part(true, 0x20, opText, hello), 1002},
		{"reserved bit 3", part(true, 0x10, opPing, nil), 1002},
		{"opcode 3", masked(3, hello), 1002},
		{"opcode 11", masked(11, nil), 1002},
		{"a continuation of nothing", masked(opContinuation, hello), 1002},
		{"a text within another", append(part(false, 0, opText, hello[:5]), masked(opText, hello)...), 1002},
		{"a binary within a text", append(part(false, 0, opText, hello[:5]), part(true, 0, opBinary, hello)...), 1002},
		{"one byte each", bytewise(hello), 0},
		{"one byte each, pings between them", bytewise(hello, masked(opPing, []byte("p"))...), 0},
		{"10,000 empty fragments", append(append(part(false, 0, opText, hello[:5]), bytes.Repeat(part(false, 0, opContinuation, nil), 10_000)...),
			part(true, 0, opContinuation, hello[5:])...), 0},
		{"fragments that are too large together", append(append(part(false, 0, opText, big), part(false, 0, opContinuation, big)...),
			part(true, 0, opContinuation, big)...), 1009},
		{"a length of 2^63-1", lying(1<<63 - 1), -1},
		{"a length of 2^64-1", lying(1<<64 - 1), -1},
		{"a close frame of one byte", masked(opClose, []byte{3}), 1002},
		{"close code 999", masked(opClose, []byte{3, 231}), 1002},
		{"close code 1006", masked(opClose, []byte{3, 238}), 1002},
		{"close code 1000", masked(opClose, []byte{3, 232}), 1000},
		{"no mask", unmasked, -1},
	} {
		l := w.line(t, 0)
		go func() {
			_, _ = l.Write(c.send)
			if c.code == -1 { // it may wait for what it was promised
				_, _ = l.Write(masked(opText, hello))
				_ = l.Conn.(interface{ CloseWrite() error }).CloseWrite()
			}
		}()
		if c.code != 0 {
			if code := l.ended(); code != c.code && c.code != -1 {
				t.Errorf("%s: closed with %d; want %d", c.name, code, c.code)
			}
			continue
		}
		for {
			op, text, err := l.frame()
			if err != nil || op == opClose {
				t.Errorf("%s: ended with %d %q, %v", c.name, op, text, err)
				break
			}
			if bytes.Contains(text, []byte(`"unsubscribed"`)) {
				break
			}
		}
		_ = l.Close()
	}
}

// S16: a million control frames and empty fragments of some clients leave nothing in memory,
// and a healthy one is served meanwhile.
func TestS16ControlFlood(t *testing.T) {
	const clients, rounds, each = 10, 100, 1000
	w := newWorld(t, func(s *setup) { s.closeWait = 300 * time.Millisecond })
	p := w.dial(t)
	p.subscribe("a", nil, "")
	before := heap()
	var all sync.WaitGroup
	for i := range clients {
		l := w.line(t, 0)
		go func() { _, _ = io.Copy(io.Discard, l.Conn) }()
		all.Go(func() {
			flood := bytes.Repeat(masked(opPing, []byte("flood")), each)
			if i%2 == 1 {
				flood = bytes.Repeat(part(false, 0, opContinuation, nil), each)
				_, _ = l.Write(part(false, 0, opText, []byte("[")))
			}
			for range rounds {
				if _, err := l.Write(flood); err != nil {
					t.Error(err)
					return
				}
			}
			_ = l.Close()
		})
	}
	for i := range int64(20) {
		w.publish(t, "a", 1, 1)
		p.stream("a", i+1, i+1)
	}
	all.Wait()
	await(t, "only the healthy client is left", func() bool { return w.clients() == 1 })
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("%d bytes stay", grown)
	}
}

// squeeze compresses a message as permessage-deflate has it.
func squeeze(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	f, err := flate.NewWriter(&b, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// compressed connects with permessage-deflate offered, and tells whether it was agreed on.
func (w *world) compressed(t testing.TB) (p *peer, agreed string) {
	t.Helper()
	ws, res, err := websocket.Dial(t.Context(), w.http.URL+"/ws", &websocket.DialOptions{CompressionMode: websocket.CompressionNoContextTakeover, CompressionThreshold: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	p = &peer{t: t, ws: ws}
	if f := p.next(); f.Type != wire.Welcome {
		t.Fatalf("the first frame is %+v", f)
	}
	return p, res.Header.Get("Sec-WebSocket-Extensions")
}

// S17: nothing is compressed unless that is switched on. Then what a client sends compressed
// is understood, and counts by what it inflates to: of 100 MB of zeros no more is inflated
// than a frame may have.
func TestS17Compression(t *testing.T) {
	off := newWorld(t, nil)
	if _, agreed := off.compressed(t); agreed != "" {
		t.Errorf("compression is on by default: %s", agreed)
	}
	w := newWorld(t, func(s *setup) { s.Compression, s.closeWait = true, 300*time.Millisecond })
	p, agreed := w.compressed(t)
	if !strings.Contains(agreed, "client_no_context_takeover") || !strings.Contains(agreed, "server_no_context_takeover") {
		t.Errorf("agreed on %q", agreed)
	}
	p.raw(`{"type":"subscribe","ref":1,"topic":"a","pad":"` + strings.Repeat("x", 10_000) + `"}`)
	p.want(wire.Subscribed)
	w.publish(t, "a", 3, 5000)
	p.stream("a", 1, 3)

	zeros := squeeze(t, make([]byte, 100_000_000))
	few := squeeze(t, make([]byte, 1_000_000))
	before := heap()
	for name, bomb := range map[string][]byte{fmt.Sprintf("%d bytes for 100 MB", len(zeros)): zeros, fmt.Sprintf("%d bytes for 1 MB", len(few)): few} {
		for range 5 {
			l := w.lineWith(t, "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n")
			go func() { _, _ = l.Write(part(true, rsv1, opText, bomb)) }()
			began := time.Now()
			if code := l.ended(); code != 1009 {
				t.Errorf("%s: closed with %d; want 1009", name, code)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s took %v", name, took)
			}
			_ = l.Close()
		}
	}
	await(t, "only the healthy client is left", func() bool { return w.clients() == 1 })
	await(t, "no more than 1 MB stays", func() bool { return heap()-before <= 1<<20 }) // finalizers take their time
	t.Logf("%d bytes more in memory after 10 bombs", heap()-before)
	w.publish(t, "a", 1, 1)
	p.stream("a", 4, 4)
}

// lineWith is line with more headers in its handshake.
func (w *world) lineWith(t testing.TB, headers string) *line {
	t.Helper()
	l := w.connect(t, 0)
	l.write([]byte(strings.TrimSuffix(fmt.Sprintf(handshake, w.address()), "\r\n") + headers + "\r\n"))
	l.patience(within)
	res, err := http.ReadResponse(l.r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-WebSocket-Extensions") == "" {
		t.Fatalf("handshake: %v, %v", res, err)
	}
	return l
}

// S18: text that is no UTF-8 ends the connection with 1007 before anybody reads it as JSON:
// overlong forms, surrogates, what is beyond the last rune, and runes that are cut off. A
// rune that is split between two fragments is whole.
func TestS18UTF8(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(s *setup) { s.closeWait = 30 * time.Millisecond })
	for _, bad := range []string{"\xc0\xaf", "\xc1\xbf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\xbd\xed\xb8\x80",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\x80", "\xff", "\xfe", "\xe2\x82", "\xf0\x9f\x98"} {
		for _, text := range []string{bad, `{"type":"publish","topic":"a","event":"e","data":"` + bad + `"}`, `{"type":"hel` + bad, bad + `{"type":"hello"}`} {
			l := w.line(t, 0)
			half := len(text) / 2
			if len(text)%2 == 0 {
				l.write(masked(opText, []byte(text)))
			} else {
				l.write(append(part(false, 0, opText, []byte(text[:half])), part(true, 0, opContinuation, []byte(text[half:]))...))
			}
			if code := l.ended(); code != 1007 {
				t.Errorf("%q: closed with %d; want 1007", text, code)
			}
			_ = l.Close()
		}
	}
	good := `{"type":"subscribe","ref":"😀","topic":"a"}`
	cut := strings.Index(good, "😀") + 2
	l := w.line(t, 0, append(part(false, 0, opText, []byte(good[:cut])), part(true, 0, opContinuation, []byte(good[cut:]))...)...)
	for {
		_, text, err := l.frame()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(`"subscribed"`)) {
			if !bytes.Contains(text, []byte("😀")) {
				t.Errorf("got %s", text)
			}
			break
		}
	}
}

// S19: JSON that is too deep, has a member twice anywhere, or too many, or numbers that would
// grow, is refused with what is wrong, and costs no more than its length. Large whole numbers
// in data stay as they are.
func TestS19JSON(t *testing.T) {
	w := newWorld(t, func(s *setup) { s.MaxFrame = 8 << 20 })
	p := w.dial(t)
	publish := func(data string) string {
		return `{"type":"publish","ref":1,"topic":"a","event":"e","data":` + data + `}`
	}
	many := make([]string, 20_000)
	for i := range many {
		many[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	before := heap()
	for name, text := range map[string]string{
		"a million [":       strings.Repeat("[", 1e6),
		"a million {":       strings.Repeat(`{"a":`, 1e6),
		"deep data":         publish(strings.Repeat("[", 40) + strings.Repeat("]", 40)),
		"twice":             `{"type":"publish","ref":1,"topic":"a","topic":"b","event":"e"}`,
		"twice, escaped":    `{"type":"publish","ref":1,"topic":"a","\u0074opic":"b","event":"e"}`,
		"twice in data":     publish(`{"role":"user","x":[{"a":1,"a":2}]}`),
		"twice, far apart":  publish(`{` + strings.Join(many[:5000], ",") + `,"m0":1}`),
		"very many members": publish(`{` + strings.Join(many, ",") + `}`),
		"a number of 128 K": publish(`1e131071`),
		"a tiny number":     publish(`1e-131071`),
		"not a number":      publish(`NaN`),
		"hexadecimal":       publish(`0x10`),
		"a leading zero":    publish(`007`),
		"a comment":         publish(`1/*x*/`),
		"a trailing comma":  publish(`[1,]`),
		"something behind":  publish(`1`) + `{}`,
	} {
		began := time.Now()
		p.raw(text)
		if f := p.want(wire.Error); f.Code != "bad_frame" {
			t.Errorf("%s: %+v", name, f)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("%d bytes stay", grown)
	}
	p.subscribe("a", nil, "")
	for _, n := range []string{"9007199254740993", "123456789012345678901234567890", "-0.1234567890123456789", strings.Repeat("9", 1000)} {
		p.raw(publish(n))
		for {
			f := p.next()
			if f.Type != wire.Event {
				continue
			}
			if got := string(f.Events[0].Data); got != n {
				t.Errorf("%.60s arrives as %.60s", n, got)
			}
			break
		}
	}
}
