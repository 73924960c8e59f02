// Package wire reads and writes the frames of the native protocol: JSON text over a
// WebSocket, one frame per WebSocket message. docs/protocol.md is its normative text,
// and the samples there are this package's golden files.
//
// Frames from clients are read by [Parse], which trusts nothing. Frames to clients
// are appended to a caller's buffer by hand, because an encoder costs ten times as
// much as copying the payload that Postgres has already encoded. [ParseServer] and
// [AppendFrame] are the client's half of the same protocol.
package wire

// Limits of one frame. Those that depend on a server's settings are not here.
const (
	MaxFrame       = 256 << 10 // default limit of a client's frame, in bytes
	MaxServerFrame = 1 << 20   // clients drop longer frames unread, so none is ever sent
	MaxDepth       = 32        // levels of nesting in a client's frame, the frame itself included
	// MaxExponent is the largest a JavaScript number has. Postgres prints numbers without
	// exponents: 1e131071, nine bytes, would become 128 KiB.
	MaxExponent    = 324
	MaxRef         = 64      // bytes of a ref as it was written, quotes included
	MaxBatchTopics = 256     // items of a subscribe-batch
	MaxSessionID   = 256     // bytes of a sessionId
	MaxID          = 64      // bytes of an event's id
	MaxCaps        = 32      // entries of caps
	MaxToken       = 8 << 10 // bytes of a token

	DefaultHistory = 100  // events in a history answer when no limit was asked for
	MaxHistory     = 1000 // and at most
)

// Close codes the server uses beside the protocol's own (1000, 1009 frame too large, 1011).
const (
	// CloseGoingAway says that the server drains. The reason is retry=<ms>: when to
	// come back, different for each client so that they do not come all at once.
	CloseGoingAway = 1001
	// ClosePolicy says that this client broke the protocol or a rule. Do not retry.
	ClosePolicy = 1008
	// CloseUnauthenticated says that the client must sign in first. Do not retry, but with
	// another token where the reason begins with [ReasonExpired].
	CloseUnauthenticated = 4401
	// CloseForbidden says that this user may not connect. Do not retry.
	CloseForbidden = 4403
	// CloseStalled says that the client read nothing for longer than the write timeout,
	// or has to begin anew and would not understand reset. Come back and resume.
	CloseStalled = 4408
	// CloseThrottled says that the client asked for too much. Come back, but slowly.
	CloseThrottled = 4429
)

// ReasonExpired is what the reason of [CloseUnauthenticated] begins with, and the message of
// an error, where a client need but come back with a new token.
const ReasonExpired = "the token has expired"

// Capabilities a client may name in hello.
const (
	CapBatch = "batch" // understands batch frames
	CapReset = "reset" // understands gap and reset frames
)

// Reasons in subscribe-denied.
const (
	ReasonInvalidTopic    = "INVALID_TOPIC"
	ReasonTooMany         = "TOO_MANY"
	ReasonRateLimited     = "RATE_LIMITED"
	ReasonInternal        = "INTERNAL_ERROR"
	ReasonUnauthenticated = "UNAUTHENTICATED"
	ReasonForbidden       = "FORBIDDEN"
	ReasonNoSnapshot      = "NO_SNAPSHOT"
	ReasonInvalidFilter   = "INVALID_FILTER"
)
