package js

import (
	"testing"

	"github.com/pgcast/pgcast/internal/nodetest"
)

// The client in a real Chromium against real servers: tabs that share a connection, IndexedDB,
// networks that go away, pages where no WebSocket gets through, and the page of pgcast dev.
// client/js/browser has them; they skip where there is no Chromium.
func TestBrowser(t *testing.T) {
	nodetest.Run(t, ".", "test:browser")
}
