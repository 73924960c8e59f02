package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pgcast/pgcast"
)

// Places keeps the places of topics, so that a process that begins again goes on where it
// was. Load gives nil for a name it does not know. Both may be called by several goroutines,
// for several names. See [MemoryPlaces] and [FilePlaces].
type Places interface {
	Load(ctx context.Context, name string) (*From, error)
	Store(ctx context.Context, name string, place From) error
}

const (
	placesEvery  = time.Second // at most so often the place of a topic is stored
	storeTimeout = 5 * time.Second
)

// load gives the stored place, if there is one.
func (t *Topic) load(ctx context.Context) (reached, error) {
	p := t.c.opts.Places
	if p == nil || t.opts.Snapshot && !t.opts.Manual {
		return reached{}, nil
	}
	from, err := p.Load(ctx, t.opts.PlaceName)
	if err != nil {
		return reached{}, fmt.Errorf("load the place of %q: %w", t.opts.PlaceName, err)
	}
	if from == nil {
		return reached{}, nil
	}
	if _, _, err := checked(t.name, SubscribeOptions{From: from}); err != nil {
		return reached{}, fmt.Errorf("load the place of %q: %w", t.opts.PlaceName, err)
	}
	return reached{*from, true}, nil
}

// finished notes that the consumer has done with an item, the place after it being here.
func (t *Topic) finished(ctx context.Context, here reached) {
	if t.c.opts.Places == nil || t.opts.Manual || t.opts.Snapshot {
		return
	}
	if here != t.done {
		t.done, t.dirty = here, true
	}
	if t.dirty && time.Since(t.stored) >= placesEvery {
		t.store(ctx)
	}
}

// store stores the place. What cannot be stored now is stored later: until then a process
// that dies would have more to do again.
func (t *Topic) store(ctx context.Context) {
	t.stored = time.Now()
	if !t.done.known {
		t.dirty = false
		return
	}
	if err := t.c.opts.Places.Store(ctx, t.opts.PlaceName, t.done.From); err != nil {
		t.c.opts.Logger.Error("pgcast client: the place of a topic cannot be stored", "name", t.opts.PlaceName, "error", err)
		return
	}
	t.dirty = false
}

// Commit stores a place in Options.Places at once: that of an event (see [Event.From]), which
// the consumer has done with. With TopicOptions.Manual nothing else stores one.
func (t *Topic) Commit(ctx context.Context, place From) error {
	if t.err != nil {
		return t.err
	}
	if t.c.opts.Places == nil {
		return &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("commit a place of %q: there is nothing to store it in", t.name), Hint: "set Options.Places"}
	}
	if err := t.c.opts.Places.Store(ctx, t.opts.PlaceName, place); err != nil {
		return fmt.Errorf("store the place of %q: %w", t.opts.PlaceName, err)
	}
	return nil
}

// MemoryPlaces keeps places as long as the process lives, for several clients one after the
// other. The zero value is ready.
type MemoryPlaces struct{ m sync.Map }

// Load implements [Places].
func (p *MemoryPlaces) Load(_ context.Context, name string) (*From, error) {
	if v, ok := p.m.Load(name); ok {
		from := v.(From)
		return &from, nil
	}
	return nil, nil
}

// Store implements [Places].
func (p *MemoryPlaces) Store(_ context.Context, name string, place From) error {
	p.m.Store(name, place)
	return nil
}

// FilePlaces keeps places in a directory, a small file for each name. A file is replaced as a
// whole and is on the disk before Store returns, so that a crash leaves the old place or the
// new one. One process at a time may use a directory.
type FilePlaces string

// filed is what a file has.
type filed struct {
	Name  string    `json:"name"`
	After int64     `json:"after"`
	ID    pgcast.ID `json:"id,omitempty"`
	AsOf  string    `json:"asOf,omitempty"`
}

// path gives the file of a name: something to be read by people, and a hash, since names may
// be longer than those of files.
func (p FilePlaces) path(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '.'
	}, name)
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(string(p), "place-"+clean[:min(len(clean), 60)]+"-"+hex.EncodeToString(sum[:8])+".json")
}

// Load implements [Places].
func (p FilePlaces) Load(_ context.Context, name string) (*From, error) {
	text, err := os.ReadFile(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var f filed
	if err := json.Unmarshal(text, &f); err != nil || f.Name != name {
		return nil, &pgcast.Error{Code: pgcast.CodeInvalid, Message: fmt.Sprintf("%s does not hold the place of %q", p.path(name), name),
			Hint: "remove it to begin anew"}
	}
	return &From{f.After, f.ID, f.AsOf}, nil
}

// Store implements [Places]. The directory is made where there is none.
func (p FilePlaces) Store(_ context.Context, name string, place From) (err error) {
	if err = os.MkdirAll(string(p), 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(filed{name, place.After, place.ID, place.AsOf})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(string(p), "new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), p.path(name))
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return err
	}
	dir, err := os.Open(string(p))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}
