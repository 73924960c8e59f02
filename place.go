package pgcast

// Ask is where a reader says it stands in a topic: it has everything up to After, and
// the event it saw there had ID. An empty ID means it knows only the seq.
type Ask struct {
	Topic string
	After Seq
	ID    ID
}

// Place is what the log answers to an Ask. Everything before Tail is trimmed; a topic
// nobody has written to has Tail 1 and Head 0.
type Place struct {
	Tail, Head Seq
	// Known says that the log's event at After has the asked ID, or had it and is
	// trimmed by now. False for an Ask without an ID.
	Known bool
}

// Page is a stretch of one topic as of one look at the log, in seq order.
type Page struct {
	Tail, Head Seq
	Events     []Event
}
