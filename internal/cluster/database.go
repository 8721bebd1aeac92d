package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// databaseTriesMax bounds how often a busy template1 is waited for.
const databaseTriesMax = 3

// CreateDatabase creates an empty database with a random name and returns the superuser's URL of it.
func (p *Postgres) CreateDatabase(ctx context.Context) (string, error) {
	name := "test_" + strings.ToLower(rand.Text()[:12])
	if err := p.admin(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("cluster: create database: %w", err)
	}
	return withDatabase(p.URL(), name)
}

// DropDatabase drops what CreateDatabase made, and ends the connections to it.
func (p *Postgres) DropDatabase(ctx context.Context, databaseURL string) error {
	u, err := url.Parse(databaseURL)
	if err == nil {
		name := pgx.Identifier{strings.TrimPrefix(u.Path, "/")}
		err = p.admin(ctx, "DROP DATABASE IF EXISTS "+name.Sanitize()+" WITH (FORCE)")
	}
	if err != nil {
		return fmt.Errorf("cluster: drop database: %w", err)
	}
	return nil
}

// admin runs one statement as superuser, again while somebody else is using template1.
func (p *Postgres) admin(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for range databaseTriesMax {
		_, err = conn.Exec(ctx, sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "55006" { // object_in_use; the server itself waits 5 s before it says so
			return err
		}
	}
	return err
}

// withDatabase is the same URL with another database.
func withDatabase(serverURL, database string) (string, error) {
	u, err := url.Parse(serverURL)
	if err != nil {
		return "", fmt.Errorf("cluster: parse database URL: %w", err)
	}
	u.Path = "/" + database
	return u.String(), nil
}
