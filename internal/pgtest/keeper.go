package pgtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
)

// The keeper is a process of its own that owns a shared cluster: started from the test
// binary that needed one first, it outlives that, cleans up after processes that were
// killed, and ends with its cluster when nobody has used it for a while. The cluster in
// turn does not outlive the keeper.

// keeperEnv turns a test binary into a keeper; its value is the task.
const keeperEnv = "PGCAST_PGTEST_KEEPER"

// word is what the keeper says, once, to who started it: that its cluster answers, or
// why there is none.
type word struct{ Error string }

// task is what a keeper is to do.
type task struct {
	Dir      string
	Binaries devpg.Binaries
	Settings map[string]string
	Linger   time.Duration // how long to stay without users
}

// A test binary has no other place that is sure to run before its tests do.
func init() {
	text := os.Getenv(keeperEnv)
	if text == "" {
		return
	}
	tell := inherited(3)
	if err := keep(text, tell); err != nil {
		fmt.Fprintln(os.Stderr, err)
		_ = json.NewEncoder(tell).Encode(word{err.Error()}) // closed if it had good news before
		os.Exit(1)
	}
	os.Exit(0)
}

func keep(text string, tell *os.File) error {
	var what task
	if err := json.Unmarshal([]byte(text), &what); err != nil {
		return fmt.Errorf("read the keeper's task: %w", err)
	}
	lock, err := devpg.TryLock(filepath.Join(what.Dir, "keeper"))
	if err != nil {
		return err
	}
	if lock == nil {
		return errors.New("the shared cluster has a keeper already")
	}
	defer lock.Unlock()
	ctx := context.Background()
	c, err := devpg.Start(ctx, &devpg.Options{Binaries: what.Binaries, Settings: what.Settings})
	if err != nil {
		return err
	}
	defer c.Stop(ctx)
	if err := writeAddress(what.Dir, c); err != nil {
		return err
	}
	if err := json.NewEncoder(tell).Encode(word{}); err != nil {
		return err // whoever wanted the cluster has gone
	}
	tell.Close()
	return watch(ctx, c, what)
}

func writeAddress(dir string, c *devpg.Cluster) error {
	text, err := json.Marshal(address{Port: c.Port(), Version: c.Version()})
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "cluster.json.new")
	if err := os.WriteFile(tmp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, "cluster.json"))
}

// watch returns when the cluster has ended, or when it is to: then with the start lock
// held until the process is gone, so that nobody joins a cluster that is going away.
func watch(ctx context.Context, c *devpg.Cluster, what task) error {
	used := time.Now()
	for ; ; <-time.After(min(what.Linger/10, time.Second)) {
		if c.PID() == 0 {
			return fmt.Errorf("the shared cluster has ended:\n%s", tail(c.LogFile()))
		}
		start, err := devpg.TryLock(filepath.Join(what.Dir, "start"))
		if err == nil && start == nil { // somebody is just joining
			used = time.Now()
			continue
		}
		users := 0
		if err == nil {
			users, err = takeStock(ctx, c, what.Dir)
		}
		if err != nil {
			// Tests may be running: what cannot be done now is tried again.
			fmt.Fprintln(os.Stderr, err)
		}
		switch {
		case users > 0:
			used = time.Now()
		case time.Since(used) > what.Linger:
			return nil
		}
		if start != nil {
			start.Unlock()
		}
	}
}

// takeStock counts the living users and drops the databases of the dead.
func takeStock(ctx context.Context, c *devpg.Cluster, dir string) (users int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "users", "*"))
	if err != nil {
		return 0, err
	}
	living := map[string]bool{}
	var dead []string
	for _, file := range files {
		lock, err := devpg.TryLock(file)
		if err != nil {
			return 0, err
		}
		if lock == nil {
			living[filepath.Base(file)] = true
			continue
		}
		lock.Unlock()
		dead = append(dead, file)
	}
	if len(dead) == 0 {
		return len(living), nil
	}
	if err := dropLeftovers(ctx, c, living); err != nil {
		return len(living), fmt.Errorf("drop what ended processes left behind: %w", err)
	}
	for _, file := range dead {
		err = errors.Join(err, os.Remove(file))
	}
	return len(living), err
}

func dropLeftovers(ctx context.Context, c *devpg.Cluster, living map[string]bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select datname from pg_database where datname like 't\_%'`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		token, _, _ := strings.Cut(strings.TrimPrefix(name, "t_"), "_")
		if living[token] {
			continue
		}
		if err := drop(ctx, c.URL, name); err != nil {
			return err
		}
	}
	return nil
}
