// Package e2e tests whole pgcast servers as processes: killed, frozen, cut off from
// Postgres, and restarted, while writers write and clients resume. The judge is the
// table: what a client was given must be what stands in the log, once and in order.
package e2e

import (
	"testing"

	"github.com/pgcast/pgcast/internal/judge"
)

func TestMain(m *testing.M) { judge.Main(m) }
