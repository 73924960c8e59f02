package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the linker for released binaries: -X main.release=v1.2.3.
var release string

// build is what this program was built from.
type build struct{ version, commit, date string }

func version() build {
	b := build{version: "devel"}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if info.Main.Version != "" && info.Main.Version != "(devel)" {
			b.version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.commit = s.Value[:min(12, len(s.Value))]
			case "vcs.time":
				b.date = s.Value
			}
		}
	}
	if release != "" {
		b.version = release
	}
	return b
}

func (b build) String() string {
	text := "pgcast " + b.version
	if b.commit != "" {
		text += " (" + b.commit + ", " + b.date + ")"
	}
	return fmt.Sprintf("%s %s %s/%s", text, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (a *app) versionCommand() *cobra.Command {
	var modules bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Print the version, or with --modules everything that this program was built from: each
module with its version and its checksum, as go.sum has it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if modules {
				return a.printModules()
			}
			_, err := fmt.Fprintln(a.out, version())
			return err
		},
	}
	cmd.Flags().BoolVar(&modules, "modules", false, "list the modules that it was built from")
	return cmd
}

// printModules lists the modules in the binary, the toolchain first.
func (a *app) printModules() error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return invalid("build it with modules, as go build does", "this program does not know what it was built from")
	}
	t := a.newTable([]string{"module", "version", "checksum"})
	t.add("go", info.GoVersion, "")
	t.add(info.Main.Path, version().version, info.Main.Sum)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		t.add(m.Path, m.Version, m.Sum)
	}
	return t.close()
}
