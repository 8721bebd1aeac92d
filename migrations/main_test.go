package migrations_test

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// migrated is a database with the default schema, and a superuser's session on it.
func migrated(t *testing.T) (url string, conn *pgx.Conn) {
	t.Helper()
	url = clustertest.Database(t)
	up(t, url, migrations.Options{})
	return url, connect(t, url)
}

func up(t *testing.T, url string, opts migrations.Options) {
	t.Helper()
	if err := migrations.Up(t.Context(), url, opts); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) // the test's context has ended
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one reads one value.
func one[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) (value T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// role creates one that may log in, and is dropped after the test; the URL connects as it.
func role(t *testing.T, conn *pgx.Conn, databaseURL, prefix string) (name, roleURL string) {
	t.Helper()
	name = prefix + strings.ToLower(rand.Text()[:12])
	quoted := pgx.Identifier{name}.Sanitize()
	exec(t, conn, "create role "+quoted+" login")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the test's context has ended
		defer cancel()
		sql := "drop owned by " + quoted + " cascade; drop role " + quoted
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Errorf("drop role %s: %v", quoted, err)
		}
	})
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(name)
	return name, u.String()
}

// wantError wants every one of the texts in the error.
func wantError(t *testing.T, what string, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error = %v, want %q in it", what, err, text)
		}
	}
}
