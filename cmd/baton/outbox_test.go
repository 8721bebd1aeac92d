package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// A relay is not needed for these: the verbs act on the tables.
func TestStatusParkSkipAndUnparkOfARecord(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	r := d.baton(t, "status").want(t, 0)
	if !strings.Contains(r.stdout, "the outbox is empty") ||
		!strings.Contains(r.stdout, "no relay is running: baton relay") {
		t.Errorf("status of an empty outbox:\n%s", r.stdout)
	}
	d.add(3)
	d.add(1) // record 1 has two events

	d.baton(t, "park", d.recordType, "1", "--reason", "ticket 4711").want(t, 0)
	s := decode[outbox.Status](t, d.baton(t, "status", "-o", "json").want(t, 0))
	if s.Deferred != 2 || s.Parked != 1 || s.Events != 4 || len(s.ParkedRecords) != 1 ||
		s.ParkedRecords[0].RecordKey != "1" {
		t.Errorf("status = %+v, want two deferred records, one parked, four events", s)
	}
	text := d.baton(t, "status").want(t, 0).stdout
	for _, want := range []string{
		"deferred", "parked", "ticket 4711",
		"baton unpark " + d.recordType + " 1 --reason", "baton skip " + d.recordType + " 1 --reason",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}

	skipped := decode[acted](t, d.baton(t, "skip", d.recordType, "1", "--reason", "poison", "-o", "json").want(t, 0))
	if skipped.Action != "skip" || skipped.Position != 1 || skipped.Reason != "poison" {
		t.Errorf("skip = %+v, want position 1", skipped)
	}
	d.baton(t, "unpark", d.recordType, "1", "--reason", "mended").want(t, 0)
	s = decode[outbox.Status](t, d.baton(t, "status", "-o", "json"))
	if s.Deferred != 3 || s.Parked != 0 || s.Events != 3 {
		t.Errorf("status = %+v, want three deferred records with three events", s)
	}
	if n := d.count("select count(*) from baton.audit where action in ('park', 'skip', 'unpark')"); n != 3 {
		t.Errorf("audit rows = %d, want 3", n)
	}
	for _, verb := range []string{"skip", "unpark"} {
		d.baton(t, verb, d.recordType, "no such record", "--reason", "test").want(t, 4, "no event waiting")
	}
	d.baton(t, "park", "no type", "1", "--reason", "test").want(t, 2, "not a record", "letters, digits")
}

func TestKeysFromTheOutboxCannotDriveATerminalOrAShell(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.exec("select baton.add($1, $2, 'Created', '{}'::text)", d.recordType, "a'b\x1b[2J\n$(rm -rf /)")
	d.exec("update baton.record set ready_at = 'infinity', last_error = E'line\\nline\\x1b[31m'")
	text := d.baton(t, "status").want(t, 0).stdout
	if strings.ContainsRune(text, '\x1b') {
		t.Errorf("status has control characters:\n%q", text)
	}
	if !strings.Contains(text, ` $'a\'b\x1b[2J\n$(rm -rf /)' `) {
		t.Errorf("the suggested command does not quote the key:\n%s", text)
	}
}

func TestMigrateGoesFromNothingToUpToDate(t *testing.T) {
	t.Parallel()
	e := environment{"DATABASE_URL": clustertest.Database(t), "BATON_SCHEMA": "events"}
	e.baton(t, "status").want(t, 6, "run baton migrate up")
	e.with(environment{"BATON_KAFKA_BROKERS": "127.0.0.1:1"}).baton(t, "relay").
		want(t, 6, "there is no outbox in schema events", "run baton migrate up")
	e.baton(t, "migrate", "status").want(t, 6, "run baton migrate up")
	for range 2 {
		list := decode[[]migrations.Applied](t, e.baton(t, "migrate", "up", "-o", "json").want(t, 0))
		for _, m := range list {
			if !m.Done {
				t.Errorf("%s is not applied", m.Name)
			}
		}
		if len(list) != migrations.Version {
			t.Errorf("migrations = %d, want %d", len(list), migrations.Version)
		}
	}
	e.baton(t, "migrate", "status").want(t, 0)
	e.baton(t, "status").want(t, 0)
}

func TestGrantsArePrintedOrApplied(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	name, roleURL := d.role("")
	relay := d.with(environment{"DATABASE_URL": roleURL})
	relay.baton(t, "relay").want(t, 6, "the role "+name+" lacks", "baton migrate grants --relay "+name+" --apply")

	r := d.baton(t, "migrate", "grants", "--relay", name).want(t, 0)
	if !strings.Contains(r.stdout, `grant select on "baton".event`) {
		t.Errorf("grants:\n%s", r.stdout)
	}
	relay.baton(t, "status").want(t, 1) // printed is not applied
	d.baton(t, "migrate", "grants", "--relay", name, "--apply").want(t, 0)
	relay.baton(t, "status").want(t, 0)
}

func TestTopicsAreCheckedAndMade(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.baton(t, "topics", "check").want(t, 6, d.topic, "run: baton topics ensure")
	ensure := []string{"topics", "ensure", "--replication-factor", "1", "--partitions"}
	made := decode[[]topic](t, d.baton(t, append(ensure, "3", "-o", "json")...).want(t, 0))
	if len(made) != 1 || made[0].Name != d.topic || !made[0].Created || made[0].Partitions != 3 {
		t.Errorf("topics = %+v, want %s made with 3 partitions", made, d.topic)
	}
	again := d.baton(t, append(ensure, "4")...).want(t, 0, "it has 3 partitions, not 4")
	if strings.Contains(again.stdout, "created") {
		t.Errorf("a topic that exists was made again:\n%s", again.stdout)
	}
	d.baton(t, "topics", "check").want(t, 0, "replication factor is 1, below 3")
	d.baton(t, "topics", "check", "no.such.topic").want(t, 6, "no.such.topic")
	d.with(environment{"BATON_KAFKA_BROKERS": "127.0.0.1:1"}).baton(t, "topics", "check").want(t, 3, "127.0.0.1:1")
}

// What a server, an address or a role can be wrong in: each has its exit code, and says what to do.
func TestDatabaseThatCannotServeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	closed := "postgres://postgres@127.0.0.1:1/shop?sslmode=disable"
	unknown := onServer(t, func(u *url.URL) { u.Host = "no-such-host.invalid:5432" })
	missing := onServer(t, func(u *url.URL) { u.Path = "/no_such_database" })
	nobody := onServer(t, func(u *url.URL) { u.User = url.User("no_such_role") })
	for _, tc := range []struct {
		name, url string
		says      []string
		commands  []string
	}{
		{"nobody listens", closed, []string{"127.0.0.1:1 does not answer", "connection refused"},
			[]string{"status", "migrate up", "migrate status"}},
		{"unknown host", unknown, []string{"nobody knows the host no-such-host.invalid", "check DATABASE_URL"},
			[]string{"status", "migrate up", "relay"}},
		{"unknown database", missing,
			[]string{"there is no database no_such_database", "create it, or mend DATABASE_URL"},
			[]string{"status", "migrate up", "relay"}},
		{"unknown role", nobody, []string{"does not let user no_such_role in", "check DATABASE_URL"},
			[]string{"status", "migrate up", "relay"}},
	} {
		e := environment{"DATABASE_URL": tc.url, "BATON_KAFKA_BROKERS": "127.0.0.1:1", "BATON_OPS_LISTEN": "off"}
		for _, command := range tc.commands {
			t.Log(tc.name, command)
			e.baton(t, strings.Fields(command)...).want(t, 3, tc.says...)
		}
	}
}

// Trust is all that the shared server asks for, so this one is the test's own.
func TestWrongPasswordIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := cluster.StartPostgres(ctx, cluster.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	conn, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var hba string
	if err := conn.QueryRow(ctx, "show hba_file").Scan(&hba); err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(hba)
	if err == nil {
		err = os.WriteFile(hba, append([]byte("host all relay 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	const role = "create role relay login password 'right'; select pg_reload_conf()"
	if _, err := conn.Exec(ctx, role, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	as := func(password string) environment {
		u, err := url.Parse(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("relay", password)
		return environment{"DATABASE_URL": u.String(), "BATON_KAFKA_BROKERS": "127.0.0.1:1", "BATON_OPS_LISTEN": "off"}
	}
	for _, command := range []string{"relay", "status", "migrate up"} {
		r := as(canary).baton(t, strings.Fields(command)...).
			want(t, 3, "refuses the password of user relay", "DATABASE_URL_FILE")
		if strings.Contains(r.stdout+r.stderr, canary) {
			t.Errorf("%s prints the password:\n%s", command, r.stderr)
		}
	}
	as("right").baton(t, "status").want(t, 6, "run baton migrate up")
}

// What an outbox can hold that a relay must not publish. All that is wrong is said at once.
func TestOutboxThatARelayMustNotPublishFromSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, sql string
		code      int
		says      []string
	}{
		{"older schema", "update baton.meta set schema_version = schema_version - 1", 5, []string{"run baton migrate up"}},
		{"newer schema", "update baton.meta set relay_oldest = 99, schema_version = 99", 5,
			[]string{"allows relays built for version 99 or newer", "upgrade it"}},
		{"other server", "update baton.meta set system_identifier = '1'", 5,
			[]string{"restored copy?", "baton migrate up --accept"}},
		{"other source", "update baton.meta set source = 'production'", 5,
			[]string{"BATON_SOURCE is baton", "set up for production", "--accept"}},
		{"other Kafka", "update baton.meta set kafka_cluster_id = 'production'", 5,
			[]string{"Kafka cluster id", "set up for production", "--accept"}},
		{"sequence behind", "select setval('baton.position', 1)", 6,
			[]string{"behind the events", "select setval('baton.position', (select max(position) from baton.event))"}},
		{"read-only", "alter database %s set default_transaction_read_only = on", 6, []string{"read-only"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := newOutbox(t)
			d.add(10)
			if strings.Contains(tc.sql, "%s") {
				tc.sql = fmt.Sprintf(tc.sql, d.admin.Config().ConnConfig.Database)
			}
			d.exec(tc.sql)
			d.baton(t, "relay").want(t, tc.code, tc.says...)
			n := d.count("select count(*) from baton.record " +
				"where next_position in (select position from baton.event) and token is null")
			if n != 10 {
				t.Errorf("records untouched = %d, want all 10", n)
			}
		})
	}
}

func TestEveryFailingCheckIsReported(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.add(10)
	d.exec("select setval('baton.position', 1)")
	d.exec("update baton.meta set source = 'production', relay_oldest = 99")
	d.exec("alter database " + d.admin.Config().ConnConfig.Database + " set default_transaction_read_only = on")
	d.baton(t, "relay").want(t, 5, "read-only", "behind the events", "set up for production", "upgrade it")
}

func TestAcceptedCopyPublishes(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.exec("update baton.meta set source = 'production', system_identifier = '1'")
	d.baton(t, "migrate", "up").want(t, 5, "belongs elsewhere", "--accept")
	d.baton(t, "migrate", "up", "--accept").want(t, 0)
	d.baton(t, "migrate", "up").want(t, 0)
	if n := d.count("select count(*) from baton.audit where action = 'accept'"); n != 1 {
		t.Errorf("audit rows = %d, want 1", n)
	}
}

func TestMigrationsGoPastAPooler(t *testing.T) {
	t.Parallel()
	pooler := startPooler(t)
	direct := clustertest.Database(t)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	e := environment{"DATABASE_URL": pooler.URL(strings.TrimPrefix(u.Path, "/"))}
	e.baton(t, "migrate", "up").want(t, 1, "BATON_DATABASE_DIRECT_URL")
	e.with(environment{"BATON_DATABASE_DIRECT_URL": direct}).baton(t, "migrate", "up").want(t, 0)
	e.baton(t, "status").want(t, 0)
}

func startPooler(t *testing.T) *cluster.PgBouncer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pooler, err := cluster.StartPgBouncer(ctx, clustertest.Postgres(t).URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pooler.Stop)
	return pooler
}

// A standby of its own: the server is told to recover for ever.
func TestStandbyIsRefusedAndMayBeLookedAt(t *testing.T) {
	t.Parallel()
	server, err := cluster.StartPostgres(t.Context(), cluster.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	d := newOutboxOn(t, server.URL())
	var data string
	if err := d.admin.QueryRow(t.Context(), "show data_directory").Scan(&data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	d.baton(t, "relay").want(t, 6, "the server is a standby", "connect to the primary")
	d.baton(t, "migrate", "up").want(t, 1, "the server is a standby", "connect to the primary")
	d.baton(t, "park", d.recordType, "1", "--reason", "test").
		want(t, 1, "the server is read-only", "connect to the primary")
	d.baton(t, "status").want(t, 0)
}
