package clustertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { Main(m) }

func databases(t *testing.T, url string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const sql = `SELECT count(*) FROM pg_database WHERE datname = current_database() AND datname <> 'postgres'`
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDatabaseIsFreshAndDroppedAfterTheTest(t *testing.T) {
	var first string
	t.Run("use", func(t *testing.T) {
		first = Database(t)
		if second := Database(t); second == first {
			t.Errorf("two databases have one URL: %s", first)
		}
		if got := databases(t, first); got != 1 {
			t.Errorf("connected to a database of its own: %d, want 1", got)
		}
		held, err := pgx.Connect(t.Context(), first) // an open connection must not stop the drop
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = held.Close(t.Context()) })
	})
	if conn, err := pgx.Connect(t.Context(), first); err == nil {
		conn.Close(t.Context())
		t.Errorf("%s still exists after the test", first)
	}
}

func TestSimulatedKafkaIsReported(t *testing.T) {
	path := filepath.Join(t.TempDir(), "simulated")
	t.Setenv("BATON_SIMULATED_LOG", path)
	t.Setenv("KAFKA", "sim")
	t.Setenv("BATON_TEST_KAFKA", "")
	if k := Kafka(t); !k.Simulated {
		t.Fatal("KAFKA=sim gave a real broker")
	}
	Kafka(t) // a test is counted once
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(string(b), t.Name()), 1; got != want {
		t.Errorf("lines in the log = %d, want %d", got, want)
	}
}
