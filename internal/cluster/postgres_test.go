package cluster

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func startPostgres(t *testing.T, o PostgresOptions) *Postgres {
	t.Helper()
	o.Log = t.Logf
	p, err := StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func queryInt(t *testing.T, url, sql string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func checkRefused(t *testing.T, addr string) {
	t.Helper()
	if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		conn.Close()
		t.Errorf("%s still accepts connections", addr)
	}
}

func TestPostgresKeepsCommitsOverEveryKindOfRestart(t *testing.T) {
	p := startPostgres(t, PostgresOptions{Settings: map[string]string{"work_mem": "7MB"}})
	url, err := p.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec1(t, url, "CREATE TABLE kept (n int)")
	kill := func() error {
		if err := p.Kill(); err != nil {
			return err
		}
		return p.Restart(t.Context(), true)
	}
	restarts := []struct {
		name    string
		restart func() error
	}{
		{"immediate", func() error { return p.Restart(t.Context(), true) }},
		{"fast", func() error { return p.Restart(t.Context(), false) }},
		{"kill", kill},
	}
	for i, r := range restarts {
		exec1(t, url, fmt.Sprintf("INSERT INTO kept VALUES (%d)", i))
		pid, port := p.PID(), p.Port
		if err := r.restart(); err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if p.PID() == pid || p.Port != port {
			t.Errorf("%s: pid %d -> %d, port %d -> %d, want another pid and the same port", r.name, pid, p.PID(), port, p.Port)
		}
		if got, want := queryInt(t, url, "SELECT count(*) FROM kept"), i+1; got != want {
			t.Errorf("%s: rows = %d, want %d", r.name, got, want)
		}
	}
	if got, want := queryInt(t, url, "SELECT setting::int FROM pg_settings WHERE name = 'work_mem'"), 7<<10; got != want {
		t.Errorf("work_mem = %d kB, want %d", got, want)
	}
	addr, dir := p.Addr(), p.dir
	p.Stop()
	p.Stop()
	checkRefused(t, addr)
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("folder after Stop: %v, want none", err)
	}
}

func TestPostgresUsesANamedFolderAgain(t *testing.T) {
	dir, remove, err := workDir("", "baton-test-", &User{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remove)
	p := startPostgres(t, PostgresOptions{Dir: dir})
	exec1(t, p.URL(), "CREATE TABLE kept AS SELECT 42 AS n")
	p.Stop()
	again := startPostgres(t, PostgresOptions{Dir: dir})
	if got, want := queryInt(t, again.URL(), "SELECT n FROM kept"), 42; got != want {
		t.Errorf("n = %d, want %d", got, want)
	}
}

func TestAnotherServersAnswerIsNotOurs(t *testing.T) {
	p := startPostgres(t, PostgresOptions{})
	ours := &Postgres{Port: p.Port, dir: "/elsewhere"}
	if err := ours.answers(t.Context()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("answers = %v, want an error about another server", err)
	}
}

func TestPostgresThatCannotBeFetchedNamesTheCure(t *testing.T) {
	t.Setenv("BATON_CACHE", openDir(t))
	t.Setenv("PATH", "/nonexistent")
	_, err := postgresBinaries(t.Context(), "14", t.Logf)
	if installedPostgres("14") == "" && (err == nil || !strings.Contains(err.Error(), postgresCure)) {
		t.Errorf("error = %v, want one with %q", err, postgresCure)
	}
	if _, err := postgresBinaries(t.Context(), "9", t.Logf); err == nil {
		t.Error("version 9 was found")
	}
}

func TestPostgresOfEachVersionStarts(t *testing.T) {
	if os.Getenv("BATON_LONG") != "1" {
		t.Skip("NOT RUN: fetches four PostgreSQL versions; set BATON_LONG=1")
	}
	for _, version := range []string{"14", "16", "17", "18"} {
		p := startPostgres(t, PostgresOptions{Version: version})
		const sql = "SELECT current_setting('server_version_num')::int / 10000"
		if got := fmt.Sprint(queryInt(t, p.URL(), sql)); got != version {
			t.Errorf("server version = %s, want %s", got, version)
		}
		p.Stop()
	}
}
