package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailBytesMax bounds how much of a child's output travels with the error about its end.
const tailBytesMax = 4 << 10

// User is whom a child runs as.
type User struct{ UID, GID uint32 }

// ProcessOptions say what to run. Path is the program itself, never a shell: a shell's children would not hear
// that this process has died.
type ProcessOptions struct {
	Path        string
	Args        []string
	Env         []string // nil: this process's own
	Dir         string
	Credential  *User          // nil: this process's own user
	Output      io.Writer      // standard output and error, unless Stderr is set
	Stderr      io.Writer      // nil: as Output
	LogPath     string         // appended to when Output is nil
	DeathSignal syscall.Signal // what the child gets when this process dies (Linux); 0: SIGKILL
}

// Process is a running child in a process group of its own, so that a terminal's Ctrl-C does not reach it.
type Process struct {
	cmd  *exec.Cmd
	name string
	done chan struct{}
	err  error // written before done is closed
	tail func() string
}

// StartProcess starts a child that dies with this process. ctx bounds the start alone.
func StartProcess(ctx context.Context, o ProcessOptions) (*Process, error) {
	name := filepath.Base(o.Path)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cluster: start %s: %w", name, err)
	}
	if o.DeathSignal == 0 {
		o.DeathSignal = syscall.SIGKILL
	}
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Env, cmd.Dir = o.Env, o.Dir
	cmd.SysProcAttr = sysProcAttr(o.Credential, o.DeathSignal)
	cmd.WaitDelay = time.Second // a grandchild that keeps our pipe open must not hold up Wait
	p := &Process{cmd: cmd, name: name, done: make(chan struct{})}
	closeLog, err := p.connect(o)
	if err != nil {
		return nil, fmt.Errorf("cluster: start %s: %w", name, err)
	}
	defer closeLog()
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cluster: start %s: %w", name, err)
	}
	return p, nil
}

// connect wires the child's output, and remembers where its last lines can be read.
func (p *Process) connect(o ProcessOptions) (closeLog func(), err error) {
	p.tail = func() string { return "" }
	if o.Output == nil && o.LogPath != "" {
		// the file itself, not a pipe: a log must not cost this process a copy, nor wait for it
		f, err := os.OpenFile(o.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		p.cmd.Stdout, p.cmd.Stderr = f, f
		p.tail = func() string { return fileTail(o.LogPath) }
		return func() { f.Close() }, nil
	}
	if f, ok := o.Output.(*os.File); ok {
		p.cmd.Stdout = f
	} else if o.Output != nil {
		t := &tailWriter{to: o.Output}
		p.cmd.Stdout, p.tail = t, t.String
	}
	p.cmd.Stderr = p.cmd.Stdout
	if o.Stderr != nil {
		p.cmd.Stderr = o.Stderr
	}
	return func() {}, nil
}

// run lives as long as the child. The kernel sends a death signal when the forking THREAD ends, so the thread is
// kept; and it reaps at once, because a zombie still looks like a live process to PostgreSQL's lock file.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	p.err = p.cmd.Wait()
	if errors.Is(p.err, exec.ErrWaitDelay) {
		p.err = nil
	}
	close(p.done)
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive says whether the child has not ended yet.
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends sig to the child, or returns os.ErrProcessDone.
func (p *Process) Signal(sig os.Signal) error {
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return p.cmd.Process.Signal(sig)
}

// SignalGroup sends sig to the child and all of its children that stayed in its group, as a terminal would.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	if !p.Alive() {
		return os.ErrProcessDone
	}
	return signalGroup(p.PID(), sig)
}

// Kill ends the child's whole process group by SIGKILL and waits until the child is reaped. It may be called twice.
func (p *Process) Kill() {
	_ = p.SignalGroup(syscall.SIGKILL) // gone already: then done is closed, or soon will be
	<-p.done
}

// Wait waits for the child's end and returns Err, or for the end of ctx and leaves the child alone.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.Err()
	case <-ctx.Done():
		return fmt.Errorf("cluster: wait for %s: %w", p.name, context.Cause(ctx))
	}
}

// ExitCode is the child's exit status: -1 while it lives and after a signal ended it.
func (p *Process) ExitCode() int {
	if p.Alive() {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// Err says how the child ended, with its last lines; nil while it lives and when it ended well.
func (p *Process) Err() error {
	if p.Alive() || p.err == nil {
		return nil
	}
	return fmt.Errorf("cluster: %s ended: %w%s", p.name, p.err, p.lastLines())
}

func (p *Process) lastLines() string {
	if t := strings.TrimSpace(p.tail()); t != "" {
		return "; its last lines:\n" + t
	}
	return ""
}

// stop asks by each signal in turn, waiting for grace after each, and kills at last.
func (p *Process) stop(grace time.Duration, signals ...os.Signal) {
	for _, sig := range signals {
		if p.Signal(sig) != nil {
			break
		}
		select {
		case <-p.done:
			return
		case <-time.After(grace):
		}
	}
	p.Kill()
}

// ready calls check until it returns nil, the child ends or ctx does.
func (p *Process) ready(ctx context.Context, every time.Duration, check func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil && p.Alive() {
			return nil // alive after the answer: another program on our port would have let ours die
		}
		select {
		case <-p.done:
			if e := p.Err(); e != nil {
				return e
			}
			return fmt.Errorf("cluster: %s ended before it was ready%s", p.name, p.lastLines())
		case <-ctx.Done():
			return fmt.Errorf("cluster: wait until %s is ready: %w (%v)%s", p.name, context.Cause(ctx), err, p.lastLines())
		case <-tick.C:
		}
	}
}

// runToEnd runs a program to its end; the end of ctx kills it.
func runToEnd(ctx context.Context, o ProcessOptions) error {
	p, err := StartProcess(ctx, o)
	if err != nil {
		return err
	}
	defer p.Kill()
	return p.Wait(ctx)
}

// tailWriter passes output on, if there is anywhere to, and keeps its end.
type tailWriter struct {
	to  io.Writer
	mu  sync.Mutex
	end []byte
}

func (t *tailWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, b...)
	if over := len(t.end) - tailBytesMax; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	t.mu.Unlock()
	if t.to == nil {
		return len(b), nil
	}
	return t.to.Write(b)
}

func (t *tailWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}

func fileTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytesMax {
		_, _ = f.Seek(-tailBytesMax, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, tailBytesMax))
	return string(b)
}
