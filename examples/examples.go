// Package examples are applications to read, to try and to copy from: each a page of plain
// HTML, CSS and JavaScript that uses the client as pgcast dev serves it, and what it needs in
// Postgres. pgcast example sets one up.
package examples

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed *.html *.css *.js chat board kanban ops
var files embed.FS

// Files are those that a browser loads, by name: index.html, chat/index.html and so on.
func Files() fs.FS { return files }

// Example is one of them.
type Example struct {
	Name  string // also its directory
	About string // in a line
	Try   string // what to do with it
	// Schema is where its tables are, empty if it has none.
	Schema string
	// Tick is a statement that makes something happen, to be run again and again; empty if
	// people do that.
	Tick string
}

// All are the examples, the simplest first.
func All() []Example {
	return []Example{
		{Name: "chat", About: "rooms, who is here, who is typing; messages show at once and settle when they are committed",
			Try: "Open it in two windows, write in both, and press Cut in one while you write in the other."},
		{Name: "board", About: "everybody's pointer with a name, and notes that all may move",
			Try: "Open it in two windows side by side: move about in one, double-click for a note, drag it."},
		{Name: "kanban", About: "cards from plain SQL tables, by drag and drop or by keyboard",
			Try:    "Open it in two windows, drag a card; then change the tables with SQL, as the page says.",
			Schema: "example_kanban"},
		{Name: "ops", About: "services, incidents and logs of a make-believe company, live",
			Try:    "It makes something happen every half second until you press Ctrl-C; so does the page's own button.",
			Schema: "example_ops", Tick: "select example_ops.tick()"},
	}
}

// SQL is the script that makes an example's schema and attaches its tables; it may run any
// number of times. Only for an example that has a Schema.
func (e *Example) SQL() string {
	text, err := files.ReadFile(e.Name + "/schema.sql")
	if err != nil {
		panic(fmt.Sprintf("examples: the embedded schema cannot be read: %v", err)) // the build put it there
	}
	return string(text)
}
