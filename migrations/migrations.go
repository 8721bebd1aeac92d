// Package migrations brings the outbox's schema into a database, and says whether a relay of this
// build may run on what is there. Migrations go forward only, under one lock, each in a transaction
// with a lock_timeout, and leave the version before able to run.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/batonrelay/baton/internal/schema"
)

// Version is the schema that this build was written for.
const Version = 4

// serverVersionMin is PostgreSQL 14: SQL-standard function bodies and range scans by ctid.
const serverVersionMin = 140000

// migrationTable is goose's.
const migrationTable = "migration"

//go:embed sql/*.sql
var files embed.FS

var (
	// ErrConnect: the server could not be reached.
	ErrConnect = errors.New("migrations: connect")
	// ErrRefused: this outbox belongs elsewhere, or to another version. Nothing was changed but, by Up, the schema.
	ErrRefused = errors.New("migrations: refused")
)

// Options say where the schema goes and what it is for. The zero value is the default schema.
type Options struct {
	Schema string // an identifier: small letters, digits and '_', at most 63; "" is baton
	// Source and KafkaClusterID name what this outbox is published as, and to where; a relay that finds
	// other ones stops. "" leaves what is stored.
	Source         string
	KafkaClusterID string
	// Accept replaces a stored system identifier, source and cluster id that differ: this database is a
	// copy that shall publish. It leaves an audit row.
	Accept bool
}

// Applied is one migration and whether the database has it.
type Applied struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Done    bool   `json:"done"`
}

// Up applies what is missing. url must reach the server itself: the lock that keeps two migrators apart
// belongs to a session, which a transaction-mode pooler shares out.
func Up(ctx context.Context, url string, opts Options) error {
	return withProvider(ctx, url, opts, func(conn *pgx.Conn, name string, p *goose.Provider) error {
		_, err := conn.Exec(ctx, "create schema if not exists "+pgx.Identifier{name}.Sanitize())
		if err != nil && !isThere(err) {
			return fmt.Errorf("migrations: create schema %s: %w", name, err)
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrations: up: %w", err)
		}
		return identify(ctx, conn, name, opts)
	})
}

// Status lists the migrations of this build, oldest first. It changes nothing.
func Status(ctx context.Context, url string, opts Options) ([]Applied, error) {
	var list []Applied
	err := withProvider(ctx, url, opts, func(conn *pgx.Conn, name string, p *goose.Provider) error {
		var begun bool
		table := pgx.Identifier{name, migrationTable}.Sanitize()
		if err := conn.QueryRow(ctx, `select to_regclass($1) is not null`, table).Scan(&begun); err != nil {
			return fmt.Errorf("migrations: status: %w", err)
		}
		if !begun { // asking goose would create its table
			for _, s := range p.ListSources() {
				list = append(list, Applied{Version: s.Version, Name: s.Path})
			}
			return nil
		}
		status, err := p.Status(ctx)
		if err != nil {
			return fmt.Errorf("migrations: status: %w", err)
		}
		for _, s := range status {
			list = append(list, Applied{Version: s.Source.Version, Name: s.Source.Path, Done: s.State == goose.StateApplied})
		}
		return nil
	})
	return list, err
}

func withProvider(ctx context.Context, url string, opts Options,
	use func(*pgx.Conn, string, *goose.Provider) error) error {
	name, err := schemaOr(opts.Schema)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	config := conn.Config() // a copy
	config.RuntimeParams["search_path"] = pgx.Identifier{name}.Sanitize()
	db := stdlib.OpenDB(*config)
	defer db.Close()
	provider, err := newProvider(db, name)
	if err != nil {
		return err
	}
	return use(conn, name, provider)
}

func schemaOr(name string) (string, error) {
	if name == "" {
		return schema.Default, nil
	}
	if err := schema.Check(name); err != nil {
		return "", fmt.Errorf("migrations: %w", err)
	}
	return name, nil
}

func newProvider(db *sql.DB, name string) (*goose.Provider, error) {
	source, err := inSchema(name)
	if err != nil {
		return nil, err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
	if err != nil {
		return nil, fmt.Errorf("migrations: lock: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, source,
		goose.WithTableName(migrationTable), // in the schema: it alone is on the search_path
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("migrations: read migrations: %w", err)
	}
	return p, nil
}

// inSchema returns the embedded files with the schema's name in them.
func inSchema(schemaName string) (fs.FS, error) {
	out := fstest.MapFS{}
	names, err := fs.Glob(files, "sql/*.sql")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		text, err := files.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out[strings.TrimPrefix(file, "sql/")] = &fstest.MapFile{Data: []byte(schema.In(string(text), schemaName))}
	}
	return out, nil
}

// connect refuses what migrations cannot run on: a pooler, a standby, an old server.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("migrations: database URL: %w", err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // until we know that there is no pooler
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	var (
		version, pid int
		standby      bool
	)
	err = conn.QueryRow(ctx, `select current_setting('server_version_num')::int, pg_is_in_recovery(), pg_backend_pid()`).
		Scan(&version, &standby, &pid)
	switch {
	case err != nil:
		err = fmt.Errorf("migrations: look at the server: %w", err)
	case uint32(pid) != conn.PgConn().PID():
		err = errors.New("migrations: there is a pooler before the server, and the migrations' lock needs a session " +
			"of its own: set BATON_DATABASE_DIRECT_URL to the server itself")
	case standby:
		err = errors.New("migrations: the server is a standby, which cannot be written: connect to the primary")
	case version < serverVersionMin:
		err = fmt.Errorf("migrations: the server is PostgreSQL %d, 14 or newer is needed", version/10000)
	}
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}
