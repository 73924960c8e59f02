// Package docs has the pages of this directory, for the console of a server to show.
package docs

import "embed"

// Files are the pages, in Markdown, and their pictures, by name. index.md says in which order
// they are read, and under which headings.
//
//go:embed *.md *.png
var Files embed.FS
