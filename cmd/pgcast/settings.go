package main

import (
	"slices"
	"time"

	"github.com/pgcast/pgcast/internal/server"
	"github.com/pgcast/pgcast/replay"
)

// settings are what pgcast can be told, with every source taken into account.
type settings struct {
	DatabaseURL       string
	DirectDatabaseURL string
	DataDir           string

	Listen         string
	AdminListen    string
	InsecureOpen   bool
	AllowedOrigins []string
	AdminToken     string
	TLSCertFile    string
	TLSKeyFile     string
	Compression    string // off or on

	InsecureDatabase bool
	InsecureRedis    bool

	Wake           replay.Wake
	PoolSize       int
	RetentionEvery time.Duration
	Migrate        bool

	MaxFrame         int
	MaxEvent         int
	MaxSubscriptions int
	MaxSessions      int
	MaxPerAddress    int
	MaxPerSubject    int
	RingSize         int
	SnapshotFresh    time.Duration
	SpoolDir         string
	WriteTimeout     time.Duration
	PingInterval     time.Duration
	DrainTimeout     time.Duration
	Profile          bool
	Console          string // on or off

	Live server.LiveOptions

	Token      string // of a client
	AccessMode string // auto, open or rules
	Access     server.AccessOptions

	NoDemo bool
	PGBin  string

	LogFormat string
	LogLevel  string

	file  string            // the settings file that was read, or ""
	from  map[string]string // where each setting's value comes from, by name
	texts map[string]string // each value as it was written
}

// given tells whether a setting was given, by whatever means, and is not the default.
func (s *settings) given(name string) bool { return s.from[name] != fromDefault }

// scope says which commands a setting has a flag for.
type scope int

const (
	forAll      scope = 1 << iota // every command
	forDatabase                   // what needs a database
	forServe                      // serve only
	forServer                     // serve and dev
	forDev                        // dev only
	forTail                       // what finds a server
	forBench                      // bench only
	forToken                      // token only
	forAny      = forAll | forDatabase | forServe | forServer | forDev | forTail | forBench | forToken
)

// setting is one of them: everything that flags, help, checks, config and the reference
// in the docs need to know.
type setting struct {
	name    string // of the flag and in YAML; PGCAST_ and upper case in the environment
	value   string // default
	kind    string // what its value is, one word; "bool" for switches
	help    string
	scope   scope
	secret  bool     // never shown; of a database URL only the password is hidden
	choices []string // every allowed value, where they can be listed
	read    func(s *settings, text string) error
}

// allSettings is the one list of them, in the order people read them.
var allSettings = slices.Concat(mainSettings, accessSettings, guardSettings, liveSettings)

var mainSettings = []setting{
	{name: "database-url", kind: "url", scope: forDatabase, secret: true,
		help: "Postgres to use: postgres://user:password@host:5432/database",
		read: databaseURL(func(s *settings) *string { return &s.DatabaseURL })},
	{name: "direct-database-url", kind: "url", scope: forServer, secret: true,
		help: "the same database without a pooler in between, where database-url goes through one",
		read: databaseURL(func(s *settings) *string { return &s.DirectDatabaseURL })},
	{name: "data-dir", value: ".pgcast", kind: "directory", scope: forDatabase | forTail,
		help: "where pgcast dev keeps its database, and where other commands find the one that runs",
		read: text(func(s *settings) *string { return &s.DataDir }, "give a directory")},

	{name: "listen", value: "127.0.0.1:8080", kind: "address", scope: forServer | forTail,
		help: "address for clients: /ws, /topics, /healthz, /readyz",
		read: address(func(s *settings) *string { return &s.Listen })},
	{name: "admin-listen", value: "127.0.0.1:9187", kind: "address", scope: forServer,
		help: "address for /metrics and /limits; off loopback an admin-token is needed",
		read: address(func(s *settings) *string { return &s.AdminListen })},
	{name: "insecure-open", value: "false", kind: "bool", scope: forServer,
		help: "listen also where other machines can connect, and answer to any name, although there are no access rules",
		read: boolean(func(s *settings) *bool { return &s.InsecureOpen })},
	{name: "allowed-origins", kind: "origins", scope: forServer,
		help: "hosts of web pages that may connect besides those of the same host, as https://app.example.com,localhost:5173",
		read: origins(func(s *settings) *[]string { return &s.AllowedOrigins })},

	{name: "wake", value: "auto", kind: "mode", scope: forServer, choices: []string{"auto", "notify", "wal", "poll"},
		help: "how to learn of new events: auto, notify, wal or poll",
		read: choice(func(s *settings) *replay.Wake { return &s.Wake }, "auto", "notify", "wal", "poll")},
	{name: "pool-size", value: "10", kind: "number", scope: forServer,
		help: "most connections to Postgres at a time, besides the sequencer's own, five for snapshots and twelve for access control",
		read: number(func(s *settings) *int { return &s.PoolSize }, 2, 10_000)},
	{name: "retention-every", value: "1m", kind: "duration", scope: forServer,
		help: "how often to trim what is older than pgcast.retention allows",
		read: duration(func(s *settings) *time.Duration { return &s.RetentionEvery }, time.Second, 24*time.Hour)},
	{name: "migrate", value: "false", kind: "bool", scope: forServe,
		help: "run pgcast migrate up first",
		read: boolean(func(s *settings) *bool { return &s.Migrate })},

	{name: "max-frame", value: "256KiB", kind: "bytes", scope: forServer,
		help: "longest frame a client may send",
		read: size(func(s *settings) *int { return &s.MaxFrame }, 1<<10, 64<<20)},
	{name: "max-event", value: "1000000", kind: "bytes", scope: forServer,
		help: "larger events arrive without their data, marked oversize",
		read: size(func(s *settings) *int { return &s.MaxEvent }, 1<<10, 1_000_000)},
	{name: "max-subscriptions", value: "1000", kind: "number", scope: forServer,
		help: "most subscriptions of one session",
		read: number(func(s *settings) *int { return &s.MaxSubscriptions }, 1, 1_000_000)},
	{name: "max-sessions", value: "100000", kind: "number", scope: forServer,
		help: "most sessions at a time; further clients are told to come back later",
		read: number(func(s *settings) *int { return &s.MaxSessions }, 1, 10_000_000)},
	{name: "ring-size", value: "256", kind: "number", scope: forServer,
		help: "newest events kept in memory for each topic that somebody listens to",
		read: number(func(s *settings) *int { return &s.RingSize }, 1, 1_000_000)},
	{name: "snapshot-fresh", value: "1s", kind: "duration", scope: forServer,
		help: "for how long a snapshot that was read serves others who ask for the same topic",
		read: duration(func(s *settings) *time.Duration { return &s.SnapshotFresh }, time.Millisecond, time.Minute)},
	{name: "spool-dir", kind: "directory", scope: forServer,
		help: "where large snapshots lie on their way to clients; not in memory (default the system's for temporary files)",
		read: text(func(s *settings) *string { return &s.SpoolDir }, "give a directory")},
	{name: "write-timeout", value: "30s", kind: "duration", scope: forServer,
		help: "a client that reads nothing for so long is disconnected, and may resume",
		read: duration(func(s *settings) *time.Duration { return &s.WriteTimeout }, time.Second, time.Hour)},
	{name: "ping-interval", value: "25s", kind: "duration", scope: forServer,
		help: "how often to let a quiet connection hear of us",
		read: duration(func(s *settings) *time.Duration { return &s.PingInterval }, time.Second, time.Minute)},
	{name: "drain-timeout", value: "10s", kind: "duration", scope: forServer,
		help: "time for clients to be told and served when stopping",
		read: duration(func(s *settings) *time.Duration { return &s.DrainTimeout }, time.Second, 10*time.Minute)},
	{name: "console", value: "on", kind: "mode", scope: forServer, choices: []string{"on", "off"},
		help: "serve the console at /console/ of admin-listen: on or off",
		read: choice(func(s *settings) *string { return &s.Console }, "on", "off")},
	{name: "pprof", value: "false", kind: "bool", scope: forServer,
		help: "serve profiles of this process at /debug/pprof/ of admin-listen",
		read: boolean(func(s *settings) *bool { return &s.Profile })},

	{name: "no-demo", value: "false", kind: "bool", scope: forDev,
		help: "make no schema demo, and write nothing",
		read: boolean(func(s *settings) *bool { return &s.NoDemo })},
	{name: "pg-bin", kind: "directory", scope: forDev | forBench,
		help: "where initdb and postgres are, if they are not found",
		read: text(func(s *settings) *string { return &s.PGBin }, "give a directory")},

	{name: "log-format", value: "auto", kind: "format", scope: forAll, choices: []string{"auto", "text", "json"},
		help: "how to log: text, json, or auto: text on a terminal",
		read: choice(func(s *settings) *string { return &s.LogFormat }, "auto", "text", "json")},
	{name: "log-level", value: "info", kind: "level", scope: forAll, choices: []string{"debug", "info", "warn", "error"},
		help: "what to log: debug, info, warn or error",
		read: choice(func(s *settings) *string { return &s.LogLevel }, "debug", "info", "warn", "error")},
}

func findSetting(name string) *setting {
	for i := range allSettings {
		if allSettings[i].name == name {
			return &allSettings[i]
		}
	}
	return nil
}
