package roles

import "github.com/pgcast/pgcast"

// Errors of Script.
var (
	// ErrNoSchema says that there is nothing yet to give rights on.
	ErrNoSchema = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "this database has no schema pgcast", Hint: "run pgcast migrate up first"}
	// ErrNames says that the roles cannot be those.
	ErrNames = &pgcast.Error{Code: pgcast.CodeInvalid, Message: "these cannot be the names of the roles", Hint: "give three different names: --owner, --server, --writer"}
)
