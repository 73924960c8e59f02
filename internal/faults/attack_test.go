package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/pgcast/pgcast/internal/judge"
)

// attack lets strangers do something to a server while its good clients go on, and reports
// what the good ones notice of it and what it costs in memory.
func attack(t *testing.T, number, what string, do func(s *judge.Server)) {
	t.Helper()
	r := begin(t, number, what)
	db := judge.Database(t, nil)
	s := stage(t, db.URL, 1)
	s.write(1)
	s.flow()
	// What the server used of one processor.
	busy := func(meanwhile func()) float64 {
		used := func() float64 { return measured(t, s.servers[0], "process_cpu_seconds_total", "") }
		cpu, began := used(), time.Now()
		meanwhile()
		return (used() - cpu) / time.Since(began).Seconds()
	}
	var before, beside []time.Duration
	alone := busy(func() { before = probes(t, db.URL, s.topics[0], "room:0", 100) })
	memory := s.servers[0].Memory()
	attacked := busy(func() {
		var g sync.WaitGroup
		g.Go(func() { do(s.servers[0]) })
		beside = probes(t, db.URL, s.topics[0], "room:0", 100)
		g.Wait()
	})
	grown := s.servers[0].Memory() - memory
	s.end(r)
	a, b := percentile(before, 0.99), percentile(beside, 0.99)
	r.figure("good clients' p99 from commit to client, without and beside it", fmt.Sprint(round(a), ", ", round(b)), "unchanged (within twice, on one machine with the attacker)", b <= 2*a)
	r.because("the attacker, the server, Postgres and the good clients share the processors, and what the attacker sends over loopback is received at its expense and theirs; the next figure has what the server itself spent on it")
	r.figure("of one processor, what the server used without and beside it", fmt.Sprintf("%.0f %%, %.0f %%", 100*alone, 100*attacked), "≤ 50 % more", attacked <= alone+0.5)
	r.most("memory grown, MiB", grown>>20, 64, 400)
	judge.Await(t, "nobody of them is left", time.Minute, func() bool {
		n, _ := s.servers[0].Metric("pgcast_sessions", "")
		return n <= 3 // the good ones, and who came meanwhile
	})
}

// dialer gives up soon: a full listen queue is the attacker's own trouble.
var dialer = net.Dialer{Timeout: 10 * time.Second}

const handshake = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// Very many handshakes that never end: each connection is closed a few seconds later, and
// good clients get in meanwhile.
func TestFaultAttackHalfOpenHandshakes(t *testing.T) {
	later(t)
	attack(t, "A1", "handshakes that never end, very many at once", func(s *judge.Server) {
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for range trials(200, 2000, 8000) {
			c, err := dialer.Dial("tcp", s.Listen)
			if err != nil {
				t.Errorf("connection %d: %v", len(conns), err)
				return
			}
			conns = append(conns, c)
			_, _ = io.WriteString(c, handshake)
		}
		judge.NewReader(t, "http://"+s.Listen, "comes meanwhile", &judge.ReaderOptions{NoFold: true}, "room:0")
		for i, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("connection %d is still open", i)
				return
			}
		}
	})
}

// Headers that come a byte at a time are given up on.
func TestFaultAttackSlowLoris(t *testing.T) {
	later(t)
	attack(t, "A2", "headers and bodies that come a byte at a time (slow loris)", func(s *judge.Server) {
		var g sync.WaitGroup
		for i := range trials(20, 100, 500) {
			g.Go(func() {
				c, err := dialer.Dial("tcp", s.Listen)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				text := handshake + strings.Repeat("X-A: b\r\n", 100)
				if i%2 == 1 { // a body, whose end never comes
					text = "POST /topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nPgcast-Event: e\r\nContent-Length: 1000\r\n\r\n"
				}
				if i%2 == 1 {
					_, _ = io.WriteString(c, text)
					text = strings.Repeat(" ", 1000)
				}
				began := time.Now()
				for k := range text {
					if _, err := io.WriteString(c, text[k:k+1]); err != nil {
						return
					}
					judge.Pause(t.Context(), 250*time.Millisecond)
				}
				t.Errorf("after %v it may still go on", time.Since(began))
			})
		}
		g.Wait()
	})
}

// Frames that say they are huge, lie, are no UTF-8 or nested without end cost the server
// nothing and their sender the session. The sender is a process of its own and of the lowest
// priority: what it costs to attack is not to be measured, and elsewhere it is another machine's.
func TestFaultAttackFrames(t *testing.T) {
	attack(t, "A3", "giant frames, lying lengths, invalid UTF-8, deep JSON", func(s *judge.Server) {
		exe, err := os.Executable()
		if err != nil {
			t.Error(err)
			return
		}
		cmd := exec.Command("nice", "-n", "19", exe)
		cmd.Env = append(os.Environ(), attackerEnv+"="+s.Listen, fmt.Sprint(attacksEnv, "=", trials(40, 400, 4000)))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("the attacker: %v\n%s", err, out)
		}
	})
}

// How a process of these tests is told to be the attacker instead.
const (
	attackerEnv = "PGCAST_FAULTS_ATTACK"  // the server's address
	attacksEnv  = "PGCAST_FAULTS_ATTACKS" // how many
)

// attacker attacks a server with bad frames, and ends the process.
func attacker(address string) {
	count, err := strconv.Atoi(os.Getenv(attacksEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	var g sync.WaitGroup
	var failed atomic.Bool
	most := make(chan struct{}, 40) // each waits for seconds to be answered, as it does not answer
	for i := range count {
		most <- struct{}{}
		g.Go(func() {
			defer func() { <-most }()
			if err := badFrames(address, i); err != nil {
				fmt.Fprintf(os.Stderr, "attack %d: %v\n", i, err)
				failed.Store(true)
			}
		})
	}
	g.Wait()
	if failed.Load() {
		os.Exit(1)
	}
	os.Exit(0)
}

// opcode is text for a message's first fragment, then continuation.
func opcode(fragment int) byte {
	if fragment == 0 {
		return 1
	}
	return 0
}

// badFrames sends frames that cannot be read, one kind of four, until the session ends.
func badFrames(address string, kind int) error {
	c, err := dialer.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = io.WriteString(c, handshake+"\r\n")
	r := bufio.NewReader(c)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the handshake: %v, %w", res, err)
	}
	// The server ends the session in the midst of this; what cannot be written is no matter.
	frame := func(header []byte, payload []byte) bool {
		_, err := c.Write(append(append(header, 0, 0, 0, 0), payload...)) // masked with nothing
		return err == nil
	}
	switch kind % 4 {
	case 0: // 2^62 bytes are to come
		frame([]byte{0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 1<<20))
	case 1: // a message of fragments that never ends
		for k := 0; k < 64 && frame([]byte{opcode(k), 0xfe, 0xff, 0xff}, make([]byte, 65535)); k++ {
		}
	case 2: // no UTF-8
		frame([]byte{0x81, 0x82}, []byte{0xff, 0xfe})
	case 3: // deep JSON: refused, and after a hundred of them the session too
		deep := []byte(strings.Repeat("[", 60_000))
		for k := 0; k < 120 && frame([]byte{0x81, 0xfe, byte(len(deep) >> 8), byte(len(deep))}, deep); k++ {
		}
	}
	if _, err := io.Copy(io.Discard, r); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the session goes on")
	}
	return nil
}

// Subscriptions without end, to topics and patterns made to be dear, by several sessions: each
// is answered, the most are refused, and what a session can hold stays bounded.
func TestFaultAttackSubscriptions(t *testing.T) {
	attack(t, "A4", "very many subscriptions, names as weapons", func(s *judge.Server) {
		count, sessions := trials(2_000, 20_000, 1_000_000), trials(1, 1, 25) // each gets some 1,000 refusals a second
		var g sync.WaitGroup
		for range sessions {
			g.Go(func() { subscribeMany(t, s, count/sessions) })
		}
		g.Wait()
		if n, _ := s.Metric("pgcast_subscriptions", ""); n > float64(1000*sessions+6) {
			t.Errorf("%v subscriptions are held", n)
		}
	})
}

func subscribeMany(t *testing.T, s *judge.Server, count int) {
	weapons := []string{"%d", "a:%d", "*:%d", "%d:**", strings.Repeat("*:", 120) + "%d", strings.Repeat("(a+)+", 40) + "%d", "__%d", "a:**:%d", "%d\\u0000", strings.Repeat("x", 300) + "%d"}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+s.Listen+"/ws", nil)
	if err != nil {
		t.Error(err)
		return
	}
	defer ws.CloseNow()
	answers := make(chan int)
	go func() {
		n := 0
		for n < count {
			_, text, err := ws.Read(ctx)
			if err != nil {
				t.Errorf("after %d answers: %v", n, err)
				break
			}
			if strings.Contains(string(text[:min(30, len(text))]), `"subscribe`) {
				n++
			}
		}
		answers <- n
	}()
	for i := range count {
		name := fmt.Sprintf(weapons[i%len(weapons)], i)
		if err := ws.Write(ctx, websocket.MessageText, []byte(`{"type":"subscribe","ref":1,"topic":"`+name+`"}`)); err != nil {
			t.Errorf("subscription %d: %v", i, err)
			break
		}
	}
	if n := <-answers; n != count {
		t.Errorf("%d answers to %d subscriptions", n, count)
	}
}
