package lease

import (
	"errors"
	"fmt"
	"time"
)

// Limits bound one claim. All are shared by its records: a record may take what the others leave.
type Limits struct {
	Records int   // at most so many leases
	Events  int   // at most so many events, but at least one for each record
	Bytes   int64 // at most so many bytes of payload, but at least one event for each record
	// Alone claims one suspect: a record whose claims ended at least SuspectAfter times without any
	// verdict, as they do when an event kills its relay. Other claims pass suspects over.
	Alone bool
}

// SuspectAfter is how many claims of a record must end without a verdict before it is claimed alone.
const SuspectAfter = 2

// Claim is the leases that one Claim took. It holds no payloads.
type Claim struct {
	// Token fences every write under these leases. It is random, and new for each claim.
	Token int64
	// Until is when the leases end, on this process's monotonic clock, counted from before the query:
	// never later than in truth.
	Until time.Time
	// Records, oldest due first.
	Records []Record
	// Suspects were passed over: claim one of them with Limits.Alone.
	Suspects bool
}

// Record is one leased record and which of its events were claimed.
type Record struct {
	ID    int64
	First int64 // position of the first event; 0 if none is in sight
	Last  int64 // position of the last one; without events the last position that needs no sending
	Bytes int64 // of payload, from First to Last
	// Attempts counts the verdicts against the head event so far.
	Attempts int
	// Claims counts the claims before this one that ended without any verdict.
	Claims int
	// Stale: the lease of another claim had run out; the record had been deferred by the passing of time.
	Stale bool
}

// Empty reports that the claim saw no event: its writer is still open, or rolled back.
func (r Record) Empty() bool { return r.First == 0 }

// Held names one lease: the record and the claim that took it.
type Held struct {
	ID    int64
	Token int64
}

// Ack ends a lease: everything up to and including Last is stored.
type Ack struct {
	Held
	Last int64
}

// Release ends a lease with work left. The record is deferred again, after Delay.
type Release struct {
	Held
	// Stored is the position of the last event known stored under this lease, or 0.
	Stored int64
	// Delay backs the record off.
	Delay time.Duration
	// Attempts is the new count of verdicts against the head event.
	Attempts int
	// Park stops the record until an operator says otherwise.
	Park bool
	// Err is kept as the record's last error; "" leaves the one before.
	Err string
}

// ErrLost is what every *LostError is.
var ErrLost = errors.New("lease: lost")

// LostError names leases that were lost before the write: nothing was written for them.
type LostError struct{ Held []Held }

func (e *LostError) Error() string {
	return fmt.Sprintf("lease: lost %d leases, the first on record %d", len(e.Held), e.Held[0].ID)
}

// Is makes errors.Is(err, ErrLost) true.
func (e *LostError) Is(target error) bool { return target == ErrLost }

// BusyError names leases whose rows somebody else was locking: nothing was written for them, try again.
type BusyError struct{ Held []Held }

func (e *BusyError) Error() string {
	return fmt.Sprintf("lease: %d rows are locked by another session, the first is record %d", len(e.Held), e.Held[0].ID)
}
