// Package outbox carries events from the database that they were written in to a log, in order.
//
// An application calls Add (or AddSQL) inside the transaction that changes its records. A Relay then
// claims records from an EventRepo, hands their events to an EventSender, and acknowledges what is
// stored. Any number of relays may run on one outbox.
//
// Promised: every event of a committed transaction is stored at least once, none of a rolled-back one
// ever is, and for each record the first copies are stored in commit order. Not promised: order across
// records, or that a copy is the only one.
//
//	consumer ─▶ distributor ─▶ producers ─▶ EventSender
//	   ▲ Lock                     │ verdicts
//	   │                          ▼
//	EventRepo ◀── Remove, Unlock ── worker pool
package outbox
