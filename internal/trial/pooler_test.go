package trial_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/migrations"
	"github.com/batonrelay/baton/outbox"
)

// pooled is an outbox behind PgBouncer in transaction mode, and two roles that have the least rights.
type pooled struct {
	admin         *pgxpool.Pool // straight to the server
	kafka         trial.Kafka
	pooler        string // URL, as the superuser
	writer, relay string // roles
}

func newPooled(t *testing.T) pooled {
	t.Helper()
	suffix := time.Now().UnixNano()
	p := pooled{writer: fmt.Sprintf("writer_%d", suffix), relay: fmt.Sprintf("relay_%d", suffix)}
	server, err := pgx.Connect(t.Context(), clustertest.Postgres(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the last of all: the roles own nothing once the database is dropped
		defer server.Close(context.Background())
		if _, err := server.Exec(context.Background(), "drop role "+p.writer+", "+p.relay); err != nil {
			t.Errorf("drop the test's roles: %v", err)
		}
	})
	for _, role := range []string{p.writer, p.relay} {
		if _, err := server.Exec(t.Context(), "create role "+role+" login"); err != nil {
			t.Fatal(err)
		}
	}
	var direct string
	p.admin, p.kafka, direct = newOutbox(t)
	if err := migrations.Grant(t.Context(), direct, "", p.writer, p.relay); err != nil {
		t.Fatal(err)
	}
	bouncer, err := cluster.StartPgBouncer(t.Context(), clustertest.Postgres(t).URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bouncer.Stop)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	p.pooler = bouncer.URL(strings.TrimPrefix(u.Path, "/"))
	return p
}

// open makes a pool through the pooler, as a role.
func (p pooled) open(t *testing.T, role, application string, mode pgx.QueryExecMode) *pgxpool.Pool {
	t.Helper()
	pool, err := open(t.Context(), p.pooler, application, 10, func(c *pgx.ConnConfig) {
		c.User, c.DefaultQueryExecMode = role, mode
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Feared: something of a session (a prepared statement, a setting, a lock) is on another connection than
// the statement that needs it, and a role without a superuser's rights lacks one.
func TestTheWholeWayWorksThroughATransactionPooler(t *testing.T) {
	t.Parallel()
	modes := map[string]pgx.QueryExecMode{"exec": pgx.QueryExecModeExec, "cache_describe": pgx.QueryExecModeCacheDescribe}
	for name, mode := range modes {
		t.Run("writers="+name, func(t *testing.T) {
			t.Parallel()
			p := newPooled(t)
			ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			var relays []*inProcess
			for i := range 2 {
				pool := p.open(t, p.relay, lease.ApplicationName+" pooled", pgx.QueryExecModeExec)
				relay, repo := relayIn(t, pool, p.kafka, fmt.Sprint("pooled-", i), nil)
				relays = append(relays, run(ctx, relay, repo))
			}
			journal := trial.NewJournal()
			w := trial.Writers{
				Pool: p.open(t, p.writer, "writers", mode), Journal: journal, Seed: 1,
				Writers: 8, Records: 50, Events: 1500, Payload: 200,
				RecordType: recordType(p.kafka.Topics[0]), InsertType: recordType(p.kafka.Topics[1]),
			}
			if err := w.Run(ctx); err != nil {
				t.Fatal(err)
			}
			p.operate(t)
			if err := trial.Drained(ctx, p.admin); err != nil {
				t.Fatal(err)
			}
			for _, r := range relays {
				if err := r.end(); err != nil {
					t.Errorf("relay ended: %v", err)
				}
				if s := r.relay.Stats(); s.ClaimErrors > 0 || s.JobRetries > 0 || s.Lost > 0 {
					t.Errorf("a relay had trouble: %+v", s)
				}
			}
			verdict, err := trial.Judge(ctx, p.admin, p.kafka, journal)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(verdict.Report)
			if !verdict.OK() || verdict.Duplicates > 0 || verdict.Committed < 1000 {
				t.Errorf("verdict: %+v", verdict)
			}
		})
	}
}

// operate parks a record, sees that it stays, and lets it go on, all as the relay's role through the pooler.
func (p pooled) operate(t *testing.T) {
	t.Helper()
	pool := p.open(t, p.relay, "operator", pgx.QueryExecModeExec)
	record := outbox.Record{Type: recordType(p.kafka.Topics[0]), Key: "operated"}
	operator := func(sql string, want any) {
		t.Helper()
		var got any
		if err := pool.QueryRow(t.Context(), sql, record.Type, record.Key, "test").Scan(&got); err != nil {
			t.Fatal(err)
		}
		if want != nil && got != want {
			t.Errorf("%s = %v, want %v", sql, got, want)
		}
	}
	operator(`select baton.park($1, $2, $3)::text`, nil)
	writer := p.open(t, p.writer, "writers", pgx.QueryExecModeExec)
	err := pgx.BeginFunc(t.Context(), writer, func(tx pgx.Tx) error {
		_, err := outbox.Add(t.Context(), tx, outbox.Event{Record: record, Type: outbox.Created, Payload: []byte("{}")})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := standing(t, p.admin, record); !got.parked || got.waiting != 1 {
		t.Errorf("the record stands at %+v, want it parked with 1 event", got)
	}
	operator(`select baton.unpark($1, $2, $3)`, true)
}

// Feared: the migrations' lock is on one server connection and its unlock on another.
func TestMigrationsThroughATransactionPoolerAreRefusedWithTheCure(t *testing.T) {
	t.Parallel()
	p := newPooled(t)
	err := migrations.Up(t.Context(), p.pooler, migrations.Options{})
	if err == nil || !strings.Contains(err.Error(), "BATON_DATABASE_DIRECT_URL") {
		t.Errorf("migrations.Up through a pooler: %v, want an error that names BATON_DATABASE_DIRECT_URL", err)
	}
}
