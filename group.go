package pgcast

import (
	"encoding/json"
	"fmt"
)

// Group is what is durable about a group: a roster of members with a limit.
type Group struct {
	Name   string
	Max    int      // members at once; 0: no limit
	Roles  []string // that a member may have; the first is that of who does not say
	Meta   json.RawMessage
	Closed bool // takes nobody any more, for ever
}

// GroupChange is a change of a group. What is nil stays as it is.
type GroupChange struct {
	Meta  json.RawMessage // an object, at most 64 KiB
	Max   *int            // 0 takes the limit away
	Close bool            // and nothing else
}

// MaxGroupName is the longest name of a group, in bytes.
const MaxGroupName = 200

// ErrClosed matches what says that a group is closed.
var ErrClosed = &Error{Code: CodeClosed}

// GroupTopic is the topic of what is said to a whole group and of what becomes of it.
func GroupTopic(name string) string { return "group:" + name }

// CheckGroup tells why name cannot be the name of a group, or returns nil: it is 1 to
// MaxGroupName bytes, and [GroupTopic] makes a topic of it.
func CheckGroup(name string) error {
	if name == "" || len(name) > MaxGroupName {
		return &Error{Code: CodeInvalidTopic, Message: fmt.Sprintf("%.40q is not a group's name", name), Hint: "1 to 200 bytes"}
	}
	return CheckTopic(GroupTopic(name))
}
