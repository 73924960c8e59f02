package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Machine is what the figures were measured on.
type Machine struct {
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Memory   int64             `json:"memory_bytes"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	Postgres string            `json:"postgres"`
	Settings map[string]string `json:"postgres_settings"`
	// Fsync is what one flush adds to the commit of a small transaction: the median with
	// synchronous_commit on less the median with it off.
	Fsync float64 `json:"fsync_ms"`
}

func machineOf(ctx context.Context, conn *pgx.Conn, commits int) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version(), Settings: map[string]string{},
		CPU: field("/proc/cpuinfo", "model name"), Kernel: strings.TrimSpace(read("/proc/sys/kernel/osrelease"))}
	kb, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	m.Memory = kb << 10
	if err := conn.QueryRow(ctx, "show server_version").Scan(&m.Postgres); err != nil {
		return m, err
	}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "shared_buffers",
		"max_wal_size", "max_prepared_transactions"} {
		var v string
		if err := conn.QueryRow(ctx, "select current_setting($1)", name).Scan(&v); err != nil {
			return m, err
		}
		m.Settings[name] = v
	}
	var err error
	m.Fsync, err = fsyncTime(ctx, conn, commits)
	return m, err
}

// fsyncTime measures a flush as a writer meets it, in milliseconds.
func fsyncTime(ctx context.Context, conn *pgx.Conn, commits int) (float64, error) {
	took := map[string][]float64{}
	for range commits {
		for _, mode := range []string{"on", "off"} {
			if _, err := conn.Exec(ctx, "set synchronous_commit = "+mode); err != nil {
				return 0, err
			}
			began := time.Now()
			// A message makes WAL without a table that grows.
			if _, err := conn.Exec(ctx, "select pg_logical_emit_message(true, 'bench', 'x')"); err != nil {
				return 0, err
			}
			took[mode] = append(took[mode], milliseconds(time.Since(began)))
		}
	}
	_, err := conn.Exec(ctx, "reset synchronous_commit")
	return max(0, quantile(took["on"], 0.5)-quantile(took["off"], 0.5)), err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func read(path string) string {
	text, _ := os.ReadFile(path) // what cannot be read is not known
	return string(text)
}

// field finds "name: value" in a file of /proc.
func field(path, name string) string {
	for line := range strings.Lines(read(path)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// tick is the unit of processor times in /proc: USER_HZ is 100 on every Linux there is.
const tick = 10 * time.Millisecond

// stat is what /proc/PID/stat says.
type stat struct {
	parent   int
	self     time.Duration // user and system
	children time.Duration // that have ended
}

func statOf(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name in brackets may hold anything; what follows the last one are numbers.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read the processor time of process %d: %q", pid, text)
	}
	n := func(i int) time.Duration {
		v, _ := strconv.ParseInt(fields[i], 10, 64)
		return time.Duration(v) * tick
	}
	parent, _ := strconv.Atoi(fields[1])
	return stat{parent, n(11) + n(12), n(13) + n(14)}, nil
}

// cpuOf is the processor time a process has used.
func cpuOf(pid int) (time.Duration, error) {
	s, err := statOf(pid)
	return s.self, err
}

// cpuOfFamily is that of a process, its living children and those that have ended.
func cpuOfFamily(pid int) (time.Duration, error) {
	s, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	total := s.self + s.children
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if child, err := statOf(id); err == nil && child.parent == pid {
			total += child.self
		}
	}
	return total, nil
}

// residentOf is a process's resident memory in bytes.
func residentOf(pid int) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Rss:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("smaps_rollup does not say how much is resident")
}

// filesOf is how many files a process may have open.
func filesOf(pid int) int {
	for line := range strings.Lines(read(fmt.Sprintf("/proc/%d/limits", pid))) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				if n, err := strconv.Atoi(f[0]); err == nil {
					return n
				}
			}
		}
	}
	return 1 << 30 // unlimited, or not known
}
