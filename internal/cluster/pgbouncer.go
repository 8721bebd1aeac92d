package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const pgBouncerStartMax = 10 * time.Second

// pgBouncerConfig pools all databases by transaction. Users are looked up in the server, so that every role can
// come in, without a password; they keep their own names behind it. Few server connections, so that two transactions
// of one client really meet different ones. login_retry: a waiting client learns of a restarted server at once.
const pgBouncerConfig = `[databases]
%[1]s = host=%[2]s port=%[3]s dbname=postgres
* = host=%[2]s port=%[3]s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[4]d
unix_socket_dir =
auth_type = trust
auth_file = users
auth_user = postgres
auth_query = SELECT rolname, coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname = $1
pool_mode = transaction
default_pool_size = 4
max_client_conn = 500
server_login_retry = 1
`

// PgBouncer is a running pooler in transaction mode.
type PgBouncer struct {
	Port int

	server    *url.URL
	process   *Process
	removeDir func()
}

// StartPgBouncer starts a pooler before a server of this package, named by its superuser's URL.
func StartPgBouncer(ctx context.Context, serverURL string, log Log) (*PgBouncer, error) {
	server, err := url.Parse(serverURL)
	if err != nil {
		return nil, fmt.Errorf("cluster: parse PgBouncer's server URL: %w", err)
	}
	path, err := findPgBouncer(ctx, log)
	if err != nil {
		return nil, err
	}
	user, err := serverUser()
	if err != nil {
		return nil, fmt.Errorf("cluster: find a user for PgBouncer, which does not run as root: %w", err)
	}
	dir, removeDir, err := workDir("", "baton-pgbouncer-", user)
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{server: server, removeDir: removeDir}
	for range portTriesMax {
		err = b.start(ctx, ProcessOptions{Path: path, Args: []string{"pgbouncer.ini"}, Dir: dir, Credential: user})
		if err == nil {
			log.printf("PgBouncer on %s before %s, pid %d", b.Addr(), server.Host, b.process.PID())
			return b, nil
		}
		if !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	b.Stop()
	return nil, err
}

// start takes a free port and waits until the pooler answers under a database name that only ours knows.
func (b *PgBouncer) start(ctx context.Context, o ProcessOptions) error {
	ctx, cancel := context.WithTimeout(ctx, pgBouncerStartMax)
	defer cancel()
	host, port, err := net.SplitHostPort(b.server.Host)
	if err == nil {
		b.Port, err = FreePort()
	}
	if err != nil {
		return fmt.Errorf("cluster: start PgBouncer: %w", err)
	}
	alias := "check_" + strings.ToLower(rand.Text())
	config := fmt.Sprintf(pgBouncerConfig, alias, host, port, b.Port)
	err = errors.Join(os.WriteFile(filepath.Join(o.Dir, "pgbouncer.ini"), []byte(config), 0o644),
		os.WriteFile(filepath.Join(o.Dir, "users"), []byte(`"postgres" ""`+"\n"), 0o644))
	if err != nil {
		return fmt.Errorf("cluster: configure PgBouncer: %w", err)
	}
	o.Output = &tailWriter{}
	if b.process, err = StartProcess(ctx, o); err != nil {
		return err
	}
	return b.process.ready(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, b.URL(alias)+"&default_query_exec_mode=exec")
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return conn.Ping(ctx)
	})
}

// findPgBouncer looks in PATH and where Debian puts it, and installs it where that is possible.
func findPgBouncer(ctx context.Context, log Log) (string, error) {
	const debian = "/usr/sbin/pgbouncer" // often not in a user's PATH
	for _, name := range []string{"pgbouncer", debian} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return "", errors.New("cluster: find pgbouncer: not in PATH: install it (Debian: apt-get install pgbouncer)")
	}
	log.printf("installing PgBouncer: apt-get install -y -qq pgbouncer")
	err = runToEnd(ctx, ProcessOptions{
		Path: apt, Args: []string{"install", "-y", "-qq", "pgbouncer"},
		Env: append(os.Environ(), "DEBIAN_FRONTEND=noninteractive"), Output: &tailWriter{},
	})
	if err != nil {
		return "", fmt.Errorf("cluster: install pgbouncer: %w", err)
	}
	return exec.LookPath(debian)
}

// Addr is the pooler's host and port.
func (b *PgBouncer) Addr() string { return loopback(b.Port) }

// URL connects to a database through the pooler, as the superuser; put another role in its place at will.
func (b *PgBouncer) URL(database string) string {
	return "postgres://postgres@" + b.Addr() + "/" + database + "?sslmode=disable"
}

// Stop ends the pooler and its clients' connections. It may be called twice.
func (b *PgBouncer) Stop() {
	if b.process != nil {
		b.process.stop(time.Second, syscall.SIGTERM)
	}
	b.removeDir()
}
