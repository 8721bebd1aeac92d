// Package trial puts relays to the test as a user runs them: as processes, on a real PostgreSQL and a
// real Kafka, with writers at work. It starts and kills relays, writes events that overlap, roll back
// and come by plain INSERT, reads topics to their end, and hands both sides to package checker.
//
// What was committed is what the outbox says at the end: that settles commits whose answer was lost.
// Writers keep a journal of what they rolled back, and of commits that were confirmed.
package trial
