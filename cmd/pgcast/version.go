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
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.out, version())
			return err
		},
	}
}
