// Package devpg finds Postgres binaries, or gets them, and runs private clusters with
// them: for "pgcast dev" and for tests.
//
// A cluster lives in one directory, its home:
//
//	data/       the data directory
//	run/        the Unix socket, mode 0700
//	server.log  what Postgres says on standard error
//	lock        held while a process of ours runs the cluster; holds that process's id
//	port        the port it last listened on
//
// Postgres refuses to run as root, so root's clusters run as the user postgres, or as
// nobody where there is no such user. Only data and run belong to that user: root never
// writes into a directory that somebody else could have filled with symbolic links.
//
// A cluster does not outlive the process that started it, not even one that is killed
// with SIGKILL. It listens on 127.0.0.1 only and trusts whoever reaches it there: it is
// for development machines, never for data that other people on the machine must not see.
package devpg
