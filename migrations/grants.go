package migrations

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/schema"
)

// writerGrants let a role write events, in either way, and see nothing of what others wrote: RETURNING
// and a DELETE by id need to read the columns that name an event.
const writerGrants = `
grant usage on schema baton to ROLE;
grant execute on function baton.add(text[], text[], text[], bytea[], jsonb[], uuid[]) to ROLE;
grant execute on function baton.add(text[], text[], text[], bytea[]) to ROLE;
grant execute on function baton.add(text, text, text, text, jsonb) to ROLE;
grant execute on function baton.add(text, text, text, jsonb, jsonb) to ROLE;
grant execute on function baton.add(text, text, text, bytea, jsonb) to ROLE;
grant insert, delete on baton.outbox to ROLE;
grant select (id, position, aggregatetype, aggregateid, type, created_at) on baton.outbox to ROLE;`

// relayGrants let a role claim, acknowledge and operate. It cannot change or delete an event, but
// through the function that spares what is unpublished.
const relayGrants = `
grant usage on schema baton to ROLE;
grant select on baton.event, baton.record, baton.gap, baton.meta, baton.audit, baton.instance, baton.topic,
  baton.position to ROLE;
grant update (next_position, ready_at, locked_until, token, locked_by, attempts, claims, empties, last_error)
  on baton.record to ROLE;
grant update (source, kafka_cluster_id, system_identifier) on baton.meta to ROLE;
grant insert, update, delete on baton.instance to ROLE;
grant delete on baton.gap to ROLE;
grant insert on baton.topic to ROLE;
grant execute on function baton.record_id(text, text) to ROLE;
grant execute on function baton.add(text[], text[], text[], bytea[], jsonb[], uuid[]) to ROLE;
grant execute on function baton.ack(bigint[], bigint[], bigint[], boolean) to ROLE;
grant execute on function baton.retain(interval, bigint, int) to ROLE;
grant execute on function baton.park(text, text, text), baton.unpark(text, text, text), baton.skip(text, text, text),
  baton.unpark_all(text, text), baton.accept_topic(text, int, text) to ROLE;`

// Grants returns the least that a writer's and a relay's role need, as SQL. "" leaves one out.
func Grants(schemaName, writer, relay string) (string, error) {
	name, err := schemaOr(schemaName)
	if err != nil {
		return "", err
	}
	if writer == "" && relay == "" {
		return "", fmt.Errorf("migrations: grants: name a role with --writer or --relay")
	}
	var b strings.Builder
	for _, g := range []struct{ sql, role string }{{writerGrants, writer}, {relayGrants, relay}} {
		if g.role == "" {
			continue
		}
		if strings.ContainsRune(g.role, 0) || len(g.role) > 63 {
			return "", fmt.Errorf("migrations: grants: role %q: at most 63 bytes, no NUL", g.role)
		}
		b.WriteString(strings.ReplaceAll(schema.In(g.sql, name), "ROLE", pgx.Identifier{g.role}.Sanitize()))
	}
	return strings.TrimPrefix(b.String(), "\n") + "\n", nil
}

// Grant applies what Grants returns, in one transaction.
func Grant(ctx context.Context, url, schemaName, writer, relay string) error {
	grants, err := Grants(schemaName, writer, relay)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConnect, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// without arguments the simple protocol takes them all
	if _, err := conn.Exec(ctx, "begin;\n"+grants+"commit;"); err != nil {
		return fmt.Errorf("migrations: grants: %w", err)
	}
	return nil
}
