package client

import (
	"context"
	"iter"
	"maps"
	"reflect"
	"slices"
	"sync"
)

// Change says that the value of a key is another one, or that the key is gone.
type Change[K comparable, V any] struct {
	Key   K
	Value V // what it is now; zero if it is gone
	Gone  bool
}

// state is a map that tells whoever watches it what has changed. A watcher that is slow is
// told the newest value of each key, not all that were in between: what waits for it is never
// more than the map has keys.
type state[K comparable, V any] struct {
	mu       sync.Mutex
	values   map[K]V
	watchers map[*watcher[K]]struct{}
}

// watcher is one iteration of changes.
type watcher[K comparable] struct {
	changed chan struct{} // has room for one

	// Guarded by the state's mu.
	order []K            // in which dirty ones have changed; may name some that are not dirty any more
	dirty map[K]struct{} // what has changed
	told  map[K]struct{} // what the caller believes to be there
}

func (s *state[K, V]) get(key K) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.values[key]
	return v, ok
}

func (s *state[K, V]) all() map[K]V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

func (s *state[K, V]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

func (s *state[K, V]) set(key K, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[K]V{}
	}
	s.values[key] = v
	s.tell(key)
}

func (s *state[K, V]) remove(key K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.values[key]; there {
		delete(s.values, key)
		s.tell(key)
	}
}

// replace has the map hold other values.
func (s *state[K, V]) replace(values map[K]V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.values
	s.values = values
	for key := range before {
		if _, stays := values[key]; !stays {
			s.tell(key)
		}
	}
	for key, v := range values {
		if old, was := before[key]; !was || !reflect.DeepEqual(old, v) {
			s.tell(key)
		}
	}
}

func (s *state[K, V]) tell(key K) {
	_, there := s.values[key]
	for w := range s.watchers {
		_, told := w.told[key]
		_, dirty := w.dirty[key]
		switch {
		case !there && !told:
			delete(w.dirty, key) // it came and went: a crowd that passes by is not to pile up
			if len(w.order) > 2*len(w.dirty)+100 {
				w.order = slices.DeleteFunc(w.order, func(k K) bool { _, still := w.dirty[k]; return !still })
			}
		case !dirty:
			w.dirty[key] = struct{}{}
			w.order = append(w.order, key)
		}
		signal(w.changed)
	}
}

// changes gives what there is, and then what changes, until the caller breaks, or ctx ends,
// or over is closed, of which why tells.
func (s *state[K, V]) changes(ctx context.Context, over <-chan struct{}, why func() error) iter.Seq2[Change[K, V], error] {
	return func(yield func(Change[K, V], error) bool) {
		w := &watcher[K]{changed: make(chan struct{}, 1), dirty: map[K]struct{}{}, told: map[K]struct{}{}}
		s.mu.Lock()
		if s.watchers == nil {
			s.watchers = map[*watcher[K]]struct{}{}
		}
		s.watchers[w] = struct{}{}
		for key := range s.values {
			w.dirty[key] = struct{}{}
			w.order = append(w.order, key)
		}
		s.mu.Unlock()
		signal(w.changed)
		defer func() {
			s.mu.Lock()
			delete(s.watchers, w)
			s.mu.Unlock()
		}()
		for {
			select {
			case <-w.changed:
			case <-over:
				yield(Change[K, V]{}, why())
				return
			case <-ctx.Done():
				yield(Change[K, V]{}, ctx.Err())
				return
			}
			for _, c := range s.news(w) {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
}

// news are the changes that a watcher has not been told.
func (s *state[K, V]) news(w *watcher[K]) (changes []Change[K, V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range w.order {
		if _, dirty := w.dirty[key]; !dirty {
			continue // it came and went, or stands in order twice
		}
		delete(w.dirty, key)
		v, there := s.values[key]
		if there {
			w.told[key] = struct{}{}
		} else {
			delete(w.told, key)
		}
		changes = append(changes, Change[K, V]{key, v, !there})
	}
	w.order = nil
	return changes
}
