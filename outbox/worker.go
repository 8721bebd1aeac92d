package outbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"

	"github.com/batonrelay/baton/lease"
)

// jobOutcomes bounds one job: an acknowledgement takes a gate for each record, of the lock table that
// the application uses too.
const jobOutcomes = 125

// outcome is how one work ends.
type outcome struct {
	work    *work
	isAck   bool
	ack     lease.Ack
	release lease.Release
}

// workerPool acknowledges and releases, in jobs of as many outcomes as have gathered. A failing job is
// tried again until it succeeds, its leases are lost, or its deadline ends.
type workerPool struct {
	r    *Relay
	mu   sync.Mutex
	open []outcome // bounded by the budget, which each holds a part of
	wake chan struct{}
}

// submit hands outcomes over and never waits.
func (p *workerPool) submit(outcomes []outcome) {
	if len(outcomes) == 0 {
		return
	}
	p.mu.Lock()
	p.open = append(p.open, outcomes...)
	p.mu.Unlock()
	signal(p.wake)
}

// take removes up to jobOutcomes from the front.
func (p *workerPool) take() []outcome {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(jobOutcomes, len(p.open))
	job := slices.Clone(p.open[:n])
	left := copy(p.open, p.open[n:])
	clear(p.open[left:])
	p.open = p.open[:left]
	if left > 0 {
		signal(p.wake) // for another worker
	}
	return job
}

// run works until ctx ends; what is not settled then keeps its lease until that ends.
func (p *workerPool) run(ctx context.Context) {
	for {
		if job := p.take(); len(job) > 0 {
			p.settle(ctx, job)
			continue
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// settle writes a job's outcomes and gives their part of the budget back.
func (p *workerPool) settle(ctx context.Context, job []outcome) {
	var (
		acks     []lease.Ack
		releases []lease.Release
	)
	for _, o := range job {
		if o.isAck {
			acks = append(acks, o.ack)
		} else {
			releases = append(releases, o.release)
		}
	}
	deadline := p.deadline(job)
	lost := write(ctx, p, deadline, acks, p.r.repo.Remove, func(a lease.Ack) lease.Held { return a.Held })
	p.r.stats.acked.Add(int64(len(acks) - lost))
	p.r.stats.lost.Add(int64(lost))
	lost = write(ctx, p, deadline, releases, p.r.repo.Unlock, func(r lease.Release) lease.Held { return r.Held })
	p.r.stats.released.Add(int64(len(releases) - lost))
	p.r.stats.lost.Add(int64(lost))
	for _, o := range job {
		p.r.hand.drop(o.work)
		p.r.budget.release(o.work.heldEvents, o.work.heldBytes)
	}
}

// deadline is one lease after the last of the job's leases ended: the rows still carry our tokens if
// nobody could claim them meanwhile, as when the database itself was away.
func (p *workerPool) deadline(job []outcome) time.Time {
	var last time.Time
	for _, o := range job {
		if d := o.work.claim.deadline(); d.After(last) {
			last = d
		}
	}
	return last.Add(p.r.cfg.Lease)
}

// write does one kind of a job and returns how many of its leases were lost.
func write[T any](ctx context.Context, p *workerPool, deadline time.Time, items []T,
	do func(context.Context, []T) error, held func(T) lease.Held) (lost int) {
	if len(items) == 0 {
		return 0
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var last error
	b := retry.WithCappedDuration(time.Second, retry.NewExponential(20*time.Millisecond))
	err := retry.Do(ctx, retry.WithJitterPercent(20, b), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, repoTimeout)
		defer cancel()
		err := do(ctx, items)
		var (
			busy *lease.BusyError
			gone *lease.LostError
		)
		if errors.As(err, &gone) {
			lost += len(gone.Held)
		}
		if errors.As(err, &busy) {
			items = slices.DeleteFunc(items, func(i T) bool { return !slices.Contains(busy.Held, held(i)) })
			return retry.RetryableError(err)
		}
		if err == nil || gone != nil {
			items = nil
			return nil
		}
		p.r.stats.jobRetries.Add(1)
		last = err
		return retry.RetryableError(err)
	})
	if err != nil {
		p.r.log.Warn("leases not settled in time: they end by themselves",
			"leases", len(items), "err", errors.Join(err, last))
	}
	return lost + len(items)
}
