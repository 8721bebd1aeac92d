package trial_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/checker"
	"github.com/batonrelay/baton/internal/trial"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

const badAttempts = 3

// small is a topic that takes no large message, and the outbox before it.
type small struct {
	t     *testing.T
	ctx   context.Context
	pool  *pgxpool.Pool
	url   string
	kafka trial.Kafka
}

func newSmall(t *testing.T) *small {
	t.Helper()
	s := &small{t: t}
	s.pool, s.kafka, s.url = newOutbox(t)
	s.kafka.Topics = []string{"small." + s.kafka.Topics[0]}
	if err := s.kafka.CreateTopics(t.Context(), 4, 1, map[string]string{"max.message.bytes": "10000"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	s.ctx = ctx
	return s
}

func (s *small) record(key string) outbox.Record {
	return outbox.Record{Type: recordType(s.kafka.Topics[0]), Key: key}
}

// add writes events of these payload sizes about one record, and returns their positions.
func (s *small) add(r outbox.Record, sizes ...int) (positions []int64) {
	s.t.Helper()
	events := make([]outbox.Event, len(sizes))
	for i, n := range sizes {
		events[i] = outbox.Event{Record: r, Type: outbox.Updated, Payload: []byte(strings.Repeat("x", n))}
	}
	err := pgx.BeginFunc(s.ctx, s.pool, func(tx pgx.Tx) (err error) {
		positions, err = outbox.Add(s.ctx, tx, events...)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return positions
}

// healthy writes 100 events about 20 records.
func (s *small) healthy() {
	s.t.Helper()
	for k := range 20 {
		s.add(s.record(fmt.Sprint("healthy-", k)), 10, 20, 30, 40, 50)
	}
}

// start starts a relay that gives up soon.
func (s *small) start(change func(*outbox.RelayConfig)) *inProcess {
	s.t.Helper()
	relay, repo := relayIn(s.t, s.pool, s.kafka, "small", func(c *outbox.RelayConfig) {
		c.AttemptsMax, c.BackoffMin, c.BackoffMax = badAttempts, 10*time.Millisecond, 50*time.Millisecond
		c.Log = slog.New(slog.DiscardHandler)
		if change != nil {
			change(c)
		}
	})
	return run(s.ctx, relay, repo)
}

func (s *small) end(r *inProcess) {
	s.t.Helper()
	if err := r.end(); err != nil {
		s.t.Errorf("relay ended: %v", err)
	}
}

// until waits until ok says so about a record, and returns where it stands then.
func (s *small) until(r outbox.Record, ok func(stand) bool) stand {
	s.t.Helper()
	for {
		got := standing(s.t, s.pool, r)
		if ok(got) {
			return got
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.ctx.Done():
			s.t.Fatalf("record %v stays at %+v", r, got)
		}
	}
}

func (s *small) drained() {
	s.t.Helper()
	if err := trial.Drained(s.ctx, s.pool); err != nil {
		s.t.Fatal(err)
	}
}

// raise lets the topic take large messages.
func (s *small) raise() {
	s.t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.V3_6_0_0
	admin, err := sarama.NewClusterAdmin(s.kafka.Brokers, cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	defer admin.Close()
	limit := "1000000"
	change := map[string]sarama.IncrementalAlterConfigsEntry{
		"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &limit},
	}
	if err := admin.IncrementalAlterConfig(sarama.TopicResource, s.kafka.Topics[0], change, false); err != nil {
		s.t.Fatal(err)
	}
}

// operator does a verb, as baton park, unpark and skip do.
func (s *small) operator(verb string, r outbox.Record) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.ctx, fmt.Sprintf(`select baton.%s($1, $2, 'test')`, verb), r.Type, r.Key); err != nil {
		s.t.Fatal(err)
	}
}

// verdict judges; what was skipped need not be there. gaps are by the position of the event that told.
func (s *small) verdict(skipped ...int64) (report checker.Report, gaps map[int64]int64) {
	s.t.Helper()
	committed, err := trial.Committed(s.ctx, s.pool)
	if err != nil {
		s.t.Fatal(err)
	}
	c := checker.New()
	for _, e := range committed {
		e.Skipped = slices.Contains(skipped, e.Position)
		c.Commit(e)
	}
	gaps = map[int64]int64{}
	err = s.kafka.Read(s.ctx, func(m publisher.Message) {
		c.Deliver(trial.Delivered(m))
		if m.Gap != 0 {
			gaps[m.Event.Position] = m.Gap
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	report = c.Judge()
	if !report.OK() || report.Duplicates > 0 {
		s.t.Errorf("verdict: %v", report)
	}
	return report, gaps
}

// stand is where a record stands.
type stand struct {
	idle, parked bool
	next         int64
	waiting      int // events from next on
	attempts     int
	lastError    string
}

// standSQL reads it. $1 type, $2 key.
const standSQL = `
select r.ready_at = 'infinity', r.next_position, r.attempts, coalesce(r.last_error, ''),
       (select count(*) from baton.event e where e.record = r.id and e.position >= r.next_position)
  from baton.record r where r.id = baton.record_id($1, $2)`

func standing(t *testing.T, pool *pgxpool.Pool, r outbox.Record) (s stand) {
	t.Helper()
	err := pool.QueryRow(t.Context(), standSQL, r.Type, r.Key).
		Scan(&s.parked, &s.next, &s.attempts, &s.lastError, &s.waiting)
	if err == pgx.ErrNoRows {
		return stand{idle: true}
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func isParked(s stand) bool { return s.parked }

// Feared: the events behind an oversize one overtake it, its record's neighbours wait with it, or a skip
// is not told.
func TestAnOversizeEventParksItsRecordAndASkipIsTold(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	big := s.record("big")
	positions := s.add(big, 10, 20, 30, 50_000, 40, 50)
	s.healthy()
	r := s.start(nil)
	got := s.until(big, isParked)
	if got.next != positions[3] || got.attempts != badAttempts || !strings.Contains(got.lastError, "max.message.bytes") {
		t.Errorf("parked at %+v, want next = %d, attempts = %d and an error that names max.message.bytes",
			got, positions[3], badAttempts)
	}
	s.drained()
	if n, err := s.kafka.Messages(); err != nil || n != 103 {
		t.Errorf("messages before the skip: %d (%v), want 103", n, err)
	}
	s.operator("skip", big)
	s.drained()
	s.end(r)
	report, gaps := s.verdict(positions[3])
	if report.Skipped != 1 || len(gaps) != 1 || gaps[positions[4]] != positions[3] {
		t.Errorf("skipped = %d, gaps told = %v; want 1, and %d told by %d alone",
			report.Skipped, gaps, positions[3], positions[4])
	}
	if got := r.relay.Stats().Parked; got != 1 {
		t.Errorf("parked = %d, want 1", got)
	}
}

func TestAParkedOversizeEventIsDeliveredOnceItsTopicTakesIt(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	big := s.record("big")
	s.add(big, 10, 50_000, 20)
	s.healthy()
	r := s.start(nil)
	s.until(big, isParked)
	s.raise()
	s.operator("unpark", big)
	s.until(big, func(s stand) bool { return s.idle })
	s.drained()
	s.end(r)
	if report, gaps := s.verdict(); report.Delivered != 103 || len(gaps) > 0 {
		t.Errorf("delivered %d, gaps %v; want 103, and none", report.Delivered, gaps)
	}
}

// Feared: an event that must not be given up is, or it keeps others back.
func TestABlockedEventIsTriedForEverAndKeepsBackNoOther(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	big := s.record("big")
	positions := s.add(big, 10, 50_000, 20)
	s.healthy()
	r := s.start(func(c *outbox.RelayConfig) { c.PolicyOf = func(string) outbox.Policy { return outbox.Block } })
	got := s.until(big, func(s stand) bool { return s.attempts > 3*badAttempts })
	if got.parked || got.next != positions[1] {
		t.Errorf("a blocked record stands at %+v, want it not parked, at %d", got, positions[1])
	}
	for k := range 20 {
		s.until(s.record(fmt.Sprint("healthy-", k)), func(s stand) bool { return s.idle })
	}
	s.raise()
	s.drained()
	s.end(r)
	if got := r.relay.Stats().Parked; got != 0 {
		t.Errorf("parked = %d, want 0", got)
	}
	s.verdict()
}

// Feared: a topic that is missing stops the others, or its events are lost.
func TestEventsOfAMissingTopicWaitForIt(t *testing.T) {
	t.Parallel()
	s := newSmall(t)
	missing := outbox.Record{Type: "missing." + s.record("").Type, Key: "r"}
	positions := s.add(missing, 10, 20)
	s.healthy()
	r := s.start(func(c *outbox.RelayConfig) { c.BackoffMin, c.BackoffMax = 100*time.Millisecond, time.Second })
	got := s.until(missing, func(s stand) bool { return s.attempts > badAttempts })
	if got.parked || got.next != positions[0] || !strings.Contains(got.lastError, "baton topics ensure") {
		t.Errorf("stands at %+v, want it not parked, at %d, with an error that names the cure", got, positions[0])
	}
	for k := range 20 {
		s.until(s.record(fmt.Sprint("healthy-", k)), func(s stand) bool { return s.idle })
	}
	s.kafka.Topics = append(s.kafka.Topics, missing.Type+".events")
	late := trial.Kafka{Brokers: s.kafka.Brokers, Topics: s.kafka.Topics[1:]}
	if err := late.CreateTopics(s.ctx, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	s.until(missing, func(s stand) bool { return s.idle })
	s.drained()
	s.end(r)
	if s := r.relay.Stats(); s.FailedTopic < badAttempts || s.FailedEvent > 0 {
		t.Errorf("failures by class: %+v", s)
	}
	s.verdict()
}
