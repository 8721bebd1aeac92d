package lease_test

import (
	"testing"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }
