package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/batonrelay/baton/internal/checker"
	"github.com/batonrelay/baton/lease"
)

// stage is one outbox, one log, and the relays of a test between them.
type stage struct {
	t    *testing.T
	repo *Memory
	log  *memoryLog

	mu        sync.Mutex
	committed []Event
}

func newStage(t *testing.T, lease time.Duration, fault func(e Event, try int) fault) *stage {
	return &stage{t: t, repo: NewMemory(lease), log: newMemoryLog(t, fault)}
}

// add writes events and returns them as they stand in the outbox.
func (s *stage) add(events ...Event) []Event {
	s.t.Helper()
	for i := range events {
		events[i].ID = uuid.New()
		events[i].Type = Updated
	}
	positions, err := s.repo.Add(s.t.Context(), events...)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range events {
		events[i].Position = positions[i]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committed = append(s.committed, events...)
	return events
}

func (s *stage) committedEvents() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.committed...)
}

func (s *stage) judge() checker.Report { return s.log.judge(s.committedEvents()) }

// delivered waits until every event has a copy in the log, for at most max.
func (s *stage) delivered(max time.Duration) error {
	want := len(s.committedEvents())
	for end := time.Now().Add(max); s.log.distinct() < want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d events are in the log after %v", s.log.distinct(), want, max)
		}
	}
	return nil
}

// parked returns the ids of parked records.
func (s *stage) parked() []int64 {
	s.repo.mu.Lock()
	defer s.repo.mu.Unlock()
	var ids []int64
	for id, r := range s.repo.records {
		if r.parked {
			ids = append(ids, id)
		}
	}
	return ids
}

// attempts of a record that has work.
func (s *stage) attempts(r Record) int {
	s.repo.mu.Lock()
	defer s.repo.mu.Unlock()
	if work := s.repo.records[s.repo.ids[r]]; work != nil {
		return work.attempts
	}
	return 0
}

// running is one relay of a stage.
type running struct {
	*Relay
	client *client
	repo   *faultyRepo
	cancel context.CancelFunc
	ended  chan error
}

// start runs a relay; prepare, if not nil, sets what goes wrong in it.
func (s *stage) start(cfg RelayConfig, prepare func(*running)) *running {
	s.t.Helper()
	cfg.Lease = s.repo.lease
	c := s.log.connect()
	r := &running{client: c, repo: &faultyRepo{EventRepo: s.repo, life: c.life}, ended: make(chan error, 1)}
	r.Relay = testRelay(s.t, cfg, r.repo, c)
	if prepare != nil {
		prepare(r)
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	r.cancel = cancel
	go func() { r.ended <- r.Run(ctx) }()
	return r
}

// stop ends a relay as SIGTERM does.
func (r *running) stop() error {
	r.cancel()
	return <-r.ended
}

// stopWell is stop for a relay that has nothing to complain of.
func (r *running) stopWell(t *testing.T) {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Errorf("Run error = %v, want none", err)
	}
	if err := r.budget.allFree(); err != nil {
		t.Errorf("after Run: %v", err)
	}
	if s := r.Stats(); s.EventsInFlight != 0 || s.BytesInFlight != 0 {
		t.Errorf("in flight after Run: %d events, %d bytes, want none", s.EventsInFlight, s.BytesInFlight)
	}
}

// bury takes the goroutines of a dead relay away, at the end of a test.
func (r *running) bury(t *testing.T) {
	t.Helper()
	if err := r.stop(); err != nil && !errors.Is(err, ErrDrain) {
		t.Errorf("Run error of a dead relay = %v, want %v", err, ErrDrain)
	}
}

func record(n int) Record { return Record{Type: "test.record", Key: fmt.Sprint(n)} }

// eventsOf makes n events of each record, interleaved.
func eventsOf(n int, records ...Record) []Event {
	var events []Event
	for i := range n {
		for _, r := range records {
			events = append(events, Event{Record: r, Payload: fmt.Appendf(nil, "%s %d", r.Key, i)})
		}
	}
	return events
}

func records(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = record(i)
	}
	return records
}

// life is a relay's. When it ends, the relay's goroutines stand still where they touch the world, as
// those of a killed process do, until the test takes them away.
type life struct {
	over chan struct{}
	once sync.Once
}

func newLife() *life { return &life{over: make(chan struct{})} }

func (l *life) end() { l.once.Do(func() { close(l.over) }) }

func (l *life) ended() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// faultyRepo is an EventRepo in which something goes wrong: before each call its function is asked, if
// there is one, and an error of it is the answer. A relay whose life has ended gets no answer at all.
type faultyRepo struct {
	EventRepo
	life   *life
	lock   func(context.Context, lease.Limits) error
	remove func(context.Context, []lease.Ack) error
	unlock func(context.Context, []lease.Release) error
	extend func(context.Context, []lease.Held) error

	extensions atomic.Int64
}

func (f *faultyRepo) dead(ctx context.Context) error {
	if f.life == nil || !f.life.ended() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *faultyRepo) Lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	if err := f.dead(ctx); err != nil {
		return Claim{}, err
	}
	if f.lock != nil {
		if err := f.lock(ctx, limits); err != nil {
			return Claim{}, err
		}
	}
	return f.EventRepo.Lock(ctx, limits)
}

func (f *faultyRepo) Extend(ctx context.Context, held []lease.Held) (time.Time, error) {
	if err := f.dead(ctx); err != nil {
		return time.Time{}, err
	}
	f.extensions.Add(1)
	if f.extend != nil {
		if err := f.extend(ctx, held); err != nil {
			return time.Time{}, err
		}
	}
	return f.EventRepo.Extend(ctx, held)
}

func (f *faultyRepo) Unlock(ctx context.Context, releases []lease.Release) error {
	if err := f.dead(ctx); err != nil {
		return err
	}
	if f.unlock != nil {
		if err := f.unlock(ctx, releases); err != nil {
			return err
		}
	}
	if f.EventRepo == nil {
		return nil
	}
	return f.EventRepo.Unlock(ctx, releases)
}

func (f *faultyRepo) Remove(ctx context.Context, acks []lease.Ack) error {
	if err := f.dead(ctx); err != nil {
		return err
	}
	if f.remove != nil {
		if err := f.remove(ctx, acks); err != nil {
			return err
		}
	}
	if f.EventRepo == nil {
		return nil
	}
	return f.EventRepo.Remove(ctx, acks)
}

func testConfig() RelayConfig {
	c := DefaultRelayConfig()
	c.Log = slog.New(slog.DiscardHandler)
	return c
}

func testRelay(t *testing.T, cfg RelayConfig, repo EventRepo, sender EventSender) *Relay {
	t.Helper()
	r, err := NewRelay(cfg, repo, sender)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// allFree reports that nothing holds a part of the budget.
func (b *budget) allFree() error {
	if !b.events.TryAcquire(b.eventsMax) {
		return fmt.Errorf("some of %d events are not given back", b.eventsMax)
	}
	defer b.events.Release(b.eventsMax)
	if !b.bytes.TryAcquire(b.bytesMax) {
		return fmt.Errorf("some of %d bytes are not given back", b.bytesMax)
	}
	b.bytes.Release(b.bytesMax)
	return nil
}
