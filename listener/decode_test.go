package listener

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
)

// FuzzDecode: what is no message of pgoutput is an error, whatever it is, and costs no room
// that it claims. Its seeds were sent by Postgres 15.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte, inStream bool) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		was, in := bytes.Clone(data), inStream
		m, _, err := decode(data, &in)
		runtime.ReadMemStats(&after)
		if room := after.TotalAlloc - before.TotalAlloc; room > 1<<20+200*uint64(len(data)) {
			t.Errorf("%d bytes took %d bytes of memory", len(data), room)
		}
		if !bytes.Equal(was, data) {
			t.Error("it has changed what it read")
		}
		switch {
		case err != nil && m.Message != nil:
			t.Error("a message and an error: ", err)
		case err != nil && in != inStream:
			t.Error("an error has changed the state")
		case err == nil && m.Message == nil && data[0] != pglogrepl.PrimaryKeepaliveMessageByteID:
			t.Error("neither a message nor an error")
		}
	})
}

// seeds gives the messages of the corpus: real ones, of every kind.
func seeds(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/fuzz/FuzzDecode/*")
	ok(t, err)
	all := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		ok(t, err)
		line := strings.Split(string(text), "\n")[1]
		data, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(line, "[]byte("), ")"))
		if err != nil {
			continue // found by the fuzzer
		}
		all[filepath.Base(file)] = []byte(data)
	}
	return all
}

// TestDecodeCutShort: a message that has lost its end, or one byte of it, is never believed to
// be longer than it is.
func TestDecodeCutShort(t *testing.T) {
	t.Parallel()
	kinds := map[string]bool{}
	for name, data := range seeds(t) {
		in := strings.Contains(name, "streamed")
		m, _, err := decode(data, &in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Message != nil {
			kinds[m.Type().String()] = true
		}
		step := max(1, len(data)/200)
		for n := 0; n < len(data); n += step {
			in := strings.Contains(name, "streamed")
			if _, _, err := decode(data[:n:n], &in); err == nil && (strings.HasPrefix(name, "insert") || strings.HasPrefix(name, "update") || strings.HasPrefix(name, "delete")) {
				t.Errorf("%s: its first %d of %d bytes are a message", name, n, len(data))
			}
			flipped := bytes.Clone(data)
			flipped[n] ^= 0xff
			_, _, _ = decode(flipped, &in) // does not panic
		}
	}
	for _, kind := range []string{"Begin", "Commit", "Relation", "Type", "Insert", "Update", "Delete", "Truncate", "StreamStart", "StreamStop", "StreamCommit", "StreamAbort"} {
		if !kinds[kind] {
			t.Errorf("no %s in the corpus", kind)
		}
	}
}

func TestDecodeGarbage(t *testing.T) {
	t.Parallel()
	head := "w" + strings.Repeat("\x00", 24)
	for _, garbage := range []string{"", "k", "w", "x", head, head + "?", head + "I", head + "I\x00\x00\x00\x01N\x00\x01t\xff\xff\xff\xffx",
		head + "I\x00\x00\x00\x01N\x00\x01?", head + "U\x00\x00\x00\x01O\x00\x01n", head + "R\x00\x00\x00\x01a", head + "S\x00\x00"} {
		in := false
		if m, _, err := decode([]byte(garbage), &in); err == nil || in {
			t.Errorf("%q is %v", garbage, m)
		}
	}
}
