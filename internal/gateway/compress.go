package gateway

import (
	"context"
	"io"

	"github.com/coder/websocket"
)

// compression is what is negotiated. Each message stands alone, so that no session keeps a
// window. What clients are sent stays uncompressed, which RFC 7692, section 6.1, allows for
// any message: it is framed once for all of them.
func (g *Gateway) compression() websocket.CompressionMode {
	if g.opts.Compression {
		return websocket.CompressionNoContextTakeover
	}
	return websocket.CompressionDisabled
}

// readOn takes what a client still sends after it was told that the session ends. With
// compression it is taken as it comes: nobody can have this server inflate what is thrown
// away, which may be a thousand times as much.
func (c *client) readOn() {
	if c.g.opts.Compression {
		_, _ = io.Copy(io.Discard, c.conn)
		return
	}
	for err := error(nil); err == nil; _, c.message, err = c.ws.Reader(context.Background()) {
		if c.message != nil { // nothing may have come yet
			_, _ = io.Copy(io.Discard, c.message)
		}
	}
}
