package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
	"github.com/batonrelay/baton/publisher"
)

// acceptSQL accepts the partition counts of topics that nobody has published to before, and returns the
// accepted count of each. A statement's snapshot does not show what it inserts itself, hence the union.
// $1 names, $2 counts.
const acceptSQL = `
with found as (select * from unnest($1::text[], $2::int[]) f(name, partitions)),
added as (
  insert into baton.topic (name, partitions) select name, partitions from found
  on conflict (name) do nothing
  returning name, partitions)
select name, partitions from added
union all
select t.name, t.partitions from baton.topic t join found on found.name = t.name`

const topicsEvery = 10 * time.Second

// topicBook knows with how many partitions each topic was first published to. The publisher sends nothing to
// a topic that has another count by now: its records would be in two partitions each.
type topicBook struct {
	pool      *pgxpool.Pool
	sql       string
	publisher publisher.Config
	log       *slog.Logger

	accepted atomic.Pointer[map[string]int32]
	mu       sync.Mutex
	unseen   map[string]bool // asked for, and not looked at yet
}

func newTopicBook(r *relay) *topicBook {
	t := &topicBook{
		pool: r.pool, sql: schema.In(acceptSQL, r.config.Schema), publisher: r.config.Publisher(), log: r.log,
		unseen: map[string]bool{},
	}
	t.accepted.Store(&map[string]int32{})
	return t
}

// partitions is asked for every message: 0, any count, until the topic has been looked at.
func (t *topicBook) partitions(topic string) int32 {
	if n, seen := (*t.accepted.Load())[topic]; seen {
		return n
	}
	t.mu.Lock()
	t.unseen[topic] = true
	t.mu.Unlock()
	return 0
}

// lookAtStart says what would otherwise show with the first event.
func (t *topicBook) lookAtStart(ctx context.Context) {
	for _, topic := range t.publisher.Routes.Topics() {
		t.unseen[topic] = true
	}
	reports, err := t.look(ctx)
	for _, r := range reports {
		for _, w := range r.Warnings {
			t.log.Warn("topic is at risk", "topic", r.Name, "warning", w)
		}
		if accepted := t.partitions(r.Name); accepted != 0 && accepted != r.Partitions {
			t.log.Error("topic is stopped: its partition count changed, and records would be in two partitions each",
				"topic", r.Name, "partitions", r.Partitions, "accepted", accepted)
		}
	}
	var missing *publisher.MissingError
	switch {
	case errors.As(err, &missing):
		for _, topic := range missing.Topics {
			t.log.Error("topic does not exist: its events wait", "topic", topic, "hint", "baton topics ensure "+topic)
		}
	case err != nil:
		t.log.Warn("topics could not be looked at", "err", err)
	}
}

// run looks at topics that came up since, and at what operators have accepted, until ctx ends.
func (t *topicBook) run(ctx context.Context) {
	tick := time.NewTicker(topicsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := t.look(ctx); err != nil {
				t.log.Debug("topics could not be looked at", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// look learns the accepted partition counts of all topics that were asked for. A missing one stays unseen.
func (t *topicBook) look(ctx context.Context) ([]publisher.TopicReport, error) {
	t.mu.Lock()
	names := slices.AppendSeq(slices.Collect(maps.Keys(t.unseen)), maps.Keys(*t.accepted.Load()))
	t.mu.Unlock()
	if len(names) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	reports, err := publisher.Check(ctx, t.publisher, names)
	return reports, errors.Join(err, t.accept(ctx, reports))
}

func (t *topicBook) accept(ctx context.Context, reports []publisher.TopicReport) error {
	if len(reports) == 0 {
		return nil
	}
	names, counts := make([]string, len(reports)), make([]int32, len(reports))
	for i, r := range reports {
		names[i], counts[i] = r.Name, r.Partitions
	}
	rows, err := t.pool.Query(ctx, t.sql, names, counts)
	if err != nil {
		return fmt.Errorf("store partition counts: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	accepted := maps.Clone(*t.accepted.Load())
	var (
		name  string
		count int32
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &count}, func() error {
		accepted[name] = count
		delete(t.unseen, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store partition counts: %w", err)
	}
	t.accepted.Store(&accepted)
	return nil
}
