package outbox_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
)

// written describes what the outbox holds: payload as text or hex, or NULL.
func (d *database) written() []string {
	d.t.Helper()
	return one[[]string](d, `
select coalesce(array_agg(format('%s/%s %s %s %s', record_type, record_key, type,
         coalesce(baton.payload_text(payload), payload::text, 'NULL'), coalesce(headers::text, 'NULL'))
         order by position), '{}')
  from baton.event`)
}

func TestPlainSQLWritesEvents(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	const order = `select baton.add('shop.order', '42', `
	for sql, want := range map[string]string{
		order + `'Created', '{"a":1}')`:                          `shop.order/42 Created {"a":1} NULL`,
		order + `'Created', '{"a":1}'::text)`:                    `shop.order/42 Created {"a":1} NULL`,
		order + `'Created', '{"a":1}'::jsonb)`:                   `shop.order/42 Created {"a": 1} NULL`,
		order + `'Created', '\xff00'::bytea)`:                    `shop.order/42 Created \xff00 NULL`,
		order + `'Created', 'C:\new \\ü')`:                       `shop.order/42 Created C:\new \\ü NULL`,
		order + `'Created', '')`:                                 `shop.order/42 Created  NULL`,
		order + `'Removed', null)`:                               `shop.order/42 Removed NULL NULL`,
		order + `'Created', 'x', '{"h": "v"}')`:                  `shop.order/42 Created x {"h": "v"}`,
		order + `'Created', 'x', headers => '{"h": "v"}')`:       `shop.order/42 Created x {"h": "v"}`,
		order + `'Created', '{}'::jsonb, '{"h": "v"}'::jsonb)`:   `shop.order/42 Created {} {"h": "v"}`,
		order + `'Created', '\x00'::bytea, '{"h": "v"}'::jsonb)`: `shop.order/42 Created \x00 {"h": "v"}`,
		order + `'Created', 'x', jsonb_build_object('h', 'v'))`:  `shop.order/42 Created x {"h": "v"}`,

		`select baton.add(array['t'], array['k'], array['T'], array['\x61'::bytea])`:             `t/k T a NULL`,
		`select baton.add(array['t'], array['k'], array['T'], array[null]::bytea[], null, null)`: `t/k T NULL NULL`,
		`do $$ begin perform baton.add('t', 'k', 'T', 'x'); end $$`:                              `t/k T x NULL`,
	} {
		d.clear()
		d.exec(sql)
		if diff := cmp.Diff(d.written(), []string{want}); diff != "" {
			t.Errorf("%s (-got +want):\n%s", sql, diff)
		}
	}
}

func TestInsertIntoTheViewWritesEvents(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	const columns = `insert into baton.outbox (aggregatetype, aggregateid, type, `
	for sql, want := range map[string]string{
		columns + `payload) values ('t', 'k', 'T', '{"a":1}')`:                           `t/k T {"a":1} NULL`,
		columns + `payload) values ('t', 'k', 'T', '{"a":1}'::json)`:                     `t/k T {"a":1} NULL`,
		columns + `payload) values ('t', 'k', 'T', '{"a":1}'::jsonb)`:                    `t/k T {"a": 1} NULL`,
		columns + `payload) values ('t', 'k', 'T', 'C:\new')`:                            `t/k T C:\new NULL`,
		columns + `payload) values ('t', 'k', 'T', '')`:                                  `t/k T  NULL`,
		columns + `payload) values ('t', 'k', 'T', null)`:                                `t/k T NULL NULL`,
		columns + `payload_bytes) values ('t', 'k', 'T', '\xff00')`:                      `t/k T \xff00 NULL`,
		columns + `payload, headers) values ('t', 'k', 'T', 'x', '{"h": "v"}')`:          `t/k T x {"h": "v"}`,
		columns + `payload, position, created_at) values ('t', 'k', 'T', 'x', 1, now())`: `t/k T x NULL`, // given anew
		// without an arbiter there is nothing to conflict with: it inserts like any other
		columns + `payload) values ('t', 'k', 'T', 'x') on conflict do nothing`: `t/k T x NULL`,
	} {
		d.clear()
		d.exec(sql)
		if diff := cmp.Diff(d.written(), []string{want}); diff != "" {
			t.Errorf("%s (-got +want):\n%s", sql, diff)
		}
	}
	d.clear()
	const withID = `
insert into baton.outbox (id, aggregatetype, aggregateid, type) values (gen_random_uuid(), 't', 'k', 'T') `
	for sql, want := range map[string]string{
		columns + `payload, payload_bytes) values ('t', 'k', 'T', 'x', 'x')`: "22023",
		withID + `on conflict (id) do nothing`:                               "42P10",
	} {
		_, err := d.admin.Exec(t.Context(), sql)
		if got := clustertest.SQLState(err); got != want {
			t.Errorf("%s: error = %v, want code %s", sql, err, want)
		}
	}
	if got := d.events(); got != 0 {
		t.Errorf("events = %d, want 0", got)
	}
}

func TestUpdateOfAnEventIsRefused(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.exec("select baton.add('t', 'k', 'T', 'x')")
	_, err := d.admin.Exec(t.Context(), "update baton.outbox set type = 'X'")
	if got, want := clustertest.SQLState(err), "55000"; got != want {
		t.Errorf("UPDATE: error = %v, want code %s", err, want)
	}
	if diff := cmp.Diff(d.written(), []string{"t/k T x NULL"}); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
}

func TestInsertReturnsIDAndPosition(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	rows, err := d.admin.Query(t.Context(), `
insert into baton.outbox (id, aggregatetype, aggregateid, type, payload)
values ('11111111-1111-4111-8111-111111111111', 'shop.order', '1', 'Created', '{}'),
       (null, 'shop.order', '2', 'Created', null),
       (default, 'shop.order', '1', 'Updated', '{}')
returning id::text || ' ' || position`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := one[[]string](d, "select array_agg(event_id || ' ' || position order by position) from baton.event")
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("returned (-got +want written):\n%s", diff)
	}
	if len(got) != 3 || !strings.HasPrefix(got[0], "11111111-1111-4111-8111-111111111111 ") {
		t.Errorf("returned = %q, want three, the first with the id given", got)
	}
	if diff := cmp.Diff(d.keys(), []string{"1", "2", "1"}); diff != "" {
		t.Errorf("keys by position (-got +want):\n%s", diff)
	}
}

func TestCopyWritesEvents(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conn := connect(t, d.url)
	var text strings.Builder
	for i := range 300 {
		fmt.Fprintf(&text, "shop.order\t%d\tCreated\t{\"n\": %d}\n", i%100, i)
	}
	tag, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(text.String()),
		"copy baton.outbox (aggregatetype, aggregateid, type, payload) from stdin")
	if err != nil {
		t.Fatal(err)
	}
	if got := tag.RowsAffected(); got != 300 {
		t.Errorf("rows = %d, want 300", got)
	}
	const inOrderSQL = `
select count(*) from baton.event where payload = convert_to(format('{"n": %s}', position - 1), 'UTF8')`
	if got := one[int](d, inOrderSQL); got != 300 {
		t.Errorf("events in the order of the lines = %d, want 300", got)
	}
	if got := one[int](d, "select count(*) from baton.record"); got != 100 {
		t.Errorf("records with work = %d, want 100", got)
	}
}

// TestDeleteRightAfterTheInsertKeepsTheEvent: so do Debezium's users, whose event is in the log by then.
func TestDeleteRightAfterTheInsertKeepsTheEvent(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conn := connect(t, d.url)
	tx := begin(t, conn, pgx.ReadCommitted)
	var id string
	err := tx.QueryRow(t.Context(), `
insert into baton.outbox (aggregatetype, aggregateid, type, payload) values ('shop.order', '1', 'Created', '{}')
returning id::text`).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"delete from baton.outbox where id = '" + id + "'", "delete from baton.outbox"} {
		tag, err := tx.Exec(t.Context(), sql)
		if err != nil || tag.RowsAffected() != 0 {
			t.Errorf("%s: %d rows, error %v, want none", sql, tag.RowsAffected(), err)
		}
	}
	commit(t, tx)
	if got := d.events(); got != 1 {
		t.Errorf("events = %d, want 1", got)
	}
	plan := one[string](d, "explain delete from baton.outbox where id = '"+id+"'")
	if strings.Contains(plan, "event") {
		t.Errorf("plan of a DELETE = %q, want one that reads nothing", plan)
	}
}
