// Package lease grants time-limited, fenced ownership of records in PostgreSQL. The database's clock
// decides who holds a lease; a holder's own clock only decides when to stop trusting it, always
// earlier. It knows which events of a record wait, and nothing of their payloads or of brokers. It
// does not queue waiters and promises no fairness beyond oldest first.
package lease
