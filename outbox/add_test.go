package outbox_test

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"go.opentelemetry.io/otel/trace"

	"github.com/batonrelay/baton/outbox"
)

var isolationLevels = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

func addTx(t *testing.T, tx pgx.Tx, keys ...string) []int64 {
	t.Helper()
	positions, err := outbox.Add(t.Context(), tx, events(keys...)...)
	if err != nil {
		t.Fatal(err)
	}
	return positions
}

func TestAddWritesUnderEveryIsolationLevel(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range isolationLevels {
		t.Run(string(level), func(t *testing.T) {
			d.clear()
			conn := connect(t, d.url)

			gone := begin(t, conn, level)
			addTx(t, gone, "a", "b")
			rollback(t, gone)
			if got := d.events() + one[int](d, "select count(*) from baton.record"); got != 0 {
				t.Errorf("rows after a rollback = %d, want 0", got)
			}

			tx := begin(t, conn, level)
			positions := append(addTx(t, tx, "b", "a", "b"), addTx(t, tx, "c", "a")...)
			if got := d.events(); got != 0 {
				t.Errorf("events seen before the commit = %d, want 0", got)
			}
			commit(t, tx)
			for i := 1; i < len(positions); i++ {
				if positions[i] <= positions[i-1] {
					t.Errorf("positions = %v, want them to grow", positions)
				}
			}
			if diff := cmp.Diff(d.keys(), []string{"b", "a", "b", "c", "a"}); diff != "" {
				t.Errorf("keys by position (-got +want):\n%s", diff)
			}
			got := one[[]int64](d, "select array_agg(position order by position) from baton.event")
			if diff := cmp.Diff(got, positions); diff != "" {
				t.Errorf("positions written (-got +want returned):\n%s", diff)
			}
			heads := one[[]int64](d, "select array_agg(next_position order by next_position) from baton.record")
			if diff := cmp.Diff(heads, []int64{positions[0], positions[1], positions[3]}); diff != "" {
				t.Errorf("next positions of the records (-got +want):\n%s", diff)
			}
		})
	}
}

func TestAddWithSavepointsKeepsWhatWasReleased(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range isolationLevels {
		t.Run(string(level), func(t *testing.T) {
			d.clear()
			tx := begin(t, connect(t, d.url), level)
			addTx(t, tx, "a")
			gone := savepoint(t, tx)
			addTx(t, gone, "a", "gone")
			rollback(t, gone)
			kept := savepoint(t, tx)
			addTx(t, kept, "a", "kept")
			commit(t, kept)
			addTx(t, tx, "a")
			commit(t, tx)
			if diff := cmp.Diff(d.keys(), []string{"a", "a", "kept", "a"}); diff != "" {
				t.Errorf("keys by position (-got +want):\n%s", diff)
			}
			if got := one[int](d, "select count(*) from baton.record"); got != 2 {
				t.Errorf("records with work = %d, want 2", got)
			}
		})
	}
}

// TestWritersOfOneRecordCommitInPositionOrder has no lock but the gate: the second writer waits for the first.
func TestWritersOfOneRecordCommitInPositionOrder(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for _, level := range isolationLevels {
		for _, ends := range []string{"commits", "rolls back"} {
			t.Run(string(level)+", the first "+ends, func(t *testing.T) {
				d.clear()
				first, second := connect(t, d.url), connect(t, d.url)
				tx1, tx2 := begin(t, first, level), begin(t, second, level)
				execTx(t, tx2, "select 1") // its snapshot is from before
				p1 := addTx(t, tx1, "a")
				p2 := make(chan []int64, 1)
				go func() {
					positions, err := outbox.Add(t.Context(), tx2, event("a"))
					if err != nil {
						t.Errorf("second writer: %v", err)
					}
					p2 <- positions
				}()
				d.waiting(second, "advisory")
				if ends == "commits" {
					commit(t, tx1)
				} else {
					rollback(t, tx1)
				}
				got := <-p2
				if t.Failed() {
					return
				}
				commit(t, tx2)
				if got[0] <= p1[0] {
					t.Errorf("positions = %d, then %d, want them in the order of the commits", p1[0], got[0])
				}
				if got, want := one[int](d, "select count(*) from baton.record"), 1; got != want {
					t.Errorf("records with work = %d, want %d", got, want)
				}
			})
		}
	}
}

// TestAddRaisesNoSerializationFailure: the record's row is there, and somebody touched it since the
// writer's snapshot. ON CONFLICT would answer 40001.
func TestAddRaisesNoSerializationFailure(t *testing.T) {
	t.Parallel()
	touches := map[string]string{
		"written": "select baton.add('shop.order', 'a', 'Updated', 'x')",
		"leased":  "update baton.record set locked_until = clock_timestamp() + interval '1 minute', token = 7",
		"removed": "delete from baton.record",
	}
	d := newDatabase(t)
	for _, level := range isolationLevels[1:] {
		for name, touch := range touches {
			t.Run(string(level)+", "+name, func(t *testing.T) {
				d.clear()
				if name != "written" {
					d.exec(touches["written"])
				}
				tx := begin(t, connect(t, d.url), level)
				execTx(t, tx, "select count(*) from pg_class")
				d.exec(touch)
				addTx(t, tx, "a")
				commit(t, tx)
				if got := one[int](d, "select count(*) from baton.record"); got != 1 {
					t.Errorf("records with work = %d, want 1", got)
				}
			})
		}
	}
}

func TestAddWorksInEveryExecMode(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conn := connect(t, d.url)
	want := outbox.Event{
		Record: outbox.Record{Type: "shop.order", Key: `{"quoted", \ 'ü'}`}, Type: outbox.Created,
		Payload: []byte{0, 0xff, '\\', '"'}, Headers: map[string]string{"a": `"b'`},
	}
	tombstone := want
	tombstone.Payload, tombstone.Headers = nil, nil
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			d.clear()
			config := conn.Config()
			config.DefaultQueryExecMode = mode
			c, err := pgx.ConnectConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			for range 2 { // the second time a statement may be cached
				tx := begin(t, c, pgx.ReadCommitted)
				if _, err := outbox.Add(t.Context(), tx, want, tombstone); err != nil {
					t.Fatal(err)
				}
				commit(t, tx)
			}
			const sql = `select count(*) from baton.event where record_key = $1 and bytes = coalesce(octet_length(payload), 0)
				and (payload = $2 and headers = '{"a": "\"b''"}' or payload is null and headers is null)`
			if got := one[int](d, sql, want.Record.Key, want.Payload); got != 4 {
				t.Errorf("events as written = %d, want 4", got)
			}
		})
	}
}

func TestAddSQLWritesInTransactionsOfDatabaseSQL(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	db, err := sql.Open("pgx", d.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
		if err != nil {
			t.Fatal(err)
		}
		positions, err := outbox.AddSQL(t.Context(), tx, events("a", "b", "a")...)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		const sql = "select array_agg(position order by position) from baton.event where position >= $1"
		last := one[[]int64](d, sql, positions[0])
		if diff := cmp.Diff(last, positions); diff != "" {
			t.Errorf("%v: positions written (-got +want returned):\n%s", level, diff)
		}
	}
}

func TestAddPassesTheTraceContextOn(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	}))
	own := event("own")
	own.Headers = map[string]string{"traceparent": "mine"}
	if _, err := d.repo(outbox.PostgresConfig{}).Add(ctx, event("given"), own); err != nil {
		t.Fatal(err)
	}
	got := one[[]string](d, "select array_agg(headers ->> 'traceparent' order by position) from baton.event")
	if diff := cmp.Diff(got, []string{"00-01000000000000000000000000000000-0200000000000000-01", "mine"}); diff != "" {
		t.Errorf("traceparent headers (-got +want):\n%s", diff)
	}
	if own.Headers["traceparent"] != "mine" || len(own.Headers) != 1 {
		t.Errorf("the caller's headers = %v, want them untouched", own.Headers)
	}
}

// TestHeadersThatTheTraceContextMakesTooManyAreRefusedUnsent: the transaction goes on.
func TestHeadersThatTheTraceContextMakesTooManyAreRefusedUnsent(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
	}))
	tx := begin(t, connect(t, d.url), pgx.ReadCommitted)
	_, err := outbox.Add(ctx, tx, event("fine"), headers(headersOf(outbox.HeadersMax, "x")))
	if got := fieldOf(t, err); got != "headers" {
		t.Errorf("Add refused %q (%v), want headers", got, err)
	}
	addTx(t, tx, "after")
	commit(t, tx)
}

func TestAddWhereNothingIsMigratedSaysSo(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	writer, err := outbox.NewWriter("elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	tx := begin(t, connect(t, d.url), pgx.ReadCommitted)
	if _, err := writer.Add(t.Context(), tx, event("a")); !errors.Is(err, outbox.ErrNotMigrated) {
		t.Errorf("Add error = %v, want %v", err, outbox.ErrNotMigrated)
	}
	if _, err := outbox.NewWriter("Drop; --"); err == nil {
		t.Error("NewWriter took a name that needs quoting")
	}
}
