// Package demo shows Baton's promise on the user's own machine in less than a minute: a service writes
// orders, relays carry their events to Kafka, one relay is killed by SIGKILL with work in hand, and the
// topics are read back and compared with what was committed.
//
// Everything runs as child processes on loopback addresses and is gone when the demo ends, whatever
// ends it. Nothing in it is canned: the verdict is what the checker found.
package demo
