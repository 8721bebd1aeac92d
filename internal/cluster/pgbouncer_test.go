package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestPgBouncerPoolsEveryDatabaseAndRoleByTransaction(t *testing.T) {
	p := startPostgres(t, PostgresOptions{})
	exec1(t, p.URL(), "CREATE ROLE writer LOGIN")
	database, err := p.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := database[strings.LastIndex(database, "/")+1 : strings.Index(database, "?")]
	b, err := StartPgBouncer(t.Context(), p.URL(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	url := strings.Replace(b.URL(name), "postgres@", "writer@", 1) + "&default_query_exec_mode=exec"
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var role, db string
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT current_user, current_database()").Scan(&role, &db)
	})
	if err != nil {
		t.Fatal(err)
	}
	if role != "writer" || db != name {
		t.Errorf("behind the pooler: role %s, database %s, want writer, %s", role, db, name)
	}

	// more clients than server connections: a pooler by session would let the fifth one wait
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i := range 6 {
		client, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		defer client.Close(t.Context())
		if _, err := client.Exec(ctx, "SELECT 1"); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	addr := b.Addr()
	b.Stop()
	b.Stop()
	checkRefused(t, addr)
}
