package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/batonrelay/baton/lease"
)

const (
	// runsMax is how many records one Send carries at most.
	runsMax = 1000
	// pieceEvents is how many events of one record a Send carries at most: the records beside it wait for it.
	pieceEvents = 16
)

// topicPatience is how many times more verdicts park a record for its topic's sake than for its event's:
// whoever forgot the topic is about to create it, and would have to unpark every record.
const topicPatience = 10

// ErrLeaseEnding: the rest of the lease is too short for a send to end in it. The record is released.
var ErrLeaseEnding = errors.New("outbox: lease is ending")

// producer sends the works of one lane and passes what became of them to the worker pool. New works
// join at each turn, so that a long one holds back nobody but its own record.
type producer struct {
	r    *Relay
	lane *lane
	ids  map[int64]struct{} // scratch: the records of one Send
}

// run ends when ctx does, and releases what it has then.
func (p *producer) run(ctx context.Context) {
	var active []*work
	for {
		active = p.lane.take(active, runsMax-len(active))
		if len(active) > 0 {
			active = p.turn(ctx, active)
			continue
		}
		select {
		case <-p.lane.wake:
		case <-ctx.Done():
			return
		}
	}
}

// turn sends the next piece of each work and returns the works that have more to send.
func (p *producer) turn(ctx context.Context, active []*work) []*work {
	sending, waiting := p.sendable(active)
	if len(sending) == 0 {
		return waiting
	}
	runs := make([]Run, len(sending))
	for i, w := range sending {
		runs[i] = w.next(pieceEvents)
	}
	verdicts := p.send(ctx, sending, runs)
	if turned, problem := p.r.health.judge(verdicts); turned {
		p.r.logTurned(problem)
	}
	outcomes := make([]outcome, 0, len(sending))
	for i, w := range sending {
		if o, settled := p.judge(ctx, w, runs[i], verdicts[i]); settled {
			outcomes = append(outcomes, o)
		} else {
			waiting = append(waiting, w)
		}
	}
	p.r.workers.submit(outcomes)
	return waiting
}

// send gives a silent sender up when the last of the leases has ended, as far as they were extended by
// then: it must not hold its lane, or a drain, for longer.
func (p *producer) send(ctx context.Context, works []*work, runs []Run) []Verdict {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for sleep(ctx, time.Until(lastDeadline(works))) == nil {
			if time.Until(lastDeadline(works)) <= 0 {
				cancel()
			}
		}
	})
	verdicts := p.r.sender.Send(ctx, runs)
	cancel()
	watch.Wait()
	return verdicts
}

// lastDeadline of the works' leases.
func lastDeadline(works []*work) (last time.Time) {
	var claim *claimInHand
	for _, w := range works {
		if w.claim == claim {
			continue // neighbours mostly share their claim
		}
		claim = w.claim
		if d := claim.deadline(); d.After(last) {
			last = d
		}
	}
	return last
}

// sendable picks the works that may be sent now: one of each record, with enough of its lease left. A
// second work of a record (its lease ran out here, and came back) waits its turn.
func (p *producer) sendable(active []*work) (sending, waiting []*work) {
	clear(p.ids)
	var back []*work
	for _, w := range active {
		_, twice := p.ids[w.held.ID]
		switch {
		case w.lost.Load() || p.r.draining() || time.Until(w.claim.deadline()) < p.r.cfg.Lease/4:
			back = append(back, w)
		case twice:
			waiting = append(waiting, w)
		default:
			p.ids[w.held.ID] = struct{}{}
			sending = append(sending, w)
		}
	}
	p.giveBack(back)
	return sending, waiting
}

// giveBack releases works of which nothing is undecided.
func (p *producer) giveBack(works []*work) {
	outcomes := make([]outcome, len(works))
	for i, w := range works {
		outcomes[i] = w.release(0, w.attempts, false, "")
	}
	p.r.workers.submit(outcomes)
}

// judge says what becomes of a work after its piece was sent; settled false: it has more to send.
func (p *producer) judge(ctx context.Context, w *work, sent Run, v Verdict) (o outcome, settled bool) {
	if v.Stored > 0 {
		w.claim.progress()
		p.r.stats.published.Add(int64(v.Stored))
		w.advance(v.Stored)
	}
	if v.Stored == len(sent.Events) {
		v.Err = nil // whatever it was, it did not keep an event out
	}
	switch {
	case v.Err == nil && v.Stored < len(sent.Events):
		v.Err = errors.New("outbox: the sender stopped and did not say why")
	case v.Err == nil && len(w.run.Events) > 0:
		return outcome{}, false
	case v.Err == nil:
		return w.ack(), true
	}
	return p.failed(ctx, w, sent.Events[v.Stored], v), true
}

// failed says how long a work that did not get on stays away, and whether it is parked. Only verdicts
// against the event or the topic count as attempts: an outage never parks anything.
func (p *producer) failed(ctx context.Context, w *work, head Event, v Verdict) outcome {
	class := ClassOf(v.Err)
	p.r.stats.failed[class].Add(1)
	if class == BadWorld {
		switch {
		case errors.Is(v.Err, ErrLeaseEnding):
			return w.release(0, w.attempts, false, "")
		case v.Undecided: // it may still land: nobody touches the record before the lease would have ended
			return w.release(max(0, time.Until(w.claim.deadline())), w.attempts, false, v.Err.Error())
		default:
			return w.release(p.r.health.backoff(), w.attempts, false, v.Err.Error())
		}
	}
	attempts, attemptsMax := w.attempts+1, p.r.cfg.AttemptsMax
	if class == BadTopic {
		attemptsMax *= topicPatience
	}
	park := attempts >= attemptsMax && p.r.policyOf(head.Record.Type) == Park
	if park {
		p.r.stats.parked.Add(1)
	}
	p.logFailed(ctx, head, attempts, park, v.Err)
	return w.release(p.r.backoff(attempts), attempts, park, v.Err.Error())
}

// logFailed says once that an event is not published, and once that its record is parked.
func (p *producer) logFailed(ctx context.Context, head Event, attempts int, parked bool, err error) {
	level, hint := slog.LevelDebug, "it is tried again"
	switch {
	case parked:
		level, hint = slog.LevelWarn, "mend the cause and baton unpark its record, or baton skip the event"
	case attempts == 1:
		level, hint = slog.LevelWarn, "it is tried again, and its later events wait; mend the cause"
	}
	p.r.log.Log(ctx, level, "event not published", "record_type", head.Record.Type, "record_key", head.Record.Key,
		"position", head.Position, "attempts", attempts, "parked", parked, "err", err, "hint", hint)
}

// ack is the outcome of a work that is stored to its end.
func (w *work) ack() outcome {
	return outcome{work: w, isAck: true, ack: lease.Ack{Held: w.held, Last: w.stored}}
}

// release is the outcome of a work that has events left.
func (w *work) release(delay time.Duration, attempts int, park bool, reason string) outcome {
	return outcome{work: w, release: lease.Release{
		Held: w.held, Stored: w.stored, Delay: delay, Attempts: attempts, Park: park, Err: reason,
	}}
}
