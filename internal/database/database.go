// Package database opens a relay's connections to PostgreSQL, finds out what stands between, and says
// what is wrong with a server in words that tell what to do.
package database

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
	"github.com/batonrelay/baton/lease"
)

// The modes of a connection.
const (
	PoolerNone        = "none"        // straight to the server
	PoolerTransaction = "transaction" // a session may be another one after each transaction
)

// Options say what to open.
type Options struct {
	URL         string
	Pooler      string // auto, transaction or none
	Application string // how the server's list of sessions names us
	Connections int
}

// Open returns a pool, and the mode in which it works. It has connected once.
func Open(ctx context.Context, o Options) (pool *pgxpool.Pool, pooler string, err error) {
	cfg, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, "", fmt.Errorf("database: DATABASE_URL: %w", err)
	}
	cfg.MaxConns = int32(o.Connections)
	cfg.ConnConfig.RuntimeParams["application_name"] = o.Application
	cfg.ConnConfig.DialFunc = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if pooler = o.Pooler; pooler == "auto" {
		if pooler, err = detect(ctx, cfg.ConnConfig.Copy()); err != nil {
			return nil, "", err
		}
	}
	if pooler == PoolerTransaction {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // prepared statements belong to a session
	}
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, "", fmt.Errorf("database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, "", Explain(err)
	}
	return pool, pooler, nil
}

// detect tells a pooler from the server: a pooler makes up the process id that it tells its clients.
func detect(ctx context.Context, cfg *pgx.ConnConfig) (pooler string, err error) {
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", Explain(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var pid int64
	if err := conn.QueryRow(ctx, `select pg_backend_pid()`).Scan(&pid); err != nil {
		return "", Explain(err)
	}
	if uint32(pid) != conn.PgConn().PID() {
		return PoolerTransaction, nil
	}
	return PoolerNone, nil
}

// ErrConnect: the server could not be reached.
var ErrConnect = errors.New("database: connect")

// ErrFatal: trying again will not help, somebody has to do something.
var ErrFatal = errors.New("this will not mend itself")

// Explain adds what to do to an error of connecting, and ErrFatal where waiting does not help. No part
// of it is a secret: pgx masks passwords.
func Explain(err error) error {
	var (
		pg  *pgconn.PgError
		dns *net.DNSError
	)
	switch {
	case errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000"):
		return fatal("the server refuses user or password: check DATABASE_URL, or the file in DATABASE_URL_FILE", err)
	case errors.As(err, &pg) && pg.Code == "3D000":
		return fatal("there is no such database: create it, or mend DATABASE_URL", err)
	case errors.As(err, &dns) && dns.IsNotFound:
		return fatal("nobody knows the host "+dns.Name+": check DATABASE_URL", err)
	case errors.As(err, &pg) && pg.Code == "53300":
		return fmt.Errorf("%w: the server has no connection left for us: %w", ErrConnect, err)
	}
	return fmt.Errorf("%w: %w", ErrConnect, err)
}

func fatal(what string, err error) error {
	return fmt.Errorf("%w: %s: %w (%w)", ErrConnect, what, err, ErrFatal)
}

// readySQL asks for all that a relay needs. Positions past the sequence would be given out again; BRIN
// finds them. $1 the name of the schema.
const readySQL = `
select pg_is_in_recovery() or current_setting('transaction_read_only')::boolean,
       has_function_privilege('baton.ack(bigint[], bigint[], bigint[], boolean)', 'execute')
         and has_column_privilege('baton.record', 'locked_until', 'update') and has_table_privilege('baton.event', 'select'),
       exists (select from baton.event where position > (select last_value from baton.position)),
       current_user`

// Check looks at the server as a relay will use it, and returns all that is wrong. Meta is checked apart.
func Check(ctx context.Context, pool *pgxpool.Pool, schemaName string) error {
	var (
		readOnly, rights, behind bool
		user                     string
	)
	err := pool.QueryRow(ctx, schema.In(readySQL, schemaName)).Scan(&readOnly, &rights, &behind, &user)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return noRights(user)
	}
	if err != nil {
		return fmt.Errorf("database: check: %w", err)
	}
	var problems []error
	if readOnly {
		problems = append(problems, errors.New("database: the server is read-only (a standby?): connect to the primary, as with target_session_attrs=read-write"))
	}
	if !rights {
		problems = append(problems, noRights(user))
	}
	if behind {
		problems = append(problems, fmt.Errorf("database: the sequence %[1]s.position is behind the events: a restore or a replica brought rows without it, and positions would "+
			"come twice: run select setval('%[1]s.position', (select max(position) from %[1]s.event))", schemaName))
	}
	return errors.Join(problems...)
}

func noRights(user string) error {
	if user == "" {
		user = "ROLE"
	}
	return fmt.Errorf("database: the role may not run a relay on this outbox: run baton migrate grants --relay %s --apply", user)
}

// ApplicationName of a relay's sessions.
func ApplicationName(instance string) string { return lease.ApplicationName + " " + instance }
