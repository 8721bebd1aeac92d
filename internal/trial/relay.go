package trial

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
)

// Program is a binary to start as a process.
type Program struct {
	Path string
	Env  map[string]string // beside PATH and HOME
	Log  io.Writer         // what it prints
}

// Build compiles a command of this module into dir. Tests use it; the demo finds binaries beside its own.
func Build(ctx context.Context, dir, pkg string) (path string, err error) {
	path = filepath.Join(dir, filepath.Base(pkg))
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("trial: build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// Start starts the program with arguments; it dies with this process.
func (p Program) Start(ctx context.Context, args ...string) (*cluster.Process, error) {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	for _, k := range slices.Sorted(maps.Keys(p.Env)) {
		env = append(env, k+"="+p.Env[k])
	}
	return cluster.StartProcess(ctx, cluster.ProcessOptions{Path: p.Path, Args: args, Env: env, Output: p.Log})
}

// Run runs the program to its end.
func (p Program) Run(ctx context.Context, args ...string) error {
	process, err := p.Start(ctx, args...)
	if err != nil {
		return err
	}
	defer process.Kill()
	select {
	case <-process.Done():
		return process.Err()
	case <-ctx.Done():
		return fmt.Errorf("trial: %s %s: %w", filepath.Base(p.Path), strings.Join(args, " "), ctx.Err())
	}
}

// With returns the program with more environment.
func (p Program) With(env map[string]string) Program {
	all := map[string]string{}
	maps.Copy(all, p.Env)
	maps.Copy(all, env)
	p.Env = all
	return p
}

// Relay is one running relay.
type Relay struct {
	*cluster.Process
	Name string
}

// StartRelay starts the program's relay under a name.
func StartRelay(ctx context.Context, p Program, name string) (*Relay, error) {
	process, err := p.With(map[string]string{"BATON_INSTANCE": name}).Start(ctx, "relay")
	if err != nil {
		return nil, fmt.Errorf("trial: start %s: %w", name, err)
	}
	return &Relay{Process: process, Name: name}, nil
}

// leasesSQL lists what an instance holds now. $1 its name.
const leasesSQL = `
select r.id, r.token from baton.record r join baton.instance i on i.id = r.locked_by
 where i.name = $1 and r.token is not null and r.locked_until > clock_timestamp()`

// Held is a lease as the database has it.
type Held struct{ ID, Token int64 }

// KillWithWork kills the relay by SIGKILL at a moment when it holds leases, and returns those.
func (r *Relay) KillWithWork(ctx context.Context, pool *pgxpool.Pool) ([]Held, error) {
	for {
		if err := r.Signal(syscall.SIGSTOP); err != nil {
			return nil, err
		}
		pause(ctx, 50*time.Millisecond) // what it had sent to the server already is answered by then
		held, err := leases(ctx, pool, r.Name)
		if err == nil && len(held) > 0 {
			r.Kill()
			return held, nil
		}
		if err := r.Signal(syscall.SIGCONT); err != nil {
			return nil, err
		}
		select {
		case <-time.After(3 * time.Millisecond):
		case <-r.Done():
			return nil, fmt.Errorf("trial: %s ended by itself: %w", r.Name, r.Err())
		case <-ctx.Done():
			return nil, fmt.Errorf("trial: %s never held a lease: %w (%w)", r.Name, ctx.Err(), err)
		}
	}
}

func leases(ctx context.Context, pool *pgxpool.Pool, name string) (held []Held, err error) {
	rows, err := pool.Query(ctx, leasesSQL, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var h Held
		if err := rows.Scan(&h.ID, &h.Token); err != nil {
			return nil, err
		}
		held = append(held, h)
	}
	return held, rows.Err()
}

// TakenOver waits until none of the leases is there any more: other instances have claimed the records.
func TakenOver(ctx context.Context, pool *pgxpool.Pool, held []Held) error {
	ids, tokens := make([]int64, len(held)), make([]int64, len(held))
	for i, h := range held {
		ids[i], tokens[i] = h.ID, h.Token
	}
	for {
		var left int
		err := pool.QueryRow(ctx, `select count(*) from baton.record r join unnest($1::bigint[], $2::bigint[]) a(i, t)
		  on r.id = a.i and r.token = a.t`, ids, tokens).Scan(&left)
		if err == nil && left == 0 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("trial: %d leases were not taken over: %w (%w)", left, ctx.Err(), err)
		}
	}
}
