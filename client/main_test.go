package client

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine outlives Run, with the default transport either.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
