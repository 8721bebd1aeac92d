package model

// Config is the size of the model, and what is wrong with it.
type Config struct {
	Positions int // numbers that the sequence hands out, at most 4
	Workers   int // claims at a time, at most 3
	Bugs      Bug
	StatesMax int // the search gives up beyond
}

// Bug is a set of planted bugs.
type Bug uint32

// The bugs. Each breaks one rule of the design.
const (
	// TailClaimed: a claim passes over the event that another relay holds, and takes the next ones.
	TailClaimed Bug = 1 << iota
	// Pipelined: the second event goes out before the first is known stored.
	Pipelined
	// SilenceIsSuccess: an answer that does not come counts as a good one.
	SilenceIsSuccess
	// ReleaseWithoutToken: release and fail are written under any token.
	ReleaseWithoutToken
	// AckWithoutToken: ack is written under any token.
	AckWithoutToken
	// IdleWithoutGate: an ack deletes the row when it sees nothing newer.
	IdleWithoutGate
	// OneSnapshot: an ack looks for newer events and tries the gate in one statement.
	OneSnapshot
	// SkipKeepsToken: skip moves the record on under the holder's token.
	SkipKeepsToken
	// AckMovesBack: ack sets next_position to its own last event, not to the greatest.
	AckMovesBack
	// ParkKeepsToken: park lets the holder go on.
	ParkKeepsToken
	// ReleaseUnparks: a release makes a parked record due.
	ReleaseUnparks
	// AckDeletesParked: an ack deletes the row of a parked record that has no events left.
	AckDeletesParked
	// DeadLetterInSilence: the head is given up after its last attempt, and nothing says so.
	DeadLetterInSilence
	// NumberBeforeGate: a writer takes its number, then the gate.
	NumberBeforeGate
	// WriterReadsRow: a writer inserts the row only if its snapshot, older than the gate, shows none.
	WriterReadsRow
	// ClaimReadsOpen: a claim sees events of transactions that are open.
	ClaimReadsOpen
	// TokenKept: a claim of a stale lease goes on under the token that it finds.
	TokenKept
	// IdleForgetsGap: with the row the gap goes, which no event has said yet.
	IdleForgetsGap
	// GapInClaim: the claim's statement reads the gap, with a snapshot older than its lock on the row.
	GapInClaim
	// GapOverwritten: a second skip replaces the gap of the first.
	GapOverwritten
	// EmptyAckTells: the ack of a claim that saw no event takes the gaps before its last position as told.
	EmptyAckTells
	// NoExpiry: leases never run out.
	NoExpiry
	// LeaseIgnored: a claim takes records under a live lease, under a new token.
	LeaseIgnored
	// StaleExtended: a lease that ran out, and that nobody took, is prolonged.
	StaleExtended
	// NoFirstLook: an ack tries the gate of records that it knows to stay.
	NoFirstLook
)

func (m Config) has(b Bug) bool { return m.Bugs&b != 0 }
