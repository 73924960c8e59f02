package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcast/pgcast"
	"github.com/pgcast/pgcast/client"
)

// Places in files are those of their names, whatever the names are, and nothing is left lying about.
func TestFilePlaces(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	p := client.FilePlaces(dir)
	names := []string{"room:1", "room.1", "room:**", "../../etc", "", strings.Repeat("long", 64), "room:1 "}
	for round := range 3 {
		for i, name := range names {
			want := client.From{After: int64(100*round + i), ID: "29-64d2c5b18fbcd", AsOf: "x"}
			if from, err := p.Load(t.Context(), name); err != nil || (from == nil) != (round == 0) {
				t.Fatalf("%q: %v, %v", name, from, err)
			}
			if err := p.Store(t.Context(), name, want); err != nil {
				t.Fatal(err)
			}
			if from, err := p.Load(t.Context(), name); err != nil || *from != want {
				t.Errorf("%q: %v, %v; want %v", name, from, err, want)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(names) {
		t.Errorf("%d files for %d names: %v, %v", len(files), len(names), files, err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.Name()), []byte(`{"name":"another","after":1}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Load(t.Context(), "room:1"); !errors.Is(err, &pgcast.Error{Code: pgcast.CodeInvalid}) {
		t.Errorf("a file of another name: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := client.FilePlaces(file).Store(t.Context(), "x", client.From{}); err == nil {
		t.Error("stored in a file that is no directory")
	}
}

// broken are places that cannot be loaded, or are of no use.
type broken struct{ from *client.From }

func (b broken) Load(context.Context, string) (*client.From, error) {
	if b.from != nil {
		return b.from, nil
	}
	return nil, errors.New("no disk")
}

func (b broken) Store(context.Context, string, client.From) error { return errors.New("no disk") }

// A place that cannot be read ends the iteration before it begins: to begin elsewhere would
// leave something out, or do it again.
func TestBrokenPlaces(t *testing.T) {
	for _, b := range []broken{{}, {&client.From{After: -1}}} {
		c := client.New("ws://127.0.0.1:1", &client.Options{Places: b})
		topic := c.Topic("a", nil)
		n := 0
		for it, err := range topic.Items(t.Context()) {
			if n++; err == nil || it != nil {
				t.Errorf("got %v", it)
			}
		}
		if n != 1 {
			t.Errorf("%d items", n)
		}
		if err := topic.Commit(t.Context(), client.From{}); err == nil {
			t.Error("it is stored")
		}
		if err := c.Topic("a", &client.TopicOptions{PlaceName: "b"}).Commit(t.Context(), client.From{}); err == nil {
			t.Error("it is stored")
		}
	}
}
