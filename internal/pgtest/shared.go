package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcast/pgcast/internal/devpg"
)

// protocol is raised when processes built before and after a change here must not share
// a cluster.
const protocol = 2

// settings of the shared clusters. Room for many packages at once on a large machine.
var settings = map[Kind]map[string]string{
	Doorbell: {"max_prepared_transactions": "0", "max_connections": "500", "max_replication_slots": "50", "max_wal_senders": "50"},
	Logical:  {"max_prepared_transactions": "0", "max_connections": "300", "max_replication_slots": "100", "max_wal_senders": "100"},
	TwoPhase: {"max_prepared_transactions": "10", "max_connections": "500", "max_replication_slots": "50", "max_wal_senders": "50"},
}

// shared is this process's part in a cluster that other processes use too. Its
// directory holds:
//
//	start         locked while somebody joins, and while the keeper takes stock
//	keeper        locked by the keeper as long as it lives
//	cluster.json  where the cluster is
//	users/TOKEN   one for each process, locked as long as that process lives
//	template      locked while a migrated template is made
type shared struct {
	// static
	dir   string
	token string      // begins the names of this process's databases
	lock  *devpg.Lock // on users/TOKEN; the end of the process gives it back
	at    address

	names atomic.Int64

	mu       sync.Mutex
	template string // guarded by mu; "" until known
}

// address is what cluster.json says.
type address struct {
	Port    int
	Version int
}

func (a address) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", a.Port, database)
}

func (s *shared) url(database string) string { return s.at.url(database) }

// joined holds this process's shared clusters.
var joined struct {
	mu   sync.Mutex
	kind map[Kind]*shared
}

// join gives the cluster of a kind, and starts its keeper if there is none.
func join(ctx context.Context, kind Kind) (*shared, error) {
	joined.mu.Lock()
	defer joined.mu.Unlock()
	if s := joined.kind[kind]; s != nil {
		return s, nil
	}
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	base, err := devpg.TempDir()
	if err != nil {
		return nil, err
	}
	s, err := joinAt(ctx, base, kind.String(), task{Binaries: bin, Settings: settings[kind], Linger: 20 * time.Second})
	if err != nil {
		return nil, err
	}
	if joined.kind == nil {
		joined.kind = map[Kind]*shared{}
	}
	joined.kind[kind] = s
	return s, nil
}

func joinAt(ctx context.Context, base, name string, what task) (_ *shared, err error) {
	key, err := json.Marshal([]any{protocol, what})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(key)
	what.Dir = filepath.Join(base, "test-"+name+"-"+hex.EncodeToString(sum[:6]))
	if err := os.MkdirAll(filepath.Join(what.Dir, "users"), 0o700); err != nil {
		return nil, err
	}
	start, err := devpg.WaitLock(ctx, filepath.Join(what.Dir, "start"))
	if err != nil {
		return nil, err
	}
	defer start.Unlock()

	s := &shared{dir: what.Dir, token: fmt.Sprintf("%08x", rand.Uint32())}
	if s.lock, err = devpg.TryLock(s.userFile()); err != nil {
		return nil, err
	}
	if s.lock == nil {
		return nil, fmt.Errorf("another process has the token %s", s.token)
	}
	defer func() {
		if err != nil {
			s.leave()
		}
	}()
	alive, err := keeperLives(what.Dir)
	if err != nil {
		return nil, err
	}
	if alive {
		if s.at, err = adopt(ctx, what.Dir); err == nil {
			return s, nil
		}
		if !errors.Is(err, errKeeperGone) {
			return nil, err
		}
	}
	if err := startKeeper(ctx, what); err != nil {
		return nil, err
	}
	s.at, err = adopt(ctx, what.Dir)
	return s, err
}

func (s *shared) userFile() string { return filepath.Join(s.dir, "users", s.token) }

// leave gives up the place in the cluster; the keeper drops what is left there.
func (s *shared) leave() { s.lock.Unlock() }

func keeperLives(dir string) (bool, error) {
	lock, err := devpg.TryLock(filepath.Join(dir, "keeper"))
	if lock != nil {
		lock.Unlock()
	}
	return lock == nil && err == nil, err
}

var errKeeperGone = errors.New("the keeper of the shared cluster has ended")

// adopt reads where the cluster is and makes sure that it answers. A keeper ends with its
// cluster, so while there is one it pays to wait.
func adopt(ctx context.Context, dir string) (address, error) {
	for {
		at, err := readAddress(dir)
		if err == nil {
			err = ping(ctx, at)
		}
		if err == nil {
			return at, nil
		}
		alive, lockErr := keeperLives(dir)
		if lockErr != nil {
			return address{}, lockErr
		}
		if !alive {
			return address{}, fmt.Errorf("%w: %w", errKeeperGone, err)
		}
		select {
		case <-ctx.Done():
			return address{}, fmt.Errorf("%w; last tried: %w", context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func readAddress(dir string) (at address, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if err != nil {
		return at, err
	}
	return at, json.Unmarshal(text, &at)
}

func ping(ctx context.Context, at address) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, at.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// startKeeper runs this very test binary once more, as the keeper, and waits for its
// word that the cluster answers.
func startKeeper(ctx context.Context, what task) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	listen, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer listen.Close()
	log, err := os.OpenFile(filepath.Join(what.Dir, "keeper.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		tell.Close()
		return err
	}
	defer log.Close()
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), keeperEnv+"="+string(text))
	// Nothing of "go test" may reach it: not its pipes, which it would hold open, not its
	// directory, not the signals of its terminal.
	keepFiles()
	cmd.Dir, cmd.Stdout, cmd.Stderr = what.Dir, log, log
	cmd.ExtraFiles, cmd.SysProcAttr = []*os.File{tell}, ownSession()
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return fmt.Errorf("start the keeper: %w", err)
	}
	// Not waited for: it outlives us, and a goroutine that waits would look like a leak.
	_ = cmd.Process.Release()
	if deadline, ok := ctx.Deadline(); ok {
		_ = listen.SetReadDeadline(deadline)
	}
	var said word
	if err := json.NewDecoder(listen).Decode(&said); err != nil {
		return fmt.Errorf("wait for the keeper: %w\n%s", err, tail(log.Name()))
	}
	if said.Error != "" {
		return errors.New(said.Error)
	}
	return nil
}

// databaseName makes a name that the cluster has not seen: t_TOKEN_NUMBER_TEST.
func (s *shared) databaseName(test string) string {
	name := []byte("t_" + s.token + "_" + strconv.FormatInt(s.names.Add(1), 10) + "_")
	for i := 0; i < len(test) && len(name) < 60; i++ {
		c := test[i] | 0x20
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			c = '_'
		}
		name = append(name, c)
	}
	return string(name)
}
