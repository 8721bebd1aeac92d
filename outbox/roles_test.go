package outbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/outbox"
)

const denied = "42501" // insufficient_privilege

// try runs each statement in a transaction of its own, which is rolled back, and compares the code of its error.
func try(t *testing.T, conn *pgx.Conn, want string, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		tx := begin(t, conn, pgx.ReadCommitted)
		rows, err := tx.Query(t.Context(), sql, pgx.QueryExecModeExec)
		if err == nil {
			rows.Close()
			err = rows.Err()
		}
		if got := clustertest.SQLState(err); got != want {
			t.Errorf("%s: error = %v, want code %q", sql, err, want)
		}
		rollback(t, tx)
	}
}

func TestWriterRoleWritesAndNothingElse(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conn := connect(t, d.role("writer"))
	tx := begin(t, conn, pgx.ReadCommitted)
	addTx(t, tx, "a", "b")
	commit(t, tx)
	try(t, conn, "",
		`select baton.add('t', 'k', 'T', 'x')`,
		`select baton.add('t', 'k', 'T', '{}'::jsonb, '{"h": "v"}')`,
		`select baton.add('t', 'k', 'T', '\x00'::bytea)`,
		`select baton.add(array['t'], array['k'], array['T'], array[null]::bytea[])`,
		`insert into baton.outbox (id, aggregatetype, aggregateid, type, payload, headers)
		 values (default, 't', 'k', 'T', 'x', '{"h": "v"}') returning id, position`,
		`insert into baton.outbox (aggregatetype, aggregateid, type, payload_bytes)
		 values ('t', 'k', 'T', 'x'), ('t', 'l', 'T', 'x')`,
		`delete from baton.outbox where id = gen_random_uuid()`,
		`select id, position, aggregatetype, aggregateid, type, created_at from baton.outbox`,
	)
	_, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader("t\tk\tT\tx\n"),
		"copy baton.outbox (aggregatetype, aggregateid, type, payload) from stdin")
	if err != nil {
		t.Errorf("COPY: %v", err)
	}
	try(t, conn, denied,
		`select payload from baton.outbox`,
		`select payload_bytes from baton.outbox`,
		`select headers from baton.outbox`,
		`update baton.outbox set type = 'X'`,
		`select 1 from baton.event`,
		`select 1 from baton.record`,
		`select 1 from baton.audit`,
		`insert into baton.event (record, position, bytes, event_id, record_type, record_key, type)
		 values (1, 1, 0, gen_random_uuid(), 't', 'k', 'T')`,
		`insert into baton.record (id, next_position, ready_at) values (1, 1, now())`,
		`update baton.record set ready_at = 'infinity'`,
		`delete from baton.record`,
		`delete from baton.event`,
		`truncate baton.event`,
		`select nextval('baton.position')`,
		`select setval('baton.position', 1)`,
		`select baton.ack('{1}', '{1}', '{1}')`,
		`select baton.retain('0', 0, 1)`,
		`select baton.park('t', 'k', 'r')`,
		`select baton.unpark('t', 'k', 'r')`,
		`select baton.skip('t', 'k', 'r')`,
		`select baton.take_gates('{1}')`,
		`select baton.write_audit('park', 't', 'k', null, 'r')`,
		`select baton.payload_text('x')`,
		`create table baton.mine ()`,
	)
}

func TestRelayRoleRelaysAndNothingElse(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec("select baton.add('t', 'k', 'T', 'x')")
	conn := connect(t, d.role("relay"))
	try(t, conn, "",
		`select payload from baton.event`,
		`select baton.record_id('t', 'k')`,
		`select baton.ack('{1}', '{1}', '{1}')`,
		`select baton.retain('0', 0, 1)`,
		`select baton.park('t', 'k', 'r')`,
		`select baton.unpark('t', 'k', 'r')`,
		`select baton.skip('t', 'k', 'r')`,
		`insert into baton.topic (name, partitions) values ('t', 1)`,
		`insert into baton.instance (id, name, version, pooler) values (1, 'n', 'v', 'none')
		 on conflict (id) do update set seen_at = now()`,
		`delete from baton.instance`,
		`select * from baton.meta, baton.audit, baton.gap, baton.topic`,
		`select last_value from baton.position`,
	)
	try(t, conn, denied,
		`insert into baton.event (record, position, bytes, event_id, record_type, record_key, type)
		 values (1, 1, 0, gen_random_uuid(), 't', 'k', 'T')`,
		`update baton.event set payload = null`,
		`delete from baton.event`,
		`truncate baton.event`,
		`insert into baton.record (id, next_position, ready_at) values (1, 1, now())`,
		`update baton.record set id = 1`,
		`delete from baton.record`,
		`insert into baton.gap values (1, 1)`,
		`insert into baton.audit (action, reason) values ('accept', 'r')`,
		`update baton.audit set reason = 'another'`,
		`delete from baton.audit`,
		`update baton.meta set schema_version = 1`,
		`select nextval('baton.position')`,
		`select setval('baton.position', 1)`,
		`insert into baton.outbox (aggregatetype, aggregateid, type) values ('t', 'k', 'T')`,
		`select baton.take_gates('{1}')`,
		`create table baton.mine ()`,
	)
}

func TestRoleWithoutGrantsIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	url := d.role("writer")
	conn := connect(t, url)
	d.exec("revoke all on all functions in schema baton from " + pgx.Identifier{conn.Config().User}.Sanitize())
	tx := begin(t, conn, pgx.ReadCommitted)
	_, err := outbox.Add(t.Context(), tx, event("a"))
	told := err != nil && strings.Contains(err.Error(), "baton migrate grants --writer")
	if !told || errors.Is(err, outbox.ErrNotMigrated) {
		t.Errorf("Add error = %v, want one that names the command", err)
	}
}
