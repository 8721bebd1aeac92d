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
	"github.com/jackc/pgx/v5/pgxpool"

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
		return nil, "", errors.New("database: DATABASE_URL is not a PostgreSQL URL") // the cause may quote the password
	}
	cfg.MaxConns = int32(max(1, o.Connections))
	cfg.ConnConfig.RuntimeParams["application_name"] = o.Application
	cfg.ConnConfig.DialFunc = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if pooler = o.Pooler; pooler == "auto" {
		if pooler, err = detect(ctx, cfg.ConnConfig.Copy()); err != nil {
			return nil, "", err
		}
	}
	if pooler == PoolerTransaction {
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // prepared statements belong to a session
	} else { // whatever the role's default is; a pooler would refuse it
		cfg.ConnConfig.RuntimeParams["default_transaction_isolation"] = "read committed"
	}
	if pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, "", fmt.Errorf("database: open pool: %w", err)
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

// ApplicationName of a relay's sessions.
func ApplicationName(instance string) string { return lease.ApplicationName + " " + instance }
