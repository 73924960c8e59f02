// Package static serves embedded files: with a type that does not depend on the machine's own
// tables, and with a tag, so that a browser asks again but loads only what is new.
package static

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

var kinds = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".md":   "text/markdown; charset=utf-8",
	".png":  "image/png",
	".sql":  "text/plain; charset=utf-8",
	".svg":  "image/svg+xml",
}

// File is one file, ready to be sent.
type File struct {
	Text []byte
	Kind string // Content-Type
	etag string
}

// NewFile makes a file of a name, which says of what kind it is.
func NewFile(name string, text []byte) *File {
	sum := sha256.Sum256(text)
	kind := kinds[path.Ext(name)]
	if kind == "" {
		kind = mime.TypeByExtension(path.Ext(name))
	}
	return &File{Text: text, Kind: kind, etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
}

// ServeHTTP sends the file, or says that the browser has it.
func (f *File) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", f.Kind)
	w.Header().Set("ETag", f.etag)
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.Text))
}

// Files are the files below a directory, by the rest of their path. It panics where they cannot
// be read: they are embedded, so the build put them there.
func Files(files fs.FS) map[string]*File {
	all := map[string]*File{}
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, name)
		if err == nil {
			all[name] = NewFile(name, text)
		}
		return err
	})
	if err != nil {
		panic(fmt.Sprintf("static: the embedded files cannot be read: %v", err))
	}
	return all
}

// Handler serves files below prefix, which ends in a slash.
func Handler(prefix string, files fs.FS) http.Handler {
	all := Files(files)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := all[strings.TrimPrefix(r.URL.Path, prefix)]
		if f == nil {
			http.NotFound(w, r)
			return
		}
		f.ServeHTTP(w, r)
	})
}
