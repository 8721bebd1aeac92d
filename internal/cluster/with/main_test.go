package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandSeesServersAndItsStatusIsOurs(t *testing.T) {
	t.Setenv("BATON_TEST_POSTGRES", "")
	script := `case "$BATON_TEST_POSTGRES" in postgres://*) exit 7;; esac; exit 1`
	code, err := servers{}.run(t.Context(), nil, []string{"/bin/sh", "-c", script})
	if code != 7 || err != nil {
		t.Errorf("run = %d, %v, want 7", code, err)
	}
}

func TestSignalReachesTheCommand(t *testing.T) {
	t.Setenv("BATON_TEST_POSTGRES", "postgres://unused") // starts none
	ready := filepath.Join(t.TempDir(), "ready")
	signals := make(chan os.Signal, 1)
	go func() {
		for {
			if _, err := os.Stat(ready); err == nil {
				signals <- syscall.SIGTERM
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	script := `trap "exit 9" TERM; : > "$0"; while :; do sleep 0.05; done`
	code, err := servers{}.run(t.Context(), signals, []string{"/bin/sh", "-c", script, ready})
	if code != 9 || err != nil {
		t.Errorf("run = %d, %v, want 9", code, err)
	}
}
