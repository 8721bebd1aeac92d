package database

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

// Nothing is found in a healthy outbox: a scan of the table would read all of it, at every start. With the
// statistics of an empty table the primary key may be read instead, once.
func TestCheckOfTheSequenceReadsAnIndex(t *testing.T) {
	t.Parallel()
	url := clustertest.Database(t)
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, tc := range []struct{ statistics, index string }{
		{"of an empty table", "Bitmap Index Scan on event_"},
		{"of a big one", "Bitmap Index Scan on event_position"},
	} {
		if tc.statistics == "of a big one" {
			fill := `insert into baton.event (record, position, bytes, event_id, record_type, record_key, type, payload)
			         select i, i, 100, gen_random_uuid(), 't', i::text, 'Created', convert_to(repeat('x', 100), 'UTF8')
			           from generate_series(1, 50000) i;
			         select setval('baton.position', 50000);
			         analyze baton.event`
			if _, err := conn.Exec(t.Context(), fill, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Fatal(err)
			}
		}
		var lines []string
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), onlyBRINSQL); err != nil {
				return err
			}
			rows, err := tx.Query(t.Context(), "explain (costs off) "+behindSQL)
			if err != nil {
				return err
			}
			lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if plan := strings.Join(lines, "\n"); !strings.Contains(plan, tc.index) {
			t.Errorf("with statistics %s the plan is:\n%s", tc.statistics, plan)
		}
	}
}
