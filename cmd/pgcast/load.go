package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgcast/pgcast"
)

const (
	envPrefix   = "PGCAST_"
	defaultFile = "pgcast.yaml"
	fromDefault = "default"
)

func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

func settingName(env string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(env, envPrefix), "_", "-"))
}

// settingFlag is a setting on the command line. It keeps the text: the text is read when
// it is known which source counts.
type settingFlag struct{ text, kind string }

func (f *settingFlag) String() string     { return f.text }
func (f *settingFlag) Set(v string) error { f.text = v; return nil }
func (f *settingFlag) Type() string       { return f.kind }

// addSettings gives a command flags for the settings of some scopes.
func addSettings(flags *pflag.FlagSet, scopes scope) {
	for _, s := range allSettings {
		if s.scope&scopes == 0 || flags.Lookup(s.name) != nil {
			continue
		}
		f := flags.VarPF(&settingFlag{s.value, s.kind}, s.name, "", s.help)
		if s.kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// completeSettings tells the shell about the values that can be listed.
func completeSettings(cmd *cobra.Command) {
	for _, s := range allSettings {
		if s.choices != nil && (cmd.Flags().Lookup(s.name) != nil || cmd.PersistentFlags().Lookup(s.name) != nil) {
			_ = cmd.RegisterFlagCompletionFunc(s.name, cobra.FixedCompletions(s.choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	for _, sub := range cmd.Commands() {
		completeSettings(sub)
	}
}

// layer is one source of settings, read.
type layer struct {
	from   func(name string) string // says so to people
	values *koanf.Koanf
}

// load puts the sources together: flags before the environment before the file before
// the defaults. Everything that is wrong is reported at once.
func load(flags *pflag.FlagSet, environ []string) (*settings, []string, error) {
	values := koanf.New(".")
	set := &settings{from: map[string]string{}, texts: map[string]string{}}
	for _, s := range allSettings {
		set.from[s.name] = fromDefault
		if err := values.Set(s.name, s.value); err != nil {
			return nil, nil, err
		}
	}
	var errs []error
	fileLayer, err := loadFile(flags, environ)
	if err != nil {
		errs = append(errs, err)
	}
	environment, warnings, err := loadEnvironment(environ)
	if environment == nil {
		return nil, nil, err
	}
	if err != nil {
		errs = append(errs, err)
	}
	command, err := loadFlags(flags, values)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range []*layer{fileLayer, environment, command} {
		if l == nil {
			continue
		}
		for name := range l.values.Raw() {
			if findSetting(name) == nil {
				errs = append(errs, unknownKey(name, l.from(name)))
				l.values.Delete(name)
				continue
			}
			set.from[name] = l.from(name)
		}
		if err := values.Merge(l.values); err != nil {
			return nil, nil, err
		}
	}
	if fileLayer != nil {
		set.file = fileLayer.from("")
	}
	const direct = "direct-database-url"
	if set.from["database-url"] == "--database-url" && set.given(direct) && set.from[direct] != "--"+direct {
		// It goes with the database-url that the flag has just replaced: whoever names a
		// database on the command line must not work on another one.
		warnings = append(warnings, "ignoring "+direct+" of "+set.from[direct]+": --database-url names a database, and it may lead to another")
		set.from[direct] = fromDefault
		if err := values.Set(direct, ""); err != nil {
			return nil, nil, err
		}
	}
	for i := range allSettings {
		s := &allSettings[i]
		if err := set.take(s, values.Get(s.name)); err != nil {
			errs = append(errs, err)
		}
	}
	slices.SortStableFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return set, warnings, errors.Join(errs...)
}

// take reads one value into the struct.
func (set *settings) take(s *setting, value any) error {
	var v string
	switch value := value.(type) {
	case string:
		v = strings.TrimSpace(value)
	case []any:
		parts := make([]string, len(value))
		for i, p := range value {
			parts[i] = fmt.Sprint(p)
		}
		v = strings.Join(parts, ",")
	case bool, int, int64, uint64, float64:
		v = fmt.Sprint(value)
	case nil:
		return invalid("give it a value, or remove the line", "%s in %s has no value", s.name, set.from[s.name])
	default:
		return invalid("write "+s.name+": value, on one line", "%s in %s is not a single value", s.name, set.from[s.name])
	}
	set.texts[s.name] = v
	err := s.read(set, v)
	if err == nil {
		return nil
	}
	shown := fmt.Sprintf(" %q", v)
	if s.secret {
		shown = ""
	}
	hint := ""
	var w *wrong
	if errors.As(err, &w) {
		hint = w.hint
	}
	return invalid(hint, "%s%s (%s) %s", s.name, shown, set.from[s.name], err)
}

// loadFile reads the settings file, if one is named or lies in the usual place.
func loadFile(flags *pflag.FlagSet, environ []string) (*layer, error) {
	path, must := lookupEnv(environ, envPrefix+"CONFIG"), true
	if f := flags.Lookup("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path == "" {
		path, must = defaultFile, false
	}
	values := koanf.New(".")
	err := values.Load(file.Provider(path), yaml.Parser())
	var missing *fs.PathError
	switch {
	case err == nil:
		return &layer{from: func(string) string { return path }, values: values}, nil
	case errors.Is(err, os.ErrNotExist) && !must:
		return nil, nil
	case errors.As(err, &missing):
		return nil, invalid("give another file with --config", "read settings: %v", err)
	}
	return nil, invalid("it must be YAML, one name: value per line, as pgcast config --reference lists them",
		"read settings from %s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
}

// loadEnvironment reads PGCAST_ variables. Unknown ones are only worth a warning: other
// programs' variables may well begin like that.
func loadEnvironment(environ []string) (*layer, []string, error) {
	var warnings []string
	var errs []error
	names := map[string]string{}
	provider := env.Provider("", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(k, v string) (string, any) {
			name := settingName(k)
			if secret := secretOf(k); secret != nil && v != "" {
				name = secret.name
				if lookupEnv(environ, envName(name)) != "" {
					errs = append(errs, invalid("keep one of them", "both %s and %s are set", envName(name), k))
					return "", nil
				}
				text, err := readSecret(k, v)
				if err != nil {
					errs = append(errs, err)
					return "", nil
				}
				names[name] = k
				return name, text
			}
			switch {
			case k == envPrefix+"CONFIG" || v == "": // compose files leave variables empty that are not set
				return "", nil
			case findSetting(name) == nil || envName(name) != k:
				warnings = append(warnings, "ignoring "+k+": it is not a setting"+suggest(name, envName))
				return "", nil
			}
			names[name] = k
			return name, v
		},
	})
	values := koanf.New(".")
	if err := values.Load(provider, nil); err != nil {
		return nil, nil, fmt.Errorf("read the environment: %w", err)
	}
	slices.Sort(warnings)
	return &layer{from: func(name string) string { return names[name] }, values: values}, warnings, errors.Join(errs...)
}

// loadFlags reads the flags that were given.
func loadFlags(flags *pflag.FlagSet, below *koanf.Koanf) (*layer, error) {
	values := koanf.New(".")
	provider := posflag.ProviderWithFlag(flags, "", below, func(f *pflag.Flag) (string, any) {
		if !f.Changed || findSetting(f.Name) == nil {
			return "", nil
		}
		return f.Name, f.Value.String()
	})
	if err := values.Load(provider, nil); err != nil {
		return nil, fmt.Errorf("read the flags: %w", err)
	}
	return &layer{from: func(name string) string { return "--" + name }, values: values}, nil
}

func unknownKey(name, where string) error {
	return &pgcast.Error{Code: pgcast.CodeInvalid,
		Message: fmt.Sprintf("%s has %q, which is not a setting", where, name),
		Hint:    strings.TrimPrefix(suggest(name, func(s string) string { return s })+"; pgcast config --reference lists all", "; ")}
}

// suggest names the setting that was probably meant.
func suggest(name string, write func(string) string) string {
	names := make([]string, len(allSettings))
	for i, s := range allSettings {
		names[i] = s.name
	}
	meant := closest(strings.ReplaceAll(name, "_", "-"), names)
	if meant == "" {
		return ""
	}
	return "; did you mean " + write(meant) + "?"
}

// closest gives the name that is most like a mistyped one, or "" when none is.
func closest(typed string, names []string) string {
	best, least := "", min(4, (len(typed)+2)/2)
	for _, name := range names {
		if d := distance(typed, name); d < least || d > 0 && strings.HasPrefix(name, typed) && best == "" {
			best, least = name, d
		}
	}
	return best
}

// distance is how many letters must be added, removed or replaced to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
