package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed: the relay was closed, or has run already.
	ErrClosed = errors.New("outbox: relay is closed")
	// ErrDrain: the relay ended with leases in hand. They end by themselves, and others go on.
	ErrDrain = errors.New("outbox: drain ended with leases in hand")
)

// settleGrace is how long outcomes may still be written after a drain was cut off.
const settleGrace = 2 * time.Second

// Relay carries events from an EventRepo to an EventSender.
type Relay struct {
	cfg    RelayConfig
	repo   EventRepo
	sender EventSender
	log    *slog.Logger

	budget      *budget
	distributor *distributor
	workers     *workerPool
	hand        *hand
	health      *health
	backlog     chan struct{} // holds one: a claim came back full
	stats       counters

	mu      sync.Mutex
	started bool
	closed  bool
	stop    context.CancelFunc // ends claiming
	kill    context.CancelFunc // ends sending
	done    chan struct{}      // Run has returned
	drain   atomic.Bool
}

// NewRelay checks cfg and starts nothing.
func NewRelay(cfg RelayConfig, repo EventRepo, sender EventSender) (*Relay, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Relay{
		cfg: cfg, repo: repo, sender: sender, log: cfg.Log,
		budget:      newBudget(int64(cfg.InFlightEvents), cfg.InFlightBytes),
		distributor: newDistributor(cfg.Producers),
		health:      &health{backoffMin: cfg.BackoffMin, backoffMax: cfg.BackoffMax},
		backlog:     make(chan struct{}, 1),
		done:        make(chan struct{}),
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	r.workers = &workerPool{r: r, wake: make(chan struct{}, 1)}
	r.hand = &hand{r: r, claims: map[*claimInHand]struct{}{}}
	return r, nil
}

// Run carries events until ctx ends or Close is called. Then it claims no more, lets the sends that are
// under way end, acknowledges, and releases what was never sent, for at most the configured drain. It
// returns nil when everything that it claimed is settled, and an error that is ErrDrain when not. It
// runs once, and leaves no goroutine behind. A panic of the sender is not caught: it ends the process, and
// is dealt with as any other death.
func (r *Relay) Run(ctx context.Context) error {
	claiming, sending, ok := r.start(ctx)
	if !ok {
		return ErrClosed
	}
	defer close(r.done)
	defer r.stop()
	defer r.kill()

	settling, endSettling := context.WithCancel(context.WithoutCancel(ctx))
	defer endSettling()
	var consumers, senders, settlers sync.WaitGroup
	for i := range r.cfg.Consumers {
		consumers.Go(func() { (&consumer{r: r, first: i == 0}).run(claiming) })
	}
	senders.Go(func() { r.distributor.run(sending) })
	for _, l := range r.distributor.lanes {
		senders.Go(func() { (&producer{r: r, lane: l, ids: map[int64]struct{}{}}).run(sending) })
	}
	for range r.cfg.Workers {
		settlers.Go(func() { r.workers.run(settling) })
	}
	settlers.Go(func() { r.hand.run(settling) })

	<-claiming.Done()
	draining, endDraining := r.drainFor(ctx, sending)
	defer endDraining()
	consumers.Wait()
	err := r.waitSettled(draining)
	r.kill()
	senders.Wait()
	if err != nil {
		err = r.settleRest(settling)
	}
	endSettling()
	settlers.Wait()
	return err
}

// start makes the contexts of a run: claiming ends with ctx, sending lives on for the drain.
func (r *Relay) start(ctx context.Context) (claiming, sending context.Context, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.closed {
		return nil, nil, false
	}
	r.started = true
	claiming, r.stop = context.WithCancel(ctx)
	sending, r.kill = context.WithCancel(context.WithoutCancel(ctx))
	return claiming, sending, true
}

// drainFor begins the drain: nothing new is sent from now on. If Run's own context has ended, it lasts
// for at most the configured drain, the end of the last claim included; if Close did it, its context is
// the bound.
func (r *Relay) drainFor(ctx, sending context.Context) (context.Context, context.CancelFunc) {
	r.drain.Store(true)
	if ctx.Err() != nil {
		return context.WithTimeout(sending, r.cfg.Drain)
	}
	return context.WithCancel(sending)
}

// waitSettled waits until nothing is in flight.
func (r *Relay) waitSettled(ctx context.Context) error {
	if err := r.budget.acquireAll(ctx); err != nil {
		return err
	}
	r.budget.releaseAll()
	return nil
}

// settleRest gives outcomes of sends that were cut off a last chance to be written.
func (r *Relay) settleRest(ctx context.Context) error {
	(&producer{r: r}).giveBack(r.distributor.takeAll())
	ctx, cancel := context.WithTimeout(ctx, settleGrace)
	defer cancel()
	if err := r.waitSettled(ctx); err != nil {
		return fmt.Errorf("%w: %d events", ErrDrain, r.hand.events.Load())
	}
	return nil
}

// Close stops the relay as the end of Run's context does, and waits for it at most the configured drain.
func (r *Relay) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.Drain) // io.Closer: the caller has no context to give
	defer cancel()
	return r.CloseCtx(ctx)
}

// CloseCtx stops claiming and waits until everything claimed is acknowledged, released, or its lease
// lost. When ctx ends first, sends are cut off, and its error is returned once Run has. It may be called
// more than once, and before Run.
func (r *Relay) CloseCtx(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	started := r.started
	r.mu.Unlock()
	if !started {
		return nil
	}
	r.stop()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		r.drain.Store(true) // a claim may be under way yet: what it brings is not sent
		r.kill()
		<-r.done
		return ctx.Err()
	}
}

func (r *Relay) draining() bool { return r.drain.Load() }

func (r *Relay) policyOf(recordType string) Policy {
	if r.cfg.PolicyOf == nil {
		return Park
	}
	return r.cfg.PolicyOf(recordType)
}

// backoff after so many failures.
func (r *Relay) backoff(failures int) time.Duration {
	return jittered(r.cfg.BackoffMin, r.cfg.BackoffMax, failures)
}
