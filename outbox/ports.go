package outbox

import (
	"context"
	"time"

	"github.com/batonrelay/baton/lease"
)

// EventRepo is the outbox as the relay sees it. Postgres is the real one; Memory is a small one for
// tests and experiments. Package outboxtest holds both to one suite.
//
// Every write carries the token of its claim. A lease that is gone (taken over, or fenced by an
// operator) is reported as *lease.LostError, a row that somebody else is locking just now as
// *lease.BusyError, both at once through errors.Join; everything else in the call was written.
type EventRepo interface {
	// Lock claims due records, oldest first, and reads their next events. No lease is held for
	// records that it does not return. An empty claim is no error.
	Lock(ctx context.Context, limits lease.Limits) (Claim, error)
	// Extend prolongs leases that are still alive, and returns until when, on this process's clock.
	Extend(ctx context.Context, held []lease.Held) (time.Time, error)
	// Unlock ends leases without having published all that was claimed: the records are deferred again.
	Unlock(ctx context.Context, releases []lease.Release) error
	// Remove acknowledges: everything up to Last is stored in Kafka. The record moves on, or goes idle.
	Remove(ctx context.Context, acks []lease.Ack) error
	// Add writes events in a transaction of its own and returns their positions.
	Add(ctx context.Context, events ...Event) ([]int64, error)
}

// EventSender puts runs into the log. Package publisher has the one for Kafka.
//
// The contract is the order lemma: event k+1 of a run is handed over only when k is known stored, or
// both in one atomic batch. Send stops a run at its first failure, goes on with the others, and
// returns one verdict a run, in the order of the runs, no later than shortly after ctx ends. It is
// called by several goroutines at once, never with the same record twice at a time.
type EventSender interface {
	Send(ctx context.Context, runs []Run) []Verdict
}

// Claim is what one Lock brought.
type Claim struct {
	lease.Claim
	// Runs has one run for each lease, in the order of Claim.Records.
	Runs []Run
}

// Run is the next events of one lease, in the order of their positions. In what reaches a sender all
// events of a run are of one record (two records share a lease where their ids collide).
type Run struct {
	// ID is the record's id: the lease is on it.
	ID int64
	// Token is the claim's. It goes out with every message.
	Token int64
	// Epoch names the database's system identifier and timeline. It goes out with every message.
	Epoch string
	// Gap is the position of an event before the first one that an operator skipped, or 0.
	Gap int64
	// Deadline is when the lease ends, on this process's monotonic clock, never later than in truth.
	Deadline time.Time
	// Events are at least one in what reaches a sender.
	Events []Event
}

// Verdict is what a sender knows of a run after Send.
type Verdict struct {
	// Stored is how many events, from the front of the run, are known to be stored.
	Stored int
	// Err says why the run stopped; nil means that all of it is stored. Its class is ClassOf(Err).
	Err error
	// Undecided: the event after the stored ones was handed to the broker, which has not answered. It
	// may still land, so the lease is kept until it ends.
	Undecided bool
}
