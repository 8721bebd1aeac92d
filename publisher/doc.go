// Package publisher puts events into Kafka through sarama: it is the outbox.EventSender that ships.
//
// It promises the order lemma: the next event of a run is handed over only when the one before is known stored; it
// promises a verdict for each run shortly after the deadline, a message whose form is a contract (message.go), and
// that Close never hangs. One table (errors.go) decides whose fault a refusal is; the relay decides what follows
// from that; the routing decides the topic, never the row.
//
// It does not promise that a failed event is absent from Kafka: an error is an unknown outcome, and the event goes
// again under the same id and position. It does not promise any order across records.
package publisher
