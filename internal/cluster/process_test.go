package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServersDieWithAParentThatIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("NOT RUN: only Linux has a signal for the parent's death")
	}
	dir, remove, err := workDir("", "baton-test-", &User{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	r, w := io.Pipe()
	parent, err := StartProcess(t.Context(), ProcessOptions{
		Path: os.Args[0], Env: append(os.Environ(), parentDir+"="+dir, "TMPDIR="+dir), Output: w, Stderr: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(parent.Kill)
	go func() { // its end without "ready" must not leave us reading
		<-parent.Done()
		w.Close()
	}()
	servers := map[string]int{}
	lines := bufio.NewScanner(r)
	for lines.Scan() && lines.Text() != "ready" {
		var addr string
		var pid int
		if _, err := fmt.Sscan(lines.Text(), &addr, &pid); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		servers[addr] = pid
	}
	if lines.Text() != "ready" || len(servers) < 2 {
		t.Fatalf("the parent started %d servers, then: %q %v", len(servers), lines.Text(), parent.Err())
	}
	parent.Kill()
	for addr, pid := range servers {
		if !within(5*time.Second, func() bool { return gone(pid) && refuses(addr) }) {
			t.Errorf("server %d on %s has outlived its parent by 5 s: gone %t, refuses %t", pid, addr, gone(pid), refuses(addr))
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func within(d time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(d); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}

// gone counts a zombie as gone: who reaps it is PID 1's business.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func refuses(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestProcessErrorCarriesStatusAndLastLines(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	script := []string{"-c", "echo first; echo why it broke >&2; exit 3"}
	for _, o := range []ProcessOptions{{LogPath: log}, {Output: &bytes.Buffer{}}} {
		o.Path, o.Args = "/bin/sh", script
		p, err := StartProcess(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		err = p.Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "why it broke") {
			t.Errorf("error = %v, want exit status and last line", err)
		}
		if got, want := p.ExitCode(), 3; got != want {
			t.Errorf("exit code = %d, want %d", got, want)
		}
	}
}

func TestKillEndsTheWholeGroupAndReaps(t *testing.T) {
	r, w := io.Pipe()
	o := ProcessOptions{Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & echo $!; wait"}, Output: w}
	p, err := StartProcess(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var grandchild int
	if _, err := fmt.Fscan(r, &grandchild); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	p.Kill()
	if p.Alive() || p.ExitCode() != -1 || p.Signal(syscall.SIGTERM) == nil {
		t.Errorf("after Kill: alive %t, exit code %d", p.Alive(), p.ExitCode())
	}
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("pid %d after Kill: %v, want none, not even a zombie", p.PID(), err)
	}
	if runtime.GOOS == "linux" && !within(5*time.Second, func() bool { return gone(grandchild) }) {
		t.Errorf("grandchild %d lives on", grandchild)
	}
}
