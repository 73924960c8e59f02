// Package js is the TypeScript client, as it is built into dist and published as the npm package
// pgcast. A server hands it to browsers itself, so that a page needs no build step and no other
// host:
//
//	import { connect } from "http://localhost:8080/client/index.js";
package js

import (
	"embed"
	"io/fs"
)

//go:embed dist/*.js
var dist embed.FS

// Files are the built modules, by name: index.js, rows.js and what they import.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // dist is a valid path
	}
	return files
}
