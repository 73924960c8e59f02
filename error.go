package pgcast

import "time"

// Code says what kind of failure an [Error] is. Codes are stable: they appear on the
// wire in error frames, and clients may switch on them.
type Code string

// The codes.
const (
	CodeBadFrame     Code = "bad_frame"     // not JSON, or not a frame this server can read
	CodeUnsupported  Code = "unsupported"   // a frame type this server does not serve
	CodeInvalidTopic Code = "invalid_topic" // not a topic name or pattern
	CodeInvalidEvent Code = "invalid_event" // not an event name, or a payload that is not JSON
	CodeTooLarge     Code = "too_large"     // over a size limit
	CodeTooMany      Code = "too_many"      // over a count limit
	CodeUnavailable  Code = "unavailable"   // the database cannot be asked right now; try again
	CodeInvalid      Code = "invalid"       // a setting or an argument that cannot be used
	CodeInternal     Code = "internal"      // our fault
	CodeForbidden    Code = "forbidden"     // not for this caller
	// CodeUnauthenticated: nobody knows who asks, or what says so is no longer valid.
	CodeUnauthenticated Code = "unauthenticated"
	CodeNotFound        Code = "not_found"    // there is no such thing
	CodeReset           Code = "reset"        // the history the caller saw no longer exists
	CodeRateLimited     Code = "rate_limited" // too often; not before RetryAfter
	CodeClosed          Code = "closed"       // the group takes nobody any more
)

// Error is a failure that somebody outside can do something about: what was tried
// and failed (Message) and what to do (Hint, may be empty).
type Error struct {
	Code    Code
	Message string
	Hint    string
	// RetryAfter is how long to wait before trying again; 0 where that says nothing.
	RetryAfter time.Duration
}

// Error gives the message, and the hint behind it where there is one.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + " (" + e.Hint + ")"
}

// Is makes errors.Is match by code against a sentinel that has nothing but a code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Sentinels for errors.Is.
var (
	ErrInvalidTopic = &Error{Code: CodeInvalidTopic}
	ErrUnavailable  = &Error{Code: CodeUnavailable}
	ErrTooLarge     = &Error{Code: CodeTooLarge}
	ErrTooMany      = &Error{Code: CodeTooMany}
	ErrRateLimited  = &Error{Code: CodeRateLimited}
	ErrForbidden    = &Error{Code: CodeForbidden}

	ErrUnauthenticated = &Error{Code: CodeUnauthenticated}
)
