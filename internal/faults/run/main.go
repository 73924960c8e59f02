// Run provokes the faults of package faults and writes what came of it as a page.
//
//	go run ./internal/faults/run -seed 1 [-full] [-run REGEXP] [-o docs/guarantees.md]
//
// Run it from the top of the repository. It needs what the tests need: Go and Postgres.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgcast/pgcast/internal/faults"
)

func main() {
	seed := flag.Uint64("seed", 1, "what the random choices follow from")
	full := flag.Bool("full", false, "as many trials as the catalogue asks for: hours instead of minutes")
	only := flag.String("run", "", "only tests that match, as go test -run; then no page is written unless -o is given")
	page := flag.String("o", "", "where to write the page (default docs/guarantees.md)")
	flag.Parse()
	if *page == "" && *only == "" {
		*page = filepath.Join("docs", "guarantees.md")
	}
	failed, err := run(*seed, *full, *only, *page)
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

func run(seed uint64, full bool, only, page string) (failed int, err error) {
	dir, err := os.MkdirTemp("", "pgcast-faults-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	figures := filepath.Join(dir, "figures")
	began := time.Now()
	ends, err := test(seed, full, only, figures)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(figures, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	results, err := faults.Read(f)
	if err != nil {
		return 0, err
	}
	for _, e := range ends {
		if e.state == "fail" {
			failed++
		}
	}
	if page == "" {
		return failed, nil
	}
	text := render(report{seed: seed, full: full, began: began, took: time.Since(began), ends: ends, results: results, machine: machine()})
	return failed, os.WriteFile(page, []byte(text), 0o644)
}

// end is how a test ended.
type end struct {
	state string // pass, fail or skip
	why   string // of a skip
}

// test runs the tests and passes on what they say.
func test(seed uint64, full bool, only, figures string) (map[string]end, error) {
	if only == "" {
		only = "^TestFault"
	}
	cmd := exec.Command("go", "test", "-json", "-count=1", "-timeout=24h", "-run", only, "./internal/faults")
	cmd.Env = append(os.Environ(), "PGCAST_TEST_LONG=1", "PGCAST_FAULTS_OUT="+figures, fmt.Sprint("PGCAST_FAULTS_SEED=", seed))
	if full {
		cmd.Env = append(cmd.Env, "PGCAST_FAULTS_FULL=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// Ctrl-C ends the tests, which clean up, and then us.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run go test: %w", err)
	}
	ends, err := listen(out)
	if werr := cmd.Wait(); err == nil && len(ends) == 0 && werr != nil {
		err = fmt.Errorf("run go test: %w", werr)
	}
	return ends, err
}

// listen reads what go test -json says.
func listen(out io.Reader) (map[string]end, error) {
	ends, said := map[string]end{}, map[string]string{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read what go test says: %w: %s", err, lines.Text())
		}
		switch e.Action {
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") {
				fmt.Print(e.Output)
			}
			if text := strings.TrimSpace(e.Output); !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") && text != "" {
				said[e.Test] = text
			}
		case "pass", "fail", "skip":
			if e.Test != "" {
				_, why, _ := strings.Cut(said[e.Test], ": ")
				ends[e.Test] = end{e.Action, why}
			}
		}
	}
	return ends, lines.Err()
}

// machine says what the figures were measured on.
func machine() string {
	version, err := exec.Command("go", "version").Output()
	if err != nil {
		return "?"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(version)), "go version ")
}
