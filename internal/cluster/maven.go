package cluster

import (
	"context"
	"fmt"
	"os/exec"
)

// maven runs one goal. It is Maven that downloads, because it honours the user's mirror and proxy and checks sums.
func maven(ctx context.Context, dir string, args ...string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return err
	}
	output := &tailWriter{}
	args = append([]string{"-q", "-B"}, args...)
	if err := runToEnd(ctx, ProcessOptions{Path: mvn, Args: args, Dir: dir, Output: output}); err != nil {
		return fmt.Errorf("%w (does Maven reach its repository? see your settings.xml)", err)
	}
	return nil
}
