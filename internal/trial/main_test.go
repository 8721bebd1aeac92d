package trial_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "baton-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries.dir, binaries.paths = dir, map[string]string{}
	code := clustertest.Run(m, clustertest.Background()...)
	os.RemoveAll(dir)
	os.Exit(code)
}
