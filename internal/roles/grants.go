package roles

// object is something of schema pgcast, and what the roles may do with it. The owner may do
// everything; whom nothing is said of may do nothing.
type object struct {
	name   string
	server string // what servers may do with a table, a view or a sequence
	wal    string // what they may do besides where they capture from the WAL
}

// relations are the tables, views and sequences of schema pgcast. A writer may not so much as
// read one of them: what he writes comes into the log by functions that belong to the owner.
//
// Servers number events, and trim them; they add none, but where they capture from the WAL, and
// there not with a transaction number of their choice (xid is no column of theirs): one that is
// forged would hide an event.
var relations = []object{
	{name: "event_log", server: "select, delete", wal: "insert (id, topic, event, data, old, created_at, origin)"},
	{name: "topic", server: "select, insert"},
	{name: "replay", server: "select, insert, delete"},
	{name: "topic_tail", server: "select, insert, update"},
	{name: "sequencer", server: "select, update (term, system_identifier, timeline, floor)"},
	{name: "progress", server: "select, insert, delete"},
	{name: "publish_key", server: "select, delete"},
	{name: "retention", server: "select"},
	{name: "attachment", server: "select", wal: "update (decoded)"},
	{name: "group_info", server: "select"},
	{name: "projection", server: "select"},
	{name: "published", server: "select", wal: "delete"},
	{name: "captured", server: "select, delete", wal: "insert"},
	{name: "stage", server: "select", wal: "insert, delete"},
	{name: "enforcement", server: "select"},
	// What servers know of credentials: which are revoked, and the hashes of keys and tickets.
	// Rules they only show; authorize() reads them with the owner's rights.
	{name: "rule", server: "select"},
	{name: "revocation", server: "select, delete"},
	{name: "api_key", server: "select, update (last_used_at)"},
	{name: "ticket", server: "select, insert, delete"},
	{name: "history"}, // for people
	{name: "event_log_id_seq", wal: "usage"},
	{name: "topic_id_seq"}, {name: "rule_id_seq"}, // an identity column asks for no right to it
}

// Who may call a function.
const (
	nobody   = iota // but the owner, and functions that are his
	byServer        // servers
	byWAL           // servers that capture from the WAL
	byAll           // servers and writers
)

// functions are those of schema pgcast; the capture functions that attach() makes are not among
// them, and are nobody's to call. Most are only called by others: what a server calls, and what
// that calls with the server's rights, is the server's.
var functions = map[string]int{
	// Publishing, and groups: with the owner's rights, so that there is nothing to forge.
	"publish": byAll, "create_group": byAll, "set_group": byAll, "close_group": byAll,

	// What keeps the capture of tables as it should be, with the owner's rights; and what
	// looks, for doctor.
	"watch": byServer, "watch_state": byServer, "drift": byServer, "drift_followed": byServer, "attach_call": byServer,
	"capture_body": byServer, "row_triggers": byServer, "event_sql": byServer, "decoding_trouble": byServer, "identity_of": byServer,
	"decoded_of": byServer, "slot_name": byServer, "move_published": byServer,
	"refresh": nobody, "tell": byWAL, "retain": nobody, "ring": byWAL, "check_topic": byServer, "event_id": nobody,

	// Snapshots: statements that read an attached table, with the server's rights, and what is
	// in these.
	"snapshot_sql": byServer, "spec_of": byServer, "resolve": byServer, "split_topic": byServer, "decode_value": byServer, "value_sql": byServer,
	"is_input": byServer, "row_sql": byServer, "topic_sql": byServer, "topic_parts": byServer, "topic_template": byServer, "current_names": byServer,
	"live_columns": byServer, "shape_of": byServer, "stamp_of": byServer, "layout_of": byServer, "base_type": byServer, "plain_columns": byServer,
	"is_plain": byServer, "members_of": byServer, "compacted": byServer, "event_key": byServer, "projection_of": byServer,
	"expand_topic": byServer, "encode_value": byServer, "row_json": byServer, "quote_numbers": byServer,
	"project": nobody,

	// Capture from the WAL: statements made of what is decoded.
	"open_slot": byWAL, "decoded_sql": byWAL, "decoded_published_sql": byWAL, "decoded_side": byWAL, "decoded_root": byWAL, "resolve_decoded": byWAL,
	"reading_type": byWAL, "cast_to_json": byWAL, "toast_sql": byWAL, "leave_out": byWAL, "truncated": byWAL, "truncated_tables": byWAL,
	"schema_changed": byWAL, "tell_decoded": byWAL, "tell_reset": byWAL, "topics_of": byWAL, "topic_pattern": byWAL,
	"close_slot": nobody, "make_publications": nobody,

	// attach() and detach(), for members of the owner.
	"attach": nobody, "attach_sql": nobody, "attach_wal_sql": nobody, "detach": nobody, "detach_sql": nobody, "notice_unused": nobody,
	"check_attachable": nobody, "check_columns": nobody, "check_decodable": nobody, "check_slot": nobody, "follow_table": nobody,
	"unfollow_table": nobody, "await_captured": nobody, "must_not_follow": nobody, "refresh_followed": nobody,
	"capture_sql": nobody, "capture_owner": nobody, "trigger_sql": nobody, "dollar_quote": nobody, "kinds_of": nobody,

	// Access: decided, and told to all servers, with the owner's rights. A writer's trigger may
	// say that what authorize() goes by has changed. Rules and keys are made by members of the owner.
	"authorize": byServer, "revoke": byServer, "recheck": byAll,
	"allow": nobody, "unrevoke": nobody, "create_api_key": nobody, "revoke_api_key": nobody, "enforce": nobody, "unenforce": nobody,
	"verbs": nobody, "pattern_contains": nobody, "rule_parts": nobody, "check_rule": nobody, "claim_values": nobody, "rule_selects": nobody, "rule_allows": nobody,
	"tell_access": nobody, "rules_changed": nobody, "key_changed": nobody, "tell_enforced": nobody, "guard_enforced": nobody, "check_unshared": nobody, "topics_overlap": nobody,

	// Row security, and where what a filter looks at comes from.
	"enforced": byServer, "enforcement_trouble": byServer, "may_become": byServer, "visible_sql": byServer, "sources": byServer,

	// What capture functions and groups call, with the owner's rights.
	"capture_statement": nobody, "capture_truncate": nobody, "has_layout": nobody, "print_as": nobody,
	"check_group": nobody, "tell_group": nobody,
}
