package gateway

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pgcast/pgcast/internal/wire"
)

// corpus is what strangers may send: the protocol's samples, broken in some way, and
// things nobody would think of.
func corpus(t testing.TB) [][]byte {
	t.Helper()
	files, err := filepath.Glob("../wire/testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var list [][]byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.TrimSpace(text)
		for range 5 {
			list = append(list, text[:r.IntN(len(text)-1)+1])
			bent := bytes.Clone(text)
			bent[r.IntN(len(bent))] = byte(r.IntN(128))
			list = append(list, bent[:len(bent)-1])
		}
	}
	for _, open := range []string{`[`, `{"a":`, `{"type":"publish","data":[`} {
		list = append(list, bytes.Repeat([]byte(open), 2000))
	}
	for _, s := range []string{``, `null`, `0`, `"`, "\x00", `{}`, `{"type":7}`, `{"type":"subscribe"}`, `{"type":"hello","caps":{}}`,
		`{"type":"subscribe","topic":"` + string(bytes.Repeat([]byte(`\u0061`), 5000)) + `","after":-1}`,
		`{"type":"resume","sessionId":"x","lastSeenSeqs":{"a":99999999999999999999}}`} {
		list = append(list, []byte(s))
	}
	return list
}

// 100,000 frames of garbage over many connections cost no lasting memory, and a healthy
// client does not notice.
func TestGarbage(t *testing.T) {
	const connections, each, atOnce = 1000, 100, 20
	w := newWorld(t, func(s *setup) { s.closeWait, s.Live.Cursors = 300*time.Millisecond, quick() })
	healthy := w.dial(t)
	healthy.subscribe("a", nil, "")
	all := corpus(t)
	before := heap()
	work := make(chan uint64)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for seed := range work {
				r := rand.New(rand.NewPCG(seed, 0))
				var b []byte
				for range each {
					b = append(b, masked(opText, all[r.IntN(len(all))])...)
				}
				l := w.line(t, 0)
				go func() { _, _ = l.Write(append(b, masked(opClose, []byte{3, 232})...)) }()
				l.ended()
				_ = l.Close()
			}
		})
	}
	for i := range connections {
		work <- uint64(i)
		if i%100 == 50 {
			w.publish(t, "a", 1, 1)
			healthy.stream("a", int64(i/100+1), int64(i/100+1))
		}
	}
	close(work)
	wg.Wait()
	await(t, "only the healthy client is left", func() bool { return w.clients() == 1 && len(w.hub.Sessions()) == 1 })
	errors := w.counter(t, "client_errors_total")
	if errors < connections*each/2 {
		t.Errorf("only %v frames were answered with an error", errors)
	}
	grown := heap() - before
	t.Logf("%d frames, %v errors, %d bytes more on the heap", connections*each, errors, grown)
	if grown > 8<<20 {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	healthy.quiet()
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools held is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Whatever a client sends, one frame a line: the session ends for a good reason, or a
// subscription after all of it works.
func FuzzFrames(f *testing.F) {
	for _, text := range corpus(f) {
		f.Add(text)
	}
	f.Add([]byte("{\"type\":\"resume\",\"sessionId\":\"x\",\"lastSeenSeqs\":{\"a\":5}}\n{\"type\":\"subscribe\",\"topic\":\"a\"}"))
	f.Add([]byte("\xff\n{}"))
	w := newWorld(f, func(s *setup) { s.MaxFrame, s.closeWait, s.Live.Cursors = 1<<10, 300*time.Millisecond, quick() })
	end := masked(opText, []byte(`{"type":"subscribe","ref":"the end","topic":"end"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var b []byte
		bad := map[int]bool{wire.CloseStalled: true} // a history that does not exist
		frames := bytes.Split(text, []byte("\n"))
		for _, frame := range frames {
			b = append(b, masked(opText, frame)...)
			bad[1007] = bad[1007] || !utf8.Valid(frame)
			bad[1009] = bad[1009] || len(frame) > 1<<10
		}
		bad[wire.ClosePolicy] = len(frames) > badFrames
		l := w.line(t, 0)
		defer l.Close()
		go func() { _, _ = l.Write(append(b, end...)) }()
		for {
			l.patience(within)
			opcode, answer, err := l.frame()
			switch {
			case err != nil:
				t.Fatalf("neither answered nor closed: %v", err)
			case opcode == opClose:
				if code := int(answer[0])<<8 | int(answer[1]); !bad[code] {
					t.Fatalf("closed with %d %s", code, answer[2:])
				}
				return
			case opcode == opText:
				if _, err := wire.ParseServer(answer); err != nil {
					t.Fatalf("answered by %s: %v", answer, err)
				}
				if bytes.Contains(answer, []byte(`"type":"subscribed"`)) && bytes.Contains(answer, []byte(`"ref":"the end"`)) {
					return
				}
			default:
				t.Fatalf("answered by a frame with opcode %d", opcode)
			}
		}
	})
}
