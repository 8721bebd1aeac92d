package outbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/checker"
)

var (
	errWorld = errors.New("connection refused")
	errEvent = &ClassError{Class: BadEvent, Err: errors.New("message too large")}
	errTopic = &ClassError{Class: BadTopic, Err: errors.New("unknown topic")}
)

// fault is what the log does to one event that is handed to it. The zero fault stores it and says so.
type fault struct {
	latency time.Duration
	err     error         // the answer
	stored  bool          // with err: it is stored all the same
	silent  bool          // no answer: the sender gives up after latency, or when its context ends if that is 0
	late    time.Duration // with silent: it is stored so long after; 0 is never
	dies    bool          // the relay that handed it over is no more
}

// memoryLog is a log in this process, and what tests know of it. Each relay connects to it.
type memoryLog struct {
	t     *testing.T
	fault func(e Event, try int) fault // nil: nothing goes wrong

	mu       sync.Mutex
	messages []message
	tries    map[tryKey]int
}

type message struct {
	event      Event
	token, gap int64
	at         time.Time
}

type tryKey struct {
	record   Record
	position int64
}

func newMemoryLog(t *testing.T, fault func(e Event, try int) fault) *memoryLog {
	return &memoryLog{t: t, fault: fault, tries: map[tryKey]int{}}
}

func (l *memoryLog) append(run Run, e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, message{event: e, token: run.Token, gap: run.Gap, at: time.Now()})
}

// try counts the hand-overs of an event from 1.
func (l *memoryLog) try(e Event) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := tryKey{e.Record, e.Position}
	l.tries[k]++
	return l.tries[k]
}

func (l *memoryLog) triesOf(e Event) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tries[tryKey{e.Record, e.Position}]
}

func (l *memoryLog) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.messages)
}

// positions of a record, as they stand in the log.
func (l *memoryLog) positions(r Record) []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var positions []int64
	for _, m := range l.messages {
		if m.event.Record == r {
			positions = append(positions, m.event.Position)
		}
	}
	return positions
}

// distinct is how many events have a copy.
func (l *memoryLog) distinct() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[tryKey]bool{}
	for _, m := range l.messages {
		seen[tryKey{m.event.Record, m.event.Position}] = true
	}
	return len(seen)
}

// judge compares the log with what was committed.
func (l *memoryLog) judge(committed []Event) checker.Report {
	c := checker.New()
	for _, e := range committed {
		c.Commit(checker.Committed{
			Position: e.Position, RecordType: e.Record.Type, RecordKey: e.Record.Key,
			EventID: e.ID, Type: e.Type, Hash: checker.Hash(e.Payload),
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, m := range l.messages {
		c.Deliver(checker.Delivered{
			Topic: "log", Offset: int64(i), RecordType: m.event.Record.Type, RecordKey: m.event.Record.Key,
			EventID: m.event.ID, Type: m.event.Type, Hash: checker.Hash(m.event.Payload),
			Position: m.event.Position, Token: m.token, Gap: m.gap,
		})
	}
	return c.Judge()
}

// client is one relay's connection to the log, and the EventSender of it. It holds the relay to its
// side of the contract.
type client struct {
	log    *memoryLog
	onSend func(ctx context.Context, runs []Run) // nil: nothing
	life   *life

	mu      sync.Mutex
	sending map[Record]bool
}

func (l *memoryLog) connect() *client {
	return &client{log: l, life: newLife(), sending: map[Record]bool{}}
}

// Send stores event after event of each run, and stops a run at its first failure.
func (c *client) Send(ctx context.Context, runs []Run) []Verdict {
	c.begin(runs)
	defer c.end(runs)
	if c.onSend != nil {
		c.onSend(ctx, runs)
	}
	verdicts := make([]Verdict, len(runs))
	if c.log.fault == nil {
		for i, run := range runs {
			verdicts[i] = c.run(ctx, run)
		}
		return verdicts
	}
	var wg sync.WaitGroup
	for i, run := range runs {
		wg.Go(func() { verdicts[i] = c.run(ctx, run) })
	}
	wg.Wait()
	return verdicts
}

func (c *client) run(ctx context.Context, run Run) Verdict {
	events := slices.Clone(run.Events)
	for i, e := range events {
		if ctx.Err() != nil {
			return Verdict{Stored: i, Err: ctx.Err()}
		}
		if err, undecided := c.one(ctx, run, e); err != nil {
			return Verdict{Stored: i, Err: err, Undecided: undecided}
		}
	}
	return Verdict{Stored: len(events)}
}

func (c *client) one(ctx context.Context, run Run, e Event) (err error, undecided bool) {
	var f fault
	if try := c.log.try(e); c.log.fault != nil {
		f = c.log.fault(e, try)
	}
	if f.dies {
		c.life.end()
	}
	switch {
	case c.life.ended():
		<-ctx.Done()
		return ctx.Err(), true
	case f.silent:
		if f.late > 0 {
			time.AfterFunc(f.late, func() { c.log.append(run, e) })
		}
		if f.latency == 0 || sleep(ctx, f.latency) != nil {
			<-ctx.Done()
		}
		return errWorld, true
	case sleep(ctx, f.latency) != nil:
		return ctx.Err(), false
	case c.life.ended():
		<-ctx.Done()
		return ctx.Err(), true
	}
	if f.err == nil || f.stored {
		c.log.append(run, e)
	}
	return f.err, false
}

func (c *client) begin(runs []Run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, run := range runs {
		if len(run.Events) == 0 {
			c.log.t.Errorf("Send got a run without events")
			continue
		}
		r := run.Events[0].Record
		if c.sending[r] {
			c.log.t.Errorf("Send got record %v while it is sending it", r)
		}
		c.sending[r] = true
		for i, e := range run.Events {
			if e.Record != r || i > 0 && e.Position <= run.Events[i-1].Position {
				c.log.t.Errorf("Send got %v at %d after %v at %d", e.Record, e.Position, r, run.Events[i-1].Position)
			}
		}
	}
}

func (c *client) end(runs []Run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, run := range runs {
		if len(run.Events) > 0 {
			delete(c.sending, run.Events[0].Record)
		}
	}
}
