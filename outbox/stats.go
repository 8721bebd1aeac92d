package outbox

import (
	"context"
	"errors"
	"sync/atomic"
)

// RelayStats counts what a relay did since it was made. Counters only grow; the others are of now.
type RelayStats struct {
	Claims         int64 // claims made
	RecordsClaimed int64 // leases taken
	StaleClaimed   int64 // of them, those that another claim had let run out
	EmptyClaimed   int64 // of them, those whose event was not in sight
	Published      int64 // events known stored
	Acked          int64 // records acknowledged
	Released       int64 // records released with work left
	Lost           int64 // leases lost before they were settled
	Extended       int64 // extensions of a claim's leases
	Parked         int64 // records parked
	FailedWorld    int64 // runs that stopped because broker or network did
	FailedTopic    int64 // runs that stopped because of their topic
	FailedEvent    int64 // runs that stopped because of their event
	JobRetries     int64 // acknowledgements and releases that had to be tried again
	ClaimErrors    int64 // claims that failed

	EventsInFlight int64 // claimed and not settled
	BytesInFlight  int64 // of payload, claimed and not settled
	LogProblem     error // why the log takes nothing now, or nil
	RepoProblem    error // why the last claim failed, or nil
}

type counters struct {
	claims, claimed, stale, empty, claimErrors         atomic.Int64
	published, acked, released, lost, extended, parked atomic.Int64
	jobRetries                                         atomic.Int64
	failed                                             [BadEvent + 1]atomic.Int64 // by class
	repoProblem                                        atomic.Pointer[error]
}

// Stats may be called at any time.
func (r *Relay) Stats() RelayStats {
	s := RelayStats{
		Claims: r.stats.claims.Load(), RecordsClaimed: r.stats.claimed.Load(), StaleClaimed: r.stats.stale.Load(),
		EmptyClaimed: r.stats.empty.Load(), Published: r.stats.published.Load(), Acked: r.stats.acked.Load(),
		Released: r.stats.released.Load(), Lost: r.stats.lost.Load(), Extended: r.stats.extended.Load(),
		Parked: r.stats.parked.Load(), JobRetries: r.stats.jobRetries.Load(), ClaimErrors: r.stats.claimErrors.Load(),
		FailedWorld: r.stats.failed[BadWorld].Load(), FailedTopic: r.stats.failed[BadTopic].Load(),
		FailedEvent:    r.stats.failed[BadEvent].Load(),
		EventsInFlight: r.hand.events.Load(), BytesInFlight: r.hand.bytes.Load(), LogProblem: r.health.problem(),
	}
	if p := r.stats.repoProblem.Load(); p != nil {
		s.RepoProblem = *p
	}
	return s
}

// logTurned says once for each outage of the log that it began, and once that it ended.
func (r *Relay) logTurned(err error) {
	if err != nil {
		r.log.Warn("nothing can be published; everything waits in the outbox, and no attempt is counted", "err", err)
		return
	}
	r.log.Info("events are published again")
}

// claimFailed says so once for each outage, and remembers why for readiness.
func (r *Relay) claimFailed(ctx context.Context, failures int, err error) {
	if end := ctx.Err(); end != nil && errors.Is(err, end) {
		return
	}
	r.stats.claimErrors.Add(1)
	r.stats.repoProblem.Store(&err)
	if failures == 1 {
		r.log.Warn("claims fail; everything waits in the outbox until they succeed again", "err", err)
	}
}

func (r *Relay) claimSucceeded() {
	if r.stats.repoProblem.Swap(nil) != nil {
		r.log.Info("claims succeed again")
	}
}
