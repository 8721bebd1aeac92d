package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// openDir is a temporary folder that every user may enter; t.TempDir's parent is closed.
func openDir(t *testing.T) string {
	t.Helper()
	dir, remove, err := workDir("", "baton-test-", &User{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	return dir
}

func TestInstallFillsOnceForAllWhoAsk(t *testing.T) {
	t.Setenv("BATON_CACHE", openDir(t))
	var fills atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := install(t.Context(), "thing", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("whole"), 0o644)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "whole" {
				t.Errorf("installed file = %q, %v", b, err)
			}
		})
	}
	all.Wait()
	if got := fills.Load(); got != 1 {
		t.Errorf("filled %d times, want 1", got)
	}
}

func TestInterruptedInstallLeavesNothingBehind(t *testing.T) {
	t.Setenv("BATON_CACHE", openDir(t))
	broken := errors.New("broken")
	_, err := install(t.Context(), "thing", func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "half"), nil, 0o644))
	})
	if !errors.Is(err, broken) {
		t.Fatalf("error = %v, want %v", err, broken)
	}
	dir, err := install(t.Context(), "thing", func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("files left by the interrupted install: %v", files)
	}
}

func TestInstallWaitsForAnotherHolderNoLongerThanItsContext(t *testing.T) {
	cache := openDir(t)
	t.Setenv("BATON_CACHE", cache)
	unlock, err := lockCache(t.Context(), filepath.Join(cache, "thing.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = install(ctx, "thing", func(string) error { t.Error("filled beside the holder"); return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestCacheRefusesAFolderThatOthersCanWrite(t *testing.T) {
	dir := openDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BATON_CACHE", dir)
	if _, err := CacheDir(); err == nil || !strings.Contains(err.Error(), "BATON_CACHE") {
		t.Errorf("error = %v, want one that names BATON_CACHE", err)
	}
}

func TestRootsCacheIsOpenToPostgresUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: only root starts PostgreSQL as another user")
	}
	closed := filepath.Join(openDir(t), "home")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BATON_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", filepath.Join(closed, ".cache"))
	dir, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if got := closedParent(dir); got != "" {
		t.Errorf("cache = %s, and %s is closed", dir, got)
	}
	t.Setenv("BATON_CACHE", filepath.Join(closed, "cache"))
	if _, err := CacheDir(); err == nil || !strings.Contains(err.Error(), closed) {
		t.Errorf("error = %v, want one that names %s", err, closed)
	}
	if _, _, err := workDir(filepath.Join(closed, "data"), "", &User{UID: 1}); err == nil {
		t.Error("a server's folder under a closed one was accepted")
	}
}

func TestFreePortsAreBelowTheOutgoingRangeAndDiffer(t *testing.T) {
	ports, err := freePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] || port < portMin || port >= portMax {
			t.Errorf("port %d: seen before %t, want one from %d to %d", port, seen[port], portMin, portMax)
		}
		seen[port] = true
	}
}
