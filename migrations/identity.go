package migrations

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/batonrelay/baton/internal/schema"
)

// metaSQL reads the one row; the system identifier tells this cluster from a restored copy.
const metaSQL = `
select m.schema_version, m.relay_oldest,
       coalesce(m.system_identifier, ''), coalesce(m.source, ''), coalesce(m.kafka_cluster_id, ''),
       (select system_identifier::text from pg_control_system())
  from baton.meta m`

const identifySQL = `
update baton.meta
   set system_identifier = $1, source = nullif($2, ''), kafka_cluster_id = nullif($3, '')`

const acceptAuditSQL = `insert into baton.audit (action, reason) values ('accept', $1)`

// Meta is what the database says about itself.
type Meta struct {
	SchemaVersion    int
	RelayOldest      int
	Stored           Identity // as migrate or the first relay stored it
	SystemIdentifier string   // of the server that answers now
}

// Identity says where an outbox publishes from and to. "" is not known yet.
type Identity struct {
	SystemIdentifier string
	Source           string
	KafkaClusterID   string
}

// Querier is a pool, a connection or a transaction of pgx.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// ErrNotMigrated: the schema is not there, or not whole.
var ErrNotMigrated = errors.New("migrations: the outbox is not in this database: run baton migrate up")

// ReadMeta returns ErrNotMigrated where the schema is missing.
func ReadMeta(ctx context.Context, db Querier, schemaName string) (Meta, error) {
	var m Meta
	err := db.QueryRow(ctx, schema.In(metaSQL, schemaName)).Scan(&m.SchemaVersion, &m.RelayOldest,
		&m.Stored.SystemIdentifier, &m.Stored.Source, &m.Stored.KafkaClusterID, &m.SystemIdentifier)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000") || errors.Is(err, pgx.ErrNoRows) {
		return m, fmt.Errorf("%w (schema %s)", ErrNotMigrated, schemaName)
	}
	if err != nil {
		return m, fmt.Errorf("migrations: read meta: %w", err)
	}
	return m, nil
}

// Check says whether a relay of this build may publish from this outbox, as source, to that Kafka.
func (m Meta) Check(source, kafkaClusterID string) error {
	var problems []error
	if m.SchemaVersion < Version {
		problems = append(problems, fmt.Errorf("the schema is version %d, this relay needs %d: run baton migrate up",
			m.SchemaVersion, Version))
	}
	if m.RelayOldest > Version {
		problems = append(problems, fmt.Errorf("the schema allows relays built for version %d or newer, "+
			"this one is built for %d: upgrade it", m.RelayOldest, Version))
	}
	now := Identity{SystemIdentifier: m.SystemIdentifier, Source: source, KafkaClusterID: kafkaClusterID}
	problems = append(problems, m.Stored.differs(now)...)
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("%w: this outbox must not be published from here: %w", ErrRefused, err)
	}
	return nil
}

const acceptHint = "if this is meant, run baton migrate up --accept"

func (stored Identity) differs(now Identity) []error {
	var problems []error
	for _, f := range []struct{ what, stored, now string }{
		{"database system identifier (is this a restored copy?)", stored.SystemIdentifier, now.SystemIdentifier},
		{"BATON_SOURCE", stored.Source, now.Source},
		{"Kafka cluster id", stored.KafkaClusterID, now.KafkaClusterID},
	} {
		if f.stored != "" && f.now != "" && f.stored != f.now {
			problems = append(problems,
				fmt.Errorf("the %s is %s, the outbox was set up for %s: %s", f.what, f.now, f.stored, acceptHint))
		}
	}
	return problems
}

// Adopt stores what of the identity is not stored yet: the first relay completes what migrate left out.
func Adopt(ctx context.Context, db Querier, schemaName string, m Meta, source, kafkaClusterID string) error {
	merged := m.Stored.or(Identity{SystemIdentifier: m.SystemIdentifier, Source: source, KafkaClusterID: kafkaClusterID})
	if merged == m.Stored {
		return nil
	}
	return merged.store(ctx, db, schemaName)
}

func (i Identity) store(ctx context.Context, db Querier, schemaName string) error {
	_, err := db.Exec(ctx, schema.In(identifySQL, schemaName), i.SystemIdentifier, i.Source, i.KafkaClusterID)
	if err != nil {
		return fmt.Errorf("migrations: store identity: %w", err)
	}
	return nil
}

func (stored Identity) or(now Identity) Identity {
	pick := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	return Identity{
		SystemIdentifier: pick(stored.SystemIdentifier, now.SystemIdentifier),
		Source:           pick(stored.Source, now.Source),
		KafkaClusterID:   pick(stored.KafkaClusterID, now.KafkaClusterID),
	}
}

// identify stores who this outbox is after the migrations. A stored identity that differs stays, and
// stops the relays, unless the operator accepts the new one.
func identify(ctx context.Context, conn *pgx.Conn, schemaName string, opts Options) error {
	m, err := ReadMeta(ctx, conn, schemaName)
	if err != nil {
		return err
	}
	now := Identity{SystemIdentifier: m.SystemIdentifier, Source: opts.Source, KafkaClusterID: opts.KafkaClusterID}
	problems := m.Stored.differs(now)
	if len(problems) > 0 && !opts.Accept {
		return fmt.Errorf("%w: the schema is up to date, but this outbox belongs elsewhere: %w",
			ErrRefused, errors.Join(problems...))
	}
	if len(problems) > 0 {
		reason := "accepted: " + errors.Join(problems...).Error()
		if _, err := conn.Exec(ctx, schema.In(acceptAuditSQL, schemaName), reason); err != nil {
			return fmt.Errorf("migrations: audit: %w", err)
		}
		return now.or(m.Stored).store(ctx, conn, schemaName)
	}
	return Adopt(ctx, conn, schemaName, m, opts.Source, opts.KafkaClusterID)
}

// isThere: creating the schema failed because it exists already. IF NOT EXISTS asks for the right to create
// first (42501), and does not see what another migrator has not committed yet (23505).
func isThere(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42501" || pg.Code == "23505")
}
