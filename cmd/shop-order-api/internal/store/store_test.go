package store_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/shoptest"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/store"
	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

func newStore(t *testing.T) (*store.Store, *pgxpool.Pool) {
	t.Helper()
	pool := shoptest.Pool(t, shoptest.Database(t))
	return store.New(pool), pool
}

func create(t *testing.T, s *store.Store) model.Order {
	t.Helper()
	o, err := s.Create(t.Context(), shoptest.Draft())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestEveryWriteLeavesItsEvent(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	created := create(t, s)
	draft := shoptest.Draft()
	draft.Customer = "Charles Babbage"
	updated, err := s.Update(t.Context(), created.ID, created.Version, draft)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), created.ID, updated.Version); err != nil {
		t.Fatal(err)
	}

	got := shoptest.Events(t, pool, created.Key())
	if len(got) != 3 {
		t.Fatalf("events = %d, want 3", len(got))
	}
	final := updated.Event()
	final.Version, final.At = 3, got[2].Event.At // the moment of the removal is the database's
	want := []shoptest.Written{
		written(got[0].Position, "Created", created.Event()),
		written(got[1].Position, "Updated", updated.Event()),
		written(got[2].Position, "Removed", final),
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
	if !final.At.After(updated.UpdatedAt) {
		t.Errorf("removed at %v, want after the update at %v", final.At, updated.UpdatedAt)
	}
	if _, err := s.Order(t.Context(), created.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Order after Remove: error = %v, want %v", err, store.ErrNotFound)
	}
}

func written(position int64, eventType string, e model.OrderEvent) shoptest.Written {
	return shoptest.Written{Position: position, Type: eventType, ContentType: "application/json", Event: e}
}

func TestConflictLeavesNeitherChangeNorEvent(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	o := create(t, s)
	want := store.ConflictError{ID: o.ID, Have: 1, Want: 7}
	draft := shoptest.Draft()
	draft.Currency = "USD"
	_, updateErr := s.Update(t.Context(), o.ID, 7, draft)
	for verb, err := range map[string]error{"Update": updateErr, "Remove": s.Remove(t.Context(), o.ID, 7)} {
		conflict, ok := errors.AsType[*store.ConflictError](err)
		if !ok || *conflict != want {
			t.Errorf("%s error = %v, want %v", verb, err, &want)
		}
	}
	checkUnchanged(t, s, pool, o)
}

func TestMissingOrderIsNotFoundAndLeavesNoEvent(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	_, updateErr := s.Update(t.Context(), 99, 1, shoptest.Draft())
	for verb, err := range map[string]error{"Update": updateErr, "Remove": s.Remove(t.Context(), 99, 0)} {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s error = %v, want %v", verb, err, store.ErrNotFound)
		}
	}
	if got := len(shoptest.Events(t, pool, "99")); got != 0 {
		t.Errorf("events = %d, want 0", got)
	}
}

// TestRefusedEventTakesTheOrderWithIt makes the outbox refuse what the order was already written beside.
func TestRefusedEventTakesTheOrderWithIt(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	o := create(t, s)
	shoptest.Exec(t, pool, `ALTER FUNCTION baton.add(text[], text[], text[], bytea[], jsonb[], uuid[]) RENAME TO gone`)
	_, createErr := s.Create(t.Context(), shoptest.Draft())
	_, updateErr := s.Update(t.Context(), o.ID, o.Version, shoptest.Draft())
	errs := map[string]error{"Create": createErr, "Update": updateErr, "Remove": s.Remove(t.Context(), o.ID, 0)}
	for verb, err := range errs {
		if !store.Unavailable(err) {
			t.Errorf("%s error = %v, want one that is Unavailable", verb, err)
		}
	}
	checkUnchanged(t, s, pool, o)
}

// checkUnchanged wants o to be the only order, as it was created, with its one event.
func checkUnchanged(t *testing.T, s *store.Store, pool *pgxpool.Pool, o model.Order) {
	t.Helper()
	got, err := s.List(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, []model.Order{o}); diff != "" {
		t.Errorf("orders (-got +want):\n%s", diff)
	}
	if got := shoptest.Int(t, pool, `SELECT count(*) FROM baton.event`); got != 1 {
		t.Errorf("events = %d, want 1", got)
	}
}

func TestConcurrentUpdatesOfOneOrderTakeTurns(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	o := create(t, s)
	const writers, each = 8, 10
	var g errgroup.Group
	for range writers {
		g.Go(func() error { return updateTimes(t, s, o.ID, each) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	events := shoptest.Events(t, pool, o.Key())
	if got, want := len(events), 1+writers*each; got != want {
		t.Fatalf("events = %d, want %d", got, want)
	}
	for i, e := range events { // Events sorts by position: so must the versions be, with none left out or doubled
		if got, want := e.Event.Version, int64(i+1); got != want {
			t.Errorf("version at position %d = %d, want %d", e.Position, got, want)
		}
	}
}

// updateTimes changes the order n times, reading it again after each conflict.
func updateTimes(t *testing.T, s *store.Store, id int64, n int) error {
	for n > 0 {
		o, err := s.Order(t.Context(), id)
		if err != nil {
			return err
		}
		_, err = s.Update(t.Context(), id, o.Version, shoptest.Draft())
		if _, ok := errors.AsType[*store.ConflictError](err); ok {
			continue
		}
		if err != nil {
			return err
		}
		n--
	}
	return nil
}

func TestOfTwoUpdatesOfOneVersionOneWins(t *testing.T) {
	t.Parallel()
	s, pool := newStore(t)
	o := create(t, s)
	letGo := shoptest.HoldRow(t, pool, o.ID) // both must have seen the same version before either writes
	results := make(chan error, 2)
	for range cap(results) {
		go func() {
			_, err := s.Update(t.Context(), o.ID, o.Version, shoptest.Draft())
			results <- err
		}()
	}
	shoptest.WaitForWaiters(t, pool, cap(results))
	letGo()
	var won, conflicts int
	for range cap(results) {
		err := <-results
		if _, ok := errors.AsType[*store.ConflictError](err); ok {
			conflicts++
		} else if err == nil {
			won++
		} else {
			t.Error(err)
		}
	}
	if won != 1 || conflicts != 1 {
		t.Errorf("won = %d, conflicts = %d, want 1 and 1", won, conflicts)
	}
}

func TestListWalksAllOrdersByID(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	var want []int64
	for range 7 {
		want = append(want, create(t, s).ID)
	}
	var got []int64
	for after := int64(0); ; after = got[len(got)-1] {
		orders, err := s.List(t.Context(), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(orders) == 0 {
			break
		}
		for _, o := range orders {
			got = append(got, o.ID)
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("ids (-got +want):\n%s", diff)
	}
}

func TestInstancesThatStartTogetherMigrateOnce(t *testing.T) {
	t.Parallel()
	pool := shoptest.Pool(t, clustertest.Database(t))
	var g errgroup.Group
	for range 8 {
		g.Go(func() error { return store.New(pool).Migrate(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if err := store.New(pool).Ready(t.Context()); !errors.Is(err, store.ErrNoOutbox) {
		t.Errorf("Ready without an outbox: error = %v, want %v", err, store.ErrNoOutbox)
	}
}

// TestEveryWayOfExecutingWorks: behind a pooler in transaction mode the driver may not prepare statements, and
// the URL says so.
func TestEveryWayOfExecutingWorks(t *testing.T) {
	t.Parallel()
	database := shoptest.Database(t)
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := store.New(shoptest.Pool(t, withQuery(t, database, "default_query_exec_mode", mode)))
			if err := errors.Join(s.Migrate(t.Context()), s.Ready(t.Context())); err != nil {
				t.Fatal(err)
			}
			o := create(t, s)
			read, err := s.Order(t.Context(), o.ID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(read, o); diff != "" {
				t.Errorf("order read (-got +want):\n%s", diff)
			}
			if _, err := s.Update(t.Context(), o.ID, 1, shoptest.Draft()); err != nil {
				t.Error(err)
			}
			if err := s.Remove(t.Context(), o.ID, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPoolerInTransactionModeServes runs through a real PgBouncer, more writers than it has server connections.
func TestPoolerInTransactionModeServes(t *testing.T) {
	t.Parallel()
	database := shoptest.Database(t)
	pooler, err := cluster.StartPgBouncer(t.Context(), database, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pooler.Stop)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	through := withQuery(t, pooler.URL(strings.TrimPrefix(u.Path, "/")), "default_query_exec_mode", "exec")
	s := store.New(shoptest.Pool(t, through+"&pool_max_conns=8"))
	if err := errors.Join(s.Migrate(t.Context()), s.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	for range 8 {
		o := create(t, s)
		g.Go(func() error { return updateTimes(t, s, o.ID, 10) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestLeastRoleServes runs as a role that owns nothing, may create nothing, and whose transactions are
// SERIALIZABLE unless asked otherwise.
func TestLeastRoleServes(t *testing.T) {
	t.Parallel()
	database := shoptest.Database(t)
	owner := shoptest.Pool(t, database)
	role := shoptest.Role(t, owner)
	shoptest.Exec(t, owner, `GRANT USAGE ON SCHEMA shop TO `+role)
	shoptest.Exec(t, owner, `GRANT SELECT, INSERT, UPDATE, DELETE ON shop.orders TO `+role)
	if err := migrations.Grant(t.Context(), database, "", role, ""); err != nil {
		t.Fatal(err)
	}
	as := withQuery(t, database, "role", role)
	s := store.New(shoptest.Pool(t, withQuery(t, as, "default_transaction_isolation", "serializable")))
	if err := errors.Join(s.Migrate(t.Context()), s.Ready(t.Context())); err != nil {
		t.Fatal(err)
	}
	o := create(t, s)
	var g errgroup.Group
	for range 4 { // under SERIALIZABLE these would end with 40001
		g.Go(func() error { return updateTimes(t, s, o.ID, 5) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func withQuery(t *testing.T, database, name, value string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(name, value)
	u.RawQuery = q.Encode()
	return u.String()
}
