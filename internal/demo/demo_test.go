package demo_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/trial"
)

// programs builds the demo's binaries side by side and returns the one to run.
func programs(t *testing.T) trial.Program {
	t.Helper()
	dir := t.TempDir()
	if _, err := trial.Build(t.Context(), dir, "github.com/batonrelay/baton/cmd/shop-order-api"); err != nil {
		t.Fatal(err)
	}
	path, err := trial.Build(t.Context(), dir, "github.com/batonrelay/baton/cmd/baton")
	if err != nil {
		t.Fatal(err)
	}
	return trial.Program{Path: path, Env: map[string]string{
		"KAFKA": "sim", "TMPDIR": t.TempDir(), "BATON_CACHE": os.Getenv("BATON_CACHE"),
	}}
}

// children lists the processes that descend from pid.
func children(t *testing.T, pid int) (all []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parents[child], _ = strconv.Atoi(fields[1])
	}
	for child := range parents {
		for p := child; p > 1; p = parents[p] {
			if parents[p] == pid {
				all = append(all, child)
				break
			}
		}
	}
	return all
}

// output is written by the demo and read by the test.
type output struct{ path string }

func (o output) text(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(o.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func start(t *testing.T, args ...string) (*cluster.Process, output) {
	t.Helper()
	p := programs(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	p.Log = file
	process, err := p.Start(t.Context(), append([]string{"demo"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	return process, output{file.Name()}
}

// waitFor waits until the demo has printed text.
func waitFor(t *testing.T, process *cluster.Process, out output, text string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !strings.Contains(out.text(t), text) {
		if !process.Alive() || time.Now().After(deadline) {
			t.Fatalf("the demo did not print %q: %v\n%s", text, process.Err(), out.text(t))
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestDemoOnASimulatedKafkaSaysSoAndThePromiseHolds(t *testing.T) {
	t.Parallel()
	process, out := start(t, "--events", "2000", "--seed", "7")
	<-process.Done()
	text := out.text(t)
	if process.ExitCode() != 0 {
		t.Fatalf("exit status = %d, want 0\n%s", process.ExitCode(), text)
	}
	for _, want := range []string{
		"✔ simulated Kafka", "killed (SIGKILL) with", "were taken over after",
		"the promise held  (simulated Kafka, seed 7)", "takeover",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	for _, zero := range []string{"lost", "from rolled-back", "phantoms", "order breaks"} {
		if !strings.Contains(text, fmt.Sprintf("  %-17s %7d", zero, 0)) {
			t.Errorf("%s is not 0 in:\n%s", zero, text)
		}
	}
}

// Feared: servers and relays that outlive a demo which was killed or interrupted.
func TestNoProcessOutlivesTheDemo(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]syscall.Signal{"Ctrl-C": syscall.SIGINT, "kill -9": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			process, out := start(t)
			waitFor(t, process, out, "writing about")
			family := children(t, process.PID())
			if len(family) < 5 { // PostgreSQL, the service, three relays
				t.Fatalf("children = %d, want at least 5", len(family))
			}
			if err := process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			<-process.Done()
			deadline := time.Now().Add(20 * time.Second)
			for _, pid := range family {
				for syscall.Kill(pid, 0) == nil && !zombie(pid) {
					if time.Now().After(deadline) {
						t.Errorf("process %d lives on", pid)
						break
					}
					<-time.After(20 * time.Millisecond)
				}
			}
			if signal == syscall.SIGINT && process.ExitCode() != 130 {
				t.Errorf("exit status = %d, want 130", process.ExitCode())
			}
		})
	}
}

// zombie reports a process that has ended and was not reaped by its new parent.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}
