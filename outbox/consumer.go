package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/batonrelay/baton/lease"
)

// repoTimeout bounds one call of the repository, from without: a half-open connection never answers.
const repoTimeout = 5 * time.Second

// probeRecords is how many records are claimed while the log takes nothing.
const probeRecords = 10

// consumer claims records and hands them to the distributor. The first one always polls; the others
// wait until a claim came back full, and then help with the backlog.
type consumer struct {
	r     *Relay
	first bool
	// bytesPerRecord is a moving average: records with large payloads are claimed in smaller numbers, so
	// that leases are not taken only to be given back.
	bytesPerRecord float64
}

// run claims until ctx ends.
func (c *consumer) run(ctx context.Context) {
	pause, failures := c.r.cfg.PollMin, 0
	for ctx.Err() == nil {
		if !c.first && pause > 0 {
			select {
			case <-c.r.backlog:
			case <-ctx.Done():
				return
			}
		}
		probe, err := c.r.health.wait(ctx)
		if err != nil {
			return
		}
		claimed, full, err := c.once(ctx, probe)
		if probe && claimed == 0 {
			c.r.health.unprobed()
		}
		switch {
		case err != nil:
			failures++
			pause = c.r.backoff(failures)
			c.r.claimFailed(ctx, failures, err)
		case full:
			signal(c.r.backlog)
			pause, failures = 0, 0
		case claimed > 0:
			pause, failures = c.r.cfg.PollMin, 0
		default:
			pause, failures = min(max(2*pause, c.r.cfg.PollMin), c.r.cfg.PollMax), 0
		}
		if err == nil {
			c.r.claimSucceeded()
		}
		if sleep(ctx, pause) != nil {
			return
		}
	}
}

// once makes one claim. full: there is more where it came from.
func (c *consumer) once(ctx context.Context, probe bool) (claimed int, full bool, err error) {
	limits := c.limits(probe)
	events, bytes := int64(limits.Events), limits.Bytes
	if err := c.r.budget.acquire(ctx, events, bytes); err != nil {
		return 0, false, err
	}
	claim, err := c.lock(ctx, limits)
	if err != nil {
		c.r.budget.release(events, bytes)
		return 0, false, err
	}
	works := c.works(claim)
	for _, w := range works {
		// a single event may be larger than what was asked for
		w.heldEvents, w.heldBytes = min(w.events, events), min(w.bytes, bytes)
		events, bytes = events-w.heldEvents, bytes-w.heldBytes
	}
	c.r.budget.release(events, bytes)
	c.hand(works)
	c.learn(works)
	full = len(works) >= limits.Records && !probe
	if claim.Suspects {
		var found bool
		found, err = c.alone(ctx)
		full = full || found // they stand before all others in the queue, and go one by one: no pause between
	}
	return len(works), full, err
}

func (c *consumer) limits(probe bool) lease.Limits {
	l := lease.Limits{Records: c.r.cfg.ClaimRecords, Events: c.r.cfg.ClaimEvents, Bytes: c.r.cfg.ClaimBytes}
	if fit := float64(l.Bytes) / c.bytesPerRecord; fit < float64(l.Records) { // without payloads fit is no int
		l.Records = max(1, int(fit))
	}
	if probe {
		l.Records = min(l.Records, probeRecords)
		l.Events = min(l.Events, max(l.Records, probeRecords))
	}
	return l
}

// learn keeps the average of bytes a record up to date; half of it is the last claim.
func (c *consumer) learn(works []*work) {
	if len(works) == 0 {
		return
	}
	var bytes int64
	for _, w := range works {
		bytes += w.bytes
	}
	c.bytesPerRecord = (c.bytesPerRecord + float64(bytes)/float64(len(works))) / 2
}

// lock claims. A claim that has begun is not cut off by a shutdown: its leases would be nobody's.
func (c *consumer) lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), repoTimeout)
	defer cancel()
	claim, err := c.r.repo.Lock(ctx, limits)
	if err != nil {
		return Claim{}, err
	}
	c.r.stats.claims.Add(1)
	c.r.stats.claimed.Add(int64(len(claim.Runs)))
	for _, r := range claim.Records {
		if r.Stale {
			c.r.stats.stale.Add(1)
		}
	}
	return claim, nil
}

// works takes the claim's leases in hand.
func (c *consumer) works(claim Claim) []*work {
	shared := &claimInHand{until: claim.Until, open: make(map[int64]*work, len(claim.Runs))}
	works := make([]*work, len(claim.Runs))
	for i, run := range claim.Runs {
		works[i] = newWork(shared, claim.Records[i], run)
		shared.open[run.ID] = works[i]
	}
	if len(works) > 0 {
		c.r.hand.add(shared)
	}
	return works
}

// hand passes works on: to the distributor, or to the worker pool where the claim saw no event.
func (c *consumer) hand(works []*work) {
	var empty []outcome
	full := works[:0:0]
	for _, w := range works {
		if len(w.run.Events) == 0 {
			empty = append(empty, w.ack())
		} else {
			full = append(full, w)
		}
	}
	c.r.stats.empty.Add(int64(len(empty)))
	c.r.workers.submit(empty)
	if len(full) > 0 {
		c.r.distributor.give(full)
	}
}

// alone claims one suspect, a record whose claims kept ending without a verdict, when nothing else is
// in flight in this process, and keeps everything else out until it is settled: if its event kills the
// relay, no other record is blamed. One that has done so too often is parked. found: there was one.
func (c *consumer) alone(ctx context.Context) (found bool, err error) {
	if err := c.r.budget.acquireAll(ctx); err != nil {
		return false, err
	}
	limits := lease.Limits{Records: 1, Events: c.r.cfg.ClaimEvents, Bytes: c.r.cfg.ClaimBytes, Alone: true}
	claim, err := c.lock(ctx, limits)
	works := c.works(claim)
	if err != nil || len(works) == 0 {
		c.r.budget.releaseAll()
		return false, err
	}
	w := works[0]
	w.heldEvents, w.heldBytes = c.r.budget.eventsMax, c.r.budget.bytesMax
	if claims := claim.Records[0].Claims; claims >= c.r.cfg.ClaimsMax && len(w.run.Events) > 0 {
		head := w.run.Events[0]
		if c.r.policyOf(head.Record.Type) == Park {
			reason := fmt.Sprintf("%d claims of it ended without a verdict, the last %d with nothing beside it: "+
				"it may kill its relay", claims, claims-lease.SuspectAfter)
			c.r.stats.parked.Add(1)
			c.r.log.Warn("record parked", "record_type", head.Record.Type, "record_key", head.Record.Key,
				"position", head.Position, "reason", reason)
			c.r.workers.submit([]outcome{w.release(0, w.attempts, true, reason)})
			return true, nil
		}
	}
	c.hand(works)
	return true, nil
}
