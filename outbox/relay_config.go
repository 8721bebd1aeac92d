package outbox

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Policy says what becomes of a record whose head event cannot be published.
type Policy int

const (
	// Park: after AttemptsMax verdicts against it the record waits in place for an operator. Others flow.
	Park Policy = iota
	// Block: it is tried for ever, with the longest back-off.
	Block
)

func (p Policy) String() string {
	if p == Block {
		return "block"
	}
	return "park"
}

// RelayConfig of a Relay. DefaultRelayConfig has the values that most need.
type RelayConfig struct {
	Consumers int // goroutines that claim
	Producers int // goroutines that send, each with the records of its lane
	Workers   int // goroutines that acknowledge and release

	ClaimRecords int   // records of one claim, at most
	ClaimEvents  int   // events of one claim, at most
	ClaimBytes   int64 // bytes of payload of one claim, at most

	InFlightEvents int   // events claimed and not yet settled, at most
	InFlightBytes  int64 // bytes of payload claimed and not yet settled, at most

	PollMin time.Duration // pause between claims while events flow
	PollMax time.Duration // pause between claims when idle

	Lease time.Duration // of the repository; sends stop in the last quarter of it
	Drain time.Duration // how long Run may finish what is in flight after its context ended

	BackoffMin time.Duration // first pause after a failure
	BackoffMax time.Duration // longest pause after a failure

	AttemptsMax int // verdicts against a head event before its record is parked
	ClaimsMax   int // claims that ended without a verdict, as when an event kills its relay, before its record is parked

	// PolicyOf a record type; nil is Park for all.
	PolicyOf func(recordType string) Policy
	// Log; nil is slog.Default().
	Log *slog.Logger
}

// DefaultRelayConfig suits one relay of several on a small machine.
func DefaultRelayConfig() RelayConfig {
	return RelayConfig{
		Consumers: 2, Producers: 2, Workers: 2,
		ClaimRecords: 500, ClaimEvents: 10_000, ClaimBytes: 8 << 20,
		InFlightEvents: 20_000, InFlightBytes: 16 << 20,
		PollMin: 2 * time.Millisecond, PollMax: 25 * time.Millisecond,
		Lease: 30 * time.Second, Drain: 20 * time.Second,
		BackoffMin: 100 * time.Millisecond, BackoffMax: 30 * time.Second,
		AttemptsMax: 5, ClaimsMax: 5,
	}
}

// Validate names every field that is out of its bounds.
func (c RelayConfig) Validate() error {
	var problems []error
	check := func(ok bool, field string, value any, must string) {
		if !ok {
			problems = append(problems, fmt.Errorf("outbox: %s is %v, it must be %s", field, value, must))
		}
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"Consumers", c.Consumers}, {"Producers", c.Producers}, {"Workers", c.Workers}} {
		check(f.value >= 1 && f.value <= 64, f.name, f.value, "1 to 64")
	}
	check(c.ClaimRecords >= 1 && c.ClaimRecords <= 10_000, "ClaimRecords", c.ClaimRecords, "1 to 10000")
	check(c.ClaimEvents >= c.ClaimRecords, "ClaimEvents", c.ClaimEvents, "at least ClaimRecords")
	onePayload := fmt.Sprintf("at least %d, one payload", PayloadBytesMax)
	check(c.ClaimBytes >= PayloadBytesMax, "ClaimBytes", c.ClaimBytes, onePayload)
	check(c.InFlightEvents >= c.ClaimEvents, "InFlightEvents", c.InFlightEvents, "at least ClaimEvents")
	check(c.InFlightBytes >= c.ClaimBytes, "InFlightBytes", c.InFlightBytes, "at least ClaimBytes")
	check(c.PollMin > 0, "PollMin", c.PollMin, "positive")
	check(c.PollMax >= c.PollMin, "PollMax", c.PollMax, "at least PollMin")
	check(c.Lease >= time.Second, "Lease", c.Lease, "at least 1s")
	check(c.Drain >= 0, "Drain", c.Drain, "at least 0s")
	check(c.BackoffMin > 0, "BackoffMin", c.BackoffMin, "positive")
	check(c.BackoffMax >= c.BackoffMin, "BackoffMax", c.BackoffMax, "at least BackoffMin")
	check(c.AttemptsMax >= 1, "AttemptsMax", c.AttemptsMax, "at least 1")
	check(c.ClaimsMax > 2, "ClaimsMax", c.ClaimsMax, "at least 3: from the second on a record is claimed alone")
	return errors.Join(problems...)
}
