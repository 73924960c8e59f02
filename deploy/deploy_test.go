package deploy_test

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The image's build line makes a static binary, and the image runs it as nobody.
func TestDockerfile(t *testing.T) {
	text := read(t, "Dockerfile")
	line := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .* -o )/pgcast (\./cmd/pgcast)$`).FindStringSubmatch(text)
	if line == nil {
		t.Fatal("no build line")
	}
	stages := strings.Split(text, "\nFROM ")
	last := stages[len(stages)-1]
	if !strings.HasPrefix(last, "scratch\n") || !strings.Contains(last, "\nUSER 65532:65532\n") {
		t.Errorf("the last stage is not an empty base with an unprivileged user:\n%s", last)
	}
	if testing.Short() {
		t.Skip("short: not building the binary")
	}
	bin := filepath.Join(t.TempDir(), "pgcast")
	// With -trimpath, which matters to nothing here, every package would be compiled once
	// more, for minutes on a busy machine; without it the other tests have built most.
	build := strings.NewReplacer("${VERSION}", "v1.2.3-image", "-trimpath ", "").Replace(line[1])
	cmd := exec.Command("sh", "-c", build+bin+" "+line[2])
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if runtime.GOOS == "linux" {
		f, err := elf.Open(bin)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if libs, _ := f.ImportedLibraries(); len(libs) > 0 || f.Section(".interp") != nil {
			t.Errorf("the binary is not static: it needs %v", libs)
		}
	}
	out, err := exec.Command(bin, "version").Output()
	if err != nil || !bytes.HasPrefix(out, []byte("pgcast v1.2.3-image ")) {
		t.Errorf("pgcast version: %v %q: the build does not set the version", err, out)
	}
}

// The compose file is YAML, builds our Dockerfile and publishes on loopback only.
func TestCompose(t *testing.T) {
	file, err := yaml.Parser().Unmarshal([]byte(read(t, "compose.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	services := file["services"].(map[string]any)
	pgcast := services["pgcast"].(map[string]any)
	build := pgcast["build"].(map[string]any)
	if _, err := os.Stat(filepath.Join(build["context"].(string), build["dockerfile"].(string))); err != nil {
		t.Error(err)
	}
	for _, p := range pgcast["ports"].([]any) {
		if !strings.HasPrefix(p.(string), "127.0.0.1:") {
			t.Errorf("port %v is published to everybody, and there are no access rules", p)
		}
	}
	if _, ok := services["postgres"].(map[string]any)["healthcheck"]; !ok {
		t.Error("pgcast waits for postgres to be healthy, but postgres has no healthcheck")
	}
	redis := services["redis"].(map[string]any)
	if redis["ports"] != nil || redis["profiles"] == nil || !strings.Contains(fmt.Sprint(redis["command"]), "maxmemory-policy noeviction") {
		t.Errorf("Redis is published, or not optional, or evicts what it likes: %v", redis)
	}
	if url := pgcast["environment"].(map[string]any)["PGCAST_REDIS_URL"]; url != "${PGCAST_REDIS_URL:-}" {
		t.Errorf("PGCAST_REDIS_URL is %v", url)
	}
	if command, want := exec.Command("docker", "compose", "-f", "compose.yaml", "config", "-q"), "docker compose"; exec.Command("docker", "compose", "version").Run() == nil {
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%s config: %v\n%s", want, err, out)
		}
	} else {
		t.Log("no docker compose here: checked as YAML only")
	}
}

// systemd accepts the unit, and rates its exposure as safe.
func TestSystemdUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here: the unit is not checked")
	}
	unit := strings.ReplaceAll(read(t, "pgcast.service"), "/usr/local/bin/pgcast", "/bin/true")
	path := filepath.Join(t.TempDir(), "pgcast.service")
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "pgcast.service") {
			t.Error(strings.TrimSpace(line))
		}
	}
	if err != nil && !t.Failed() {
		t.Logf("verify complains of the machine's own units: %v\n%s", err, out)
	}
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=20", path).CombinedOutput()
	if err != nil {
		t.Errorf("exposure above 2.0: %v\n%s", err, out[max(0, len(out)-600):])
	}
}
