package console

// The answers, as web/src/api.ts has them. Moments and durations are in milliseconds, moments
// since 1970.

// Me is what anybody may know.
type Me struct {
	Token    bool   `json:"token"`
	SignedIn bool   `json:"signedIn"`
	Version  string `json:"version"`
	Database string `json:"database"` // only for who is signed in, as Listen is
	Access   bool   `json:"access"`
	Listen   string `json:"listen"`
	Now      int64  `json:"now"`
}

// Sample is one second of a server.
type Sample struct {
	At          int64    `json:"at"`
	Events      float64  `json:"events"`     // per second
	Deliveries  float64  `json:"deliveries"` // per second
	P50         *float64 `json:"p50"`
	P99         *float64 `json:"p99"`
	Sessions    int      `json:"sessions"`
	Behind      int      `json:"behind"`
	Sequencing  float64  `json:"sequencing"`
	Replication *float64 `json:"replication"`
}

// Overview is how a server does.
type Overview struct {
	Samples   []Sample  `json:"samples"`
	Sequencer Sequencer `json:"sequencer"`
	Totals    Totals    `json:"totals"`
	Degraded  []string  `json:"degraded"`
}

// Sequencer says whether this server sequences.
type Sequencer struct {
	Mine bool   `json:"mine"`
	Term int64  `json:"term"`
	Wake string `json:"wake"`
}

// Totals count what there is.
type Totals struct {
	Topics        int64 `json:"topics"`
	Events        int64 `json:"events"` // ever sequenced
	Sessions      int   `json:"sessions"`
	Subscriptions int   `json:"subscriptions"`
}

// Topics is a page of them.
type Topics struct {
	Topics []TopicLine `json:"topics"`
	Next   string      `json:"next"`
}

// TopicLine is one topic.
type TopicLine struct {
	Name        string    `json:"name"`
	Head        int64     `json:"head"`
	Tail        int64     `json:"tail"`
	Rate        float64   `json:"rate"`
	Subscribers int       `json:"subscribers"`
	Retention   Retention `json:"retention"`
	Newest      *int64    `json:"newest"`
}

// Retention is the rule that holds for a topic.
type Retention struct {
	Pattern  string `json:"pattern"`
	MaxAge   string `json:"maxAge"`
	MaxCount *int64 `json:"maxCount"`
}

// TopicDetail is a topic, and where its events come from.
type TopicDetail struct {
	TopicLine
	Tables []string `json:"tables"`
	Key    []string `json:"key"`
}

// Tables are those of the database, and what is wrong with the attached ones.
type Tables struct {
	Tables []Table `json:"tables"`
	Drift  []Drift `json:"drift"`
}

// Table is one table.
type Table struct {
	Name     string      `json:"name"`
	Rows     int64       `json:"rows"`
	Columns  []string    `json:"columns"`
	Key      []string    `json:"key"`
	Attached *Attachment `json:"attached"`
}

// Attachment is how a table is attached.
type Attachment struct {
	Topic    string   `json:"topic"`
	Columns  []string `json:"columns"`
	Old      bool     `json:"old"`
	Capture  string   `json:"capture"`
	Enforced bool     `json:"enforced"`
}

// Drift is an attached table that is not captured as it should be.
type Drift struct {
	Table   string `json:"table"`
	Problem string `json:"problem"`
	Mend    string `json:"mend"`
}

// Order asks for a table to be attached or detached.
type Order struct {
	Action  string   `json:"action"` // attach or detach
	Table   string   `json:"table"`
	Topic   *string  `json:"topic"`
	Columns []string `json:"columns"`
	Old     bool     `json:"old"`
	Capture string   `json:"capture"`
}

// Plan is what an order leads to.
type Plan struct {
	Call       string   `json:"call"`
	Statements []string `json:"statements"`
	Barred     string   `json:"barred"`
}

// Sessions are the newest of those that were searched for.
type Sessions struct {
	Sessions []SessionLine `json:"sessions"`
	Total    int           `json:"total"`
	Server   string        `json:"server"`
}

// SessionLine is one session.
type SessionLine struct {
	ID                string   `json:"id"`
	Subject           string   `json:"subject"`
	User              string   `json:"user"`
	Transport         string   `json:"transport"`
	Operator          bool     `json:"operator"`
	Address           string   `json:"address"`
	Since             int64    `json:"since"`
	RTT               *float64 `json:"rtt"`
	Subscriptions     []string `json:"subscriptions"`
	SubscriptionCount int      `json:"subscriptionCount"`
	Behind            int64    `json:"behind"`
	Expires           *int64   `json:"expires"`
}

// Health is what the doctor has found.
type Health struct {
	At      int64     `json:"at"`
	Results []Finding `json:"results"`
}

// Finding is one thing that he has found.
type Finding struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Found    string `json:"found"`
	Why      string `json:"why"`
	Mend     string `json:"mend"`
	MendWith string `json:"mend_with"`
}
