package server

import (
	"bytes"
	"embed"
	"net/http"
	"time"
)

// The interface's descriptions for machines; their tests hold them against the server.
//
//go:embed api/openapi.json api/asyncapi.json
var apiDocs embed.FS

// apiDoc serves one of the descriptions.
func apiDoc(name string) http.HandlerFunc {
	text, err := apiDocs.ReadFile("api/" + name)
	if err != nil {
		panic(err) // it is embedded
	}
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*") // nothing in it is secret
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(text))
	}
}
