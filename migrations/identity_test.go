package migrations_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

func readMeta(t *testing.T, conn *pgx.Conn) migrations.Meta {
	t.Helper()
	m, err := migrations.ReadMeta(t.Context(), conn, "baton")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCheckSaysWhatToDoAboutAnotherSchemaVersion(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	if err := readMeta(t, conn).Check("", ""); err != nil {
		t.Errorf("Check of what Up left: %v", err)
	}
	exec(t, conn, "update baton.meta set schema_version = schema_version + 1") // newer, and still good for us
	if err := readMeta(t, conn).Check("", ""); err != nil {
		t.Errorf("Check of a newer schema that allows this relay: %v", err)
	}
	exec(t, conn, "update baton.meta set relay_oldest = schema_version")
	wantError(t, "newer schema", readMeta(t, conn).Check("", ""),
		"allows relays built for version 5 or newer", "upgrade it")
	exec(t, conn, "update baton.meta set schema_version = 3, relay_oldest = 3")
	wantError(t, "older schema", readMeta(t, conn).Check("", ""), "version 3", "baton migrate up")
}

func TestAnotherIdentityIsRefusedUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	up(t, url, migrations.Options{Source: "shop", KafkaClusterID: "kafka-1"})
	conn := connect(t, url)
	first := readMeta(t, conn)
	if first.SystemIdentifier == "" || first.Stored.SystemIdentifier != first.SystemIdentifier {
		t.Errorf("stored system identifier = %q, want %q", first.Stored.SystemIdentifier, first.SystemIdentifier)
	}
	if err := first.Check("shop", "kafka-1"); err != nil {
		t.Errorf("Check of the same identity: %v", err)
	}
	if err := first.Check("", ""); err != nil {
		t.Errorf("Check of an identity not known: %v", err)
	}

	exec(t, conn, "update baton.meta set system_identifier = '12345'") // as in a restored copy
	wantError(t, "all of it", readMeta(t, conn).Check("staging", "kafka-2"),
		"database system identifier", "BATON_SOURCE is staging", "shop", "Kafka cluster id is kafka-2", "--accept")

	other := migrations.Options{Source: "staging", KafkaClusterID: "kafka-2"}
	wantError(t, "Up", migrations.Up(t.Context(), url, other), "belongs elsewhere", "--accept")
	stored := migrations.Identity{SystemIdentifier: "12345", Source: "shop", KafkaClusterID: "kafka-1"}
	if diff := cmp.Diff(readMeta(t, conn).Stored, stored); diff != "" {
		t.Errorf("stored after it was refused (-got +want):\n%s", diff)
	}
	if got := one[int](t, conn, "select count(*) from baton.audit"); got != 0 {
		t.Errorf("audit rows before it was accepted = %d, want 0", got)
	}

	other.Accept = true
	up(t, url, other)
	stored = migrations.Identity{SystemIdentifier: first.SystemIdentifier, Source: "staging", KafkaClusterID: "kafka-2"}
	if diff := cmp.Diff(readMeta(t, conn).Stored, stored); diff != "" {
		t.Errorf("stored after it was accepted (-got +want):\n%s", diff)
	}
	if err := readMeta(t, conn).Check("staging", "kafka-2"); err != nil {
		t.Errorf("Check after it was accepted: %v", err)
	}
	reason := one[string](t, conn, `
select string_agg(reason, '|') from baton.audit where action = 'accept' and actor = session_user`)
	for _, text := range []string{"12345", "shop", "staging", "kafka-1", "kafka-2"} {
		wantText(t, reason, text)
	}
	up(t, url, other) // nothing differs any more
	if got := one[int](t, conn, "select count(*) from baton.audit"); got != 1 {
		t.Errorf("audit rows after accepting twice = %d, want 1", got)
	}
}

func wantText(t *testing.T, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("audit reason = %q, want %q in it", text, want)
	}
}

// TestAdoptCompletesWhatMigrateLeftOut, as a relay does, and never changes what is stored.
func TestAdoptCompletesWhatMigrateLeftOut(t *testing.T) {
	t.Parallel()
	url, conn := migrated(t)
	name, relayURL := role(t, conn, url, "relay_")
	if err := migrations.Grant(t.Context(), url, "", "", name); err != nil {
		t.Fatal(err)
	}
	relay := connect(t, relayURL)
	for _, step := range []struct{ source, kafka, wantSource, wantKafka string }{
		{"", "", "", ""},
		{"shop", "", "shop", ""},
		{"", "kafka-1", "shop", "kafka-1"},
		{"staging", "kafka-2", "shop", "kafka-1"},
	} {
		if err := migrations.Adopt(t.Context(), relay, "baton", readMeta(t, relay), step.source, step.kafka); err != nil {
			t.Fatal(err)
		}
		got := readMeta(t, conn).Stored
		want := migrations.Identity{
			SystemIdentifier: got.SystemIdentifier, Source: step.wantSource, KafkaClusterID: step.wantKafka,
		}
		if got != want || got.SystemIdentifier == "" {
			t.Errorf("stored after %+v = %+v, want %+v", step, got, want)
		}
	}
}
