package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	postgresStartMax = 30 * time.Second // also covers recovery after a kill
	postgresStopMax  = 10 * time.Second
	portTriesMax     = 5
)

// errAttached answers whoever would stop or restart a server that is not ours.
var errAttached = errors.New("cluster: the server belongs to another process")

// PostgresOptions say which server to start. The zero value is an installed PostgreSQL, or a fetched one.
type PostgresOptions struct {
	Version  string            // major version; "": the newest installed one, else 18, fetched
	Settings map[string]string // postgresql.conf, over the defaults of settings
	Dir      string            // kept after Stop, and its data used again; "": temporary
	FSync    bool              // data outlives the machine's crash; off, because tests only crash servers
	Log      Log
}

// Postgres is a running server with the superuser postgres and no passwords.
type Postgres struct {
	Port    int
	Version string // as the server says it, such as 15.18

	options   PostgresOptions
	binaries  string
	user      *User
	dir       string
	removeDir func()
	adminURL  string

	mu      sync.Mutex
	process *Process // nil when attached
}

// StartPostgres starts a server and returns when it answers.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	binaries, err := postgresBinaries(ctx, o.Version, o.Log)
	if err != nil {
		return nil, err
	}
	user, err := serverUser()
	if err != nil {
		return nil, fmt.Errorf("cluster: find a user for PostgreSQL, which does not run as root: %w", err)
	}
	p := &Postgres{options: o, binaries: binaries, user: user}
	if p.dir, p.removeDir, err = workDir(o.Dir, "baton-postgres-", user); err != nil {
		return nil, err
	}
	if err := p.startAnywhere(ctx); err != nil {
		p.Stop()
		return nil, err
	}
	o.Log.printf("PostgreSQL %s on %s, pid %d", p.Version, p.Addr(), p.PID())
	return p, nil
}

// AttachPostgres stands for a server that another process started and will stop. url names a superuser.
func AttachPostgres(ctx context.Context, url string) (*Postgres, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("cluster: attach to PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return &Postgres{
		Port:      int(conn.Config().Port),
		Version:   serverVersion(conn),
		adminURL:  url,
		removeDir: func() {},
	}, nil
}

// startAnywhere creates the data folder and starts the server on a free port, another one if somebody was faster.
func (p *Postgres) startAnywhere(ctx context.Context) error {
	if err := p.initialize(ctx); err != nil {
		return err
	}
	var err error
	for range portTriesMax {
		if p.Port, err = FreePort(); err != nil {
			return err
		}
		if err = p.start(ctx); err == nil || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
	}
	return err
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// initialize runs initdb unless the folder holds a cluster already.
func (p *Postgres) initialize(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.data(), "PG_VERSION")); err == nil {
		return nil
	}
	if err := os.MkdirAll(p.data(), 0o700); err != nil {
		return fmt.Errorf("cluster: create data folder: %w", err)
	}
	if p.user != nil {
		if err := os.Chown(p.data(), int(p.user.UID), int(p.user.GID)); err != nil {
			return fmt.Errorf("cluster: give data folder to PostgreSQL's user: %w", err)
		}
	}
	args := []string{"-D", p.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"}
	if !p.options.FSync {
		args = append(args, "--no-sync")
	}
	o := p.program("initdb", args...)
	o.Output = &tailWriter{}
	return runToEnd(ctx, o)
}

// program runs one of PostgreSQL's as its user, and without our environment's PG* variables.
func (p *Postgres) program(name string, args ...string) ProcessOptions {
	return ProcessOptions{
		Path:       filepath.Join(p.binaries, name),
		Args:       args,
		Env:        []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "LC_ALL=C", "TZ=UTC"},
		Dir:        p.dir,
		Credential: p.user,
	}
}

// settings are the defaults, then the caller's.
func (p *Postgres) settings() []string {
	s := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": "",
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		"wal_level":               "replica",
		"fsync":                   "off",
	}
	if p.options.FSync {
		s["fsync"] = "on"
	}
	maps.Copy(s, p.options.Settings)
	args := []string{"-D", p.data(), "-p", fmt.Sprint(p.Port)}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}

// start starts the server on p.Port and waits for it. After a kill the old server's children hold its memory for
// a moment; as long as they do, it is tried again.
func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, postgresStartMax)
	defer cancel()
	o := p.program("postgres", p.settings()...)
	o.LogPath = filepath.Join(p.dir, "postgres.log")
	o.DeathSignal = syscall.SIGQUIT // its children have sessions of their own: only the server can end them
	for {
		process, err := StartProcess(ctx, o)
		if err != nil {
			return err
		}
		p.setProcess(process)
		if err = process.ready(ctx, 10*time.Millisecond, p.answers); err == nil {
			return nil
		}
		process.Kill()
		if ctx.Err() != nil || !strings.Contains(err.Error(), "is still in use") {
			return err
		}
		if err := os.Truncate(o.LogPath, 0); err != nil {
			return fmt.Errorf("cluster: restart PostgreSQL: %w", err)
		}
	}
}

// answers connects and checks that the answer comes from our data folder, not from somebody else's server.
func (p *Postgres) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var data string
	if err := conn.QueryRow(ctx, "SELECT current_setting('data_directory')").Scan(&data); err != nil {
		return err
	}
	if data != p.data() {
		return fmt.Errorf("cluster: another server answers on port %d, with data in %s", p.Port, data)
	}
	if p.Version == "" { // once: others may read it during a restart
		p.Version = serverVersion(conn)
	}
	return nil
}

// serverVersion is the number alone: Debian adds its package's name.
func serverVersion(conn *pgx.Conn) string {
	version, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
	return version
}

// Addr is the server's host and port.
func (p *Postgres) Addr() string {
	if p.adminURL != "" {
		u, err := url.Parse(p.adminURL)
		if err == nil {
			return u.Host
		}
	}
	return loopback(p.Port)
}

// URL connects as the superuser to the database postgres.
func (p *Postgres) URL() string {
	if p.adminURL != "" {
		return p.adminURL
	}
	return "postgres://postgres@" + p.Addr() + "/postgres?sslmode=disable"
}

// PID is the server's process id; 0 when it belongs to another process.
func (p *Postgres) PID() int {
	if process := p.current(); process != nil {
		return process.PID()
	}
	return 0
}

func (p *Postgres) current() *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

func (p *Postgres) setProcess(process *Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = process
}

// Restart stops the server, or finds it killed, and starts it on the same port and data. An immediate stop is a
// crash for the server: connections break in the middle, and it recovers from its log.
func (p *Postgres) Restart(ctx context.Context, immediate bool) error {
	process := p.current()
	if process == nil {
		return errAttached
	}
	if immediate {
		process.stop(postgresStopMax, syscall.SIGQUIT)
	} else {
		process.stop(postgresStopMax, syscall.SIGINT, syscall.SIGQUIT)
	}
	return p.start(ctx)
}

// Kill ends the server by SIGKILL. Its children notice by themselves; one may still answer a last query.
func (p *Postgres) Kill() error {
	process := p.current()
	if process == nil {
		return errAttached
	}
	process.Kill()
	return nil
}

// Stop stops the server and removes its folder, unless the caller had named it. It may be called twice, and
// leaves another process's server alone.
func (p *Postgres) Stop() {
	if process := p.current(); process != nil {
		process.stop(postgresStopMax, syscall.SIGINT, syscall.SIGQUIT)
	}
	p.removeDir()
}
