package outbox

import (
	"errors"
	"fmt"
)

// Class says whose fault it is that an event was not stored, and so what may be done about it.
type Class int

const (
	// BadWorld is the class of every error that nobody has classed: broker, network or database are
	// down or slow. It is tried again for ever and costs no attempt.
	BadWorld Class = iota
	// BadTopic: the topic does not exist, or may not be written. It costs an attempt.
	BadTopic
	// BadEvent: the event itself can never be stored as it is. It costs an attempt.
	BadEvent
)

func (c Class) String() string {
	switch c {
	case BadTopic:
		return "bad topic"
	case BadEvent:
		return "bad event"
	default:
		return "bad world"
	}
}

// ClassError gives a cause its class. Only an adapter may say that the event or the topic is to blame.
type ClassError struct {
	Class Class
	Err   error
}

func (e *ClassError) Error() string { return e.Class.String() + ": " + e.Err.Error() }
func (e *ClassError) Unwrap() error { return e.Err }

// ClassOf returns the class of a verdict's error: that of the first ClassError in its chain, else BadWorld.
func ClassOf(err error) Class {
	var c *ClassError
	if errors.As(err, &c) {
		return c.Class
	}
	return BadWorld
}

// ErrNotMigrated: the outbox is not in this database.
var ErrNotMigrated = errors.New("outbox: the outbox is not in this database: run baton migrate up")

// ErrTooManyGates: one transaction would hold the gates of more records than the setting baton_limits.gates (256).
var ErrTooManyGates = errors.New("outbox: too many records in one transaction")

// FieldError says which field of which event Add refused, and the limit it broke. Nothing was written.
type FieldError struct {
	Index  int    // of the event in the call, from 0
	Field  string // "record type", "record key", "type", "payload", "headers"
	Reason string // what is wrong, with the limit and what to do
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("outbox: event %d: %s %s", e.Index, e.Field, e.Reason)
}
