package migrations_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

func TestUpMayRunAgainAndStatusTells(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	done := func() (list []bool) {
		status, err := migrations.Status(t.Context(), url, migrations.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range status {
			if s.Version != int64(i+1) || s.Name == "" {
				t.Errorf("migration %d is %+v", i+1, s)
			}
			list = append(list, s.Done)
		}
		return list
	}
	all := func(done bool) (list []bool) {
		for range migrations.Version {
			list = append(list, done)
		}
		return list
	}
	if diff := cmp.Diff(done(), all(false)); diff != "" {
		t.Errorf("done before Up (-got +want):\n%s", diff)
	}
	for range 2 {
		up(t, url, migrations.Options{})
	}
	if diff := cmp.Diff(done(), all(true)); diff != "" {
		t.Errorf("done after Up (-got +want):\n%s", diff)
	}
	if got := one[int](t, connect(t, url), "select schema_version from baton.meta"); got != migrations.Version {
		t.Errorf("schema version = %d, want %d", got, migrations.Version)
	}
}

func TestTwoMigratorsDoTheWorkOnce(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	const migrators = 3
	errs := make(chan error, migrators)
	for range migrators {
		go func() { errs <- migrations.Up(t.Context(), url, migrations.Options{}) }()
	}
	for range migrators {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	got := one[int](t, connect(t, url), "select count(*) from baton.migration where version_id > 0")
	if got != migrations.Version {
		t.Errorf("migrations applied = %d, want %d", got, migrations.Version)
	}
}

// TestMigratorThatCreatesTheSchemaAtTheSameTime: IF NOT EXISTS does not see what another session has not committed.
func TestMigratorThatCreatesTheSchemaAtTheSameTime(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	conn, other := connect(t, url), connect(t, url)
	exec(t, other, "begin; create schema baton")
	done := make(chan error, 1)
	go func() { done <- migrations.Up(t.Context(), url, migrations.Options{}) }()
	for end := time.Now().Add(10 * time.Second); ; {
		const waits = `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and query like 'create schema%')`
		if one[bool](t, conn, waits) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the migrator does not wait for the other session")
		}
	}
	exec(t, other, "commit")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

var otherName = regexp.MustCompile(`\bbaton\.|'baton'`)

func TestSchemaMayHaveAnyPlainName(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	conn := connect(t, url)
	exec(t, conn, "create schema baton") // whatever leaked into it would be found
	longest := strings.Repeat("x", 63)
	for _, name := range []string{"order", "_", longest} {
		for range 2 {
			up(t, url, migrations.Options{Schema: name})
		}
		quoted := pgx.Identifier{name}.Sanitize()
		var texts []string
		for _, sql := range []string{
			"select prosrc || pg_get_functiondef(oid) from pg_proc where pronamespace = $1::regnamespace",
			"select pg_get_viewdef(oid) from pg_class where relnamespace = $1::regnamespace and relkind = 'v'",
			"select pg_get_triggerdef(oid) from pg_trigger",
			"select definition from pg_rules where schemaname::regnamespace = $1::regnamespace",
		} {
			sql = strings.Replace(sql, "$1", "'"+quoted+"'", 1)
			texts = append(texts, one[[]string](t, conn, "select array_agg(f) from ("+sql+") s(f)")...)
		}
		if len(texts) < 10 {
			t.Errorf("%s: found %d objects", name, len(texts))
		}
		for _, text := range texts {
			if found := otherName.FindString(text); found != "" {
				t.Errorf("%s: %q is left in:\n%s", name, found, text)
			}
		}
		writes(t, conn, name)
	}
	if got := one[int](t, conn, "select count(*) from pg_class where relnamespace = 'baton'::regnamespace"); got != 0 {
		t.Errorf("objects in the schema baton = %d, want 0", got)
	}
	if one[int64](t, conn, `select "order".record_id('t', 'k')`) == one[int64](t, conn, `select _.record_id('t', 'k')`) {
		t.Error("two outboxes of one database share their gates")
	}
}

// writes goes through every function of writing in a schema.
func writes(t *testing.T, conn *pgx.Conn, name string) {
	t.Helper()
	writer, err := outbox.NewWriter(name)
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		_, err := writer.Add(t.Context(), tx, outbox.Event{Record: outbox.Record{Type: "t", Key: "k"}, Type: outbox.Created})
		return err
	})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	in := pgx.Identifier{name}.Sanitize() + "."
	exec(t, conn, "insert into "+in+"outbox (aggregatetype, aggregateid, type, payload) values ('t', 'k', 'T', 'x')")
	for _, verb := range []string{"skip", "park", "unpark"} {
		exec(t, conn, "select "+in+verb+"('t', 'k', 'a test')")
	}
	exec(t, conn, "select "+in+"ack('{1}', '{1}', '{1}'), "+in+"retain('0', 0, 1)")
	if got := one[int](t, conn, "select count(*) from "+in+"outbox"); got != 1 {
		t.Errorf("%s: events = %d, want 1: the other was skipped, and retention took it", name, got)
	}
}

func TestBadSchemaNamesAreRefused(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	for _, name := range []string{
		"Order", "1st", "a-b", `a"b`, "a.b", "pg_mine", "bücher", strings.Repeat("x", 64), " ",
	} {
		wantError(t, name, migrations.Up(t.Context(), url, migrations.Options{Schema: name}), "small letters, digits or '_'")
	}
}

func TestUpNeedsNoSuperuser(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	admin := connect(t, url)
	owner, roleURL := role(t, admin, url, "owner_")
	database := pgx.Identifier{one[string](t, admin, "select current_database()")}.Sanitize()
	exec(t, admin, "grant create on database "+database+" to "+owner)
	up(t, roleURL, migrations.Options{Source: "shop"})
	writes(t, connect(t, roleURL), "baton")
	const sql = "select nspowner::regrole::text from pg_namespace where nspname = 'baton'"
	if got := one[string](t, admin, sql); got != owner {
		t.Errorf("owner = %s, want %s", got, owner)
	}
}

func TestUpInASchemaThatSomebodyElseCreated(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	admin := connect(t, url)
	owner, roleURL := role(t, admin, url, "owner_")
	exec(t, admin, "create schema baton authorization "+owner) // and no right to create others
	up(t, roleURL, migrations.Options{})
}

func TestPoolerIsRefused(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	name := one[string](t, connect(t, url), "select current_database()")
	b, err := cluster.StartPgBouncer(t.Context(), clustertest.Postgres(t).URL(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Stop()
	err = migrations.Up(t.Context(), b.URL(name), migrations.Options{})
	wantError(t, "Up", err, "pooler", "BATON_DATABASE_DIRECT_URL")
	_, err = migrations.Status(t.Context(), b.URL(name), migrations.Options{})
	wantError(t, "Status", err, "pooler")
}

func TestStandbyIsRefused(t *testing.T) {
	t.Parallel()
	parent, err := os.MkdirTemp("", "standby-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	if err := os.Chmod(parent, 0o755); err != nil { // the server may run as another user, which t.TempDir keeps out
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "data")
	p, err := cluster.StartPostgres(t.Context(), cluster.PostgresOptions{Dir: dir, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if err := os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Up", migrations.Up(t.Context(), p.URL(), migrations.Options{}), "standby", "connect to the primary")
}

func TestUnreachableServerIsTold(t *testing.T) {
	t.Parallel()
	for url, text := range map[string]string{
		"postgres://localhost:1/x?connect_timeout=2": "migrations: connect", "postgres://%": "database URL",
	} {
		wantError(t, url, migrations.Up(t.Context(), url, migrations.Options{}), text)
	}
}

func TestEveryMigrationBoundsItsWaitsAndGoesForwardOnly(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("sql/*.sql")
	if err != nil || len(names) != migrations.Version {
		t.Fatalf("migrations = %d, %v, want %d", len(names), err, migrations.Version)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "-- +goose Up\nset local lock_timeout = '2s';\n") {
			t.Errorf("%s does not begin by setting lock_timeout to 2 s", name)
		}
		for _, bad := range []string{"+goose Down", "NO TRANSACTION", "concurrently"} {
			if strings.Contains(string(b), bad) {
				t.Errorf("%s has %q", name, bad)
			}
		}
	}
}

func TestMigrationWaitsNoLongerThanItsLockTimeout(t *testing.T) {
	t.Parallel()
	url, conn := migrated(t)
	exec(t, conn, `
delete from baton.migration where version_id = 4;
drop function baton.first_unwritten, baton.write_audit, baton.park, baton.unpark, baton.unpark_all, baton.skip, baton.accept_topic;`)
	holder := connect(t, url)
	exec(t, holder, "begin; lock table baton.event in access exclusive mode")
	start := time.Now()
	err := migrations.Up(t.Context(), url, migrations.Options{})
	if got, want := clustertest.SQLState(err), "55P03"; got != want {
		t.Errorf("Up behind a lock: error = %v, want code %s", err, want)
	}
	if waited := time.Since(start); waited < 2*time.Second || waited > 20*time.Second {
		t.Errorf("Up waited %v, want 2 s", waited)
	}
	exec(t, holder, "rollback")
	up(t, url, migrations.Options{}) // nothing of it was left behind
}

// recordIDs are frozen: the id is the gate's key too, and two versions that differ would stop excluding each other.
var recordIDs = map[[2]string]int64{
	{"shop.order", "42"}:       5652528922295752844,
	{"shop.order", "43"}:       -3210435458370325128,
	{"shop.customer", "42"}:    4371952597386901036,
	{"a", "bc"}:                2051374816979520908,
	{"ab", "c"}:                -2600001695092178487,
	{"t", "k"}:                 -3175692181751357892,
	{"shop.order", "Zürich ✓"}: 4582701782632128860,
	{"shop.order", " 42"}:      5627810676066914916,
	{"Shop.Order", "42"}:       -2875888844402402633,
	{"shop.order", "018f2c3e-7c1a-7b64-9d0a-3f1b6f0e2a11"}: -1118051202244749114,
}

func TestRecordIDsAreFrozen(t *testing.T) {
	t.Parallel()
	t.Run("installed", func(t *testing.T) {
		_, conn := migrated(t)
		checkRecordIDs(t, conn)
	})
	if os.Getenv("BATON_LONG") != "1" {
		t.Run("14 to 18", func(t *testing.T) { t.Skip("NOT RUN: starts five servers; set BATON_LONG=1") })
		return
	}
	for _, version := range []string{"14", "15", "16", "17", "18"} {
		t.Run(version, func(t *testing.T) {
			p, err := cluster.StartPostgres(t.Context(), cluster.PostgresOptions{Version: version, Log: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Stop()
			up(t, p.URL(), migrations.Options{})
			checkRecordIDs(t, connect(t, p.URL()))
		})
	}
}

func checkRecordIDs(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for record, want := range recordIDs {
		if got := one[int64](t, conn, "select baton.record_id($1, $2)", record[0], record[1]); got != want {
			t.Errorf("record_id(%q, %q) = %d, want %d", record[0], record[1], got, want)
		}
	}
}

func TestGrantsAreForRealRoles(t *testing.T) {
	t.Parallel()
	url, conn := migrated(t)
	if _, err := migrations.Grants("", "", ""); err == nil {
		t.Error("Grants for nobody returned no error")
	}
	for _, bad := range []string{strings.Repeat("r", 64), "a\x00b"} {
		if _, err := migrations.Grants("", bad, ""); err == nil {
			t.Errorf("Grants took the role %q", bad)
		}
	}
	name, _ := role(t, conn, url, `we"ird; drop role `)
	if err := migrations.Grant(t.Context(), url, "", name, name); err != nil {
		t.Error(err)
	}
	if !one[bool](t, conn, "select has_schema_privilege($1, 'baton', 'usage')", name) {
		t.Error("the role may not use the schema")
	}
	if err := migrations.Grant(t.Context(), url, "", "nobody_of_that_name", ""); clustertest.SQLState(err) != "42704" {
		t.Errorf("Grant to a role that is not there: error = %v, want code 42704", err)
	}
	if err := migrations.Grant(t.Context(), url, "elsewhere", name, ""); clustertest.SQLState(err) != "3F000" {
		t.Errorf("Grant on a schema that is not there: error = %v, want code 3F000", err)
	}
}

func TestMissingSchemaIsNotMigrated(t *testing.T) {
	t.Parallel()
	conn := connect(t, clustertest.Database(t))
	if _, err := migrations.ReadMeta(t.Context(), conn, "baton"); !errors.Is(err, migrations.ErrNotMigrated) {
		t.Errorf("ReadMeta error = %v, want %v", err, migrations.ErrNotMigrated)
	}
	exec(t, conn, "create schema baton; create table baton.meta ()")
	exec(t, conn, "drop table baton.meta")
	if _, err := migrations.ReadMeta(t.Context(), conn, "baton"); !errors.Is(err, migrations.ErrNotMigrated) {
		t.Errorf("ReadMeta of an empty schema: error = %v, want %v", err, migrations.ErrNotMigrated)
	}
}

func TestStatusOfAnEmptyDatabaseChangesNothing(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	list, err := migrations.Status(t.Context(), url, migrations.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != migrations.Version || list[0].Done {
		t.Errorf("status = %+v, want %d migrations, none applied", list, migrations.Version)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var there bool
	err = conn.QueryRow(t.Context(), `select exists (select from pg_namespace where nspname = 'baton')`).Scan(&there)
	if err != nil || there {
		t.Errorf("schema exists = %v (%v), want none", there, err)
	}
}
