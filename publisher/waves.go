package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/batonrelay/baton/outbox"
)

// Waves is the outbox.EventSender that sends in waves: the next event of every run at once, then, when all verdicts
// are there, the one after. A run that failed stays behind, the others go on.
type Waves struct {
	config  Config
	batched *supply
	// lone puts every message into a batch of its own: it finds out which one a refused batch was refused for.
	lone *supply
}

var _ outbox.EventSender = (*Waves)(nil)

// NewWaves checks the configuration. It connects to nothing: Send does, and says so when no broker answers.
func NewWaves(c Config) (*Waves, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Waves{config: c, batched: newSupply(c, false), lone: newSupply(c, true)}, nil
}

// Send implements outbox.EventSender. When a wave is silent up to its deadline (SendTimeout, ctx or the end of one of
// its leases), the producer is cut off, with what other calls have in it, and the next wave gets a new one.
func (w *Waves) Send(ctx context.Context, runs []outbox.Run) []outbox.Verdict {
	s := &sending{Waves: w, runs: runs, verdicts: make([]outbox.Verdict, len(runs)), routes: make([]Route, len(runs))}
	for i := range runs {
		s.begin(i)
	}
	for len(s.next) > 0 || len(s.suspects) > 0 {
		wave := s.next
		s.next = nil
		s.wave(ctx, w.batched, wave)
		suspects := s.suspects
		s.suspects = nil
		s.wave(ctx, w.lone, suspects)
	}
	return s.verdicts
}

// Close ends within about SendTimeout. Sends must have returned, or return ErrClosed.
func (w *Waves) Close() error {
	done := make(chan struct{})
	timer := time.AfterFunc(w.config.SendTimeout, func() { close(done) })
	defer timer.Stop()
	return w.close(done)
}

// CloseCtx is Close with a deadline of the caller's. A little after it, it leaves whatever has not ended.
func (w *Waves) CloseCtx(ctx context.Context) error { return w.close(ctx.Done()) }

func (w *Waves) close(done <-chan struct{}) error {
	return errors.Join(w.batched.close(done), w.lone.close(done))
}

// sending is one call of Send. verdicts[i].Stored is also the index of run i's next event.
type sending struct {
	*Waves
	runs     []outbox.Run
	verdicts []outbox.Verdict
	routes   []Route
	next     []int // runs of the next wave
	suspects []int // runs whose event was refused in a batch, and goes again alone
}

func (s *sending) begin(i int) {
	if len(s.runs[i].Events) == 0 {
		return
	}
	route, err := s.config.Routes.For(s.runs[i].Events[0].Record.Type)
	if err != nil {
		s.stop(i, err)
		return
	}
	s.routes[i] = route
	s.next = append(s.next, i)
}

// wave sends one event of each run.
func (s *sending) wave(ctx context.Context, supply *supply, runs []int) {
	deadline := time.Now().Add(s.config.SendTimeout)
	runs = s.leased(runs, &deadline)
	if len(runs) == 0 {
		return
	}
	if err := ctx.Err(); err != nil { // between waves nothing is in flight, and so nothing undecided
		s.stopAll(runs, fmt.Errorf("%w: %w", ErrNotSent, err))
		return
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	g, err := supply.acquire(ctx, s.routes[runs[0]].Topic)
	if err != nil {
		s.stopAll(runs, err)
		return
	}
	defer g.users.Done()
	runs, silent := s.routed(ctx, g, runs)
	wave := s.write(runs)
	if silent = wave.send(ctx, g) || silent; silent {
		supply.abandon(g)
	}
	if s.settle(wave, supply.lone) {
		supply.replace(g)
	}
}

// leased stops the runs whose lease ends too soon, and brings the deadline before the end of the others'.
func (s *sending) leased(runs []int, deadline *time.Time) []int {
	good := runs[:0]
	for _, i := range runs {
		end := s.runs[i].Deadline
		if time.Until(end) < s.config.Lease/4 {
			s.stop(i, ErrLeaseEnding)
			continue
		}
		if end.Before(*deadline) {
			*deadline = end
		}
		good = append(good, i)
	}
	return good
}

// routed stops the runs whose topic does not exist. It reports whether the brokers did not say.
func (s *sending) routed(ctx context.Context, g *generation, runs []int) (good []int, silent bool) {
	asked := "" // most neighbours share a topic
	for _, i := range runs {
		if topic := s.routes[i].Topic; topic != asked {
			g.ask(topic)
			asked = topic
		}
	}
	good, known := runs[:0], ""
	for _, i := range runs {
		topic := s.routes[i].Topic
		if topic != known {
			if err := g.exists(ctx, topic); err != nil {
				silent = silent || errors.Is(err, ErrNotSent)
				s.fail(i, err, true)
				continue
			}
			known = topic
		}
		good = append(good, i)
	}
	return good, silent
}

// write makes the wave's messages.
func (s *sending) write(runs []int) *wave {
	wave := newWave(len(runs))
	press := newPress(s.config.Source, len(runs))
	for _, i := range runs {
		run := &s.runs[i]
		k := s.verdicts[i].Stored
		event := &run.Events[k]
		headers, err := press.head(run, k)
		if err != nil {
			s.stop(i, err)
			continue
		}
		l := wave.add(i)
		l.key = press.key(s.routes[i].Key, event.Record)
		l.value = event.Payload // nil stays nil: a NULL value
		l.message = sarama.ProducerMessage{
			Topic: s.routes[i].Topic, Key: &l.key, Value: &l.value, Headers: headers, Metadata: l,
		}
	}
	return wave
}

// settle turns answers into verdicts. It reports whether one of them asks for a new producer.
func (s *sending) settle(wave *wave, lone bool) (rebuild bool) {
	for k := range wave.letters {
		l := &wave.letters[k]
		switch v := &s.verdicts[l.run]; l.outcome() {
		case stored:
			if v.Stored++; v.Stored < len(s.runs[l.run].Events) {
				s.next = append(s.next, l.run)
			}
		case refused:
			rebuild = s.fail(l.run, l.err, lone) || rebuild
		case unanswered:
			v.Undecided = true
			s.stop(l.run, fmt.Errorf("%w after %v", ErrSilence, time.Since(wave.began).Round(time.Millisecond)))
		case unsent:
			s.stop(l.run, ErrNotSent)
		}
	}
	return rebuild
}

// fail judges an error by the table.
func (s *sending) fail(i int, err error, lone bool) (rebuild bool) {
	f := faultOf(err)
	if f.alone && !lone {
		s.suspects = append(s.suspects, i)
		return false
	}
	s.verdicts[i].Undecided = f.undecided
	if f.cure != "" {
		err = fmt.Errorf("%w (%s)", err, f.cure)
	}
	if f.class != outbox.BadWorld {
		err = &outbox.ClassError{Class: f.class, Err: err}
	}
	s.stop(i, err)
	return f.rebuild
}

// stop ends a run with an error that names the event.
func (s *sending) stop(i int, err error) {
	event := &s.runs[i].Events[s.verdicts[i].Stored]
	topic := s.routes[i].Topic
	if topic == "" {
		topic = "none"
	}
	s.verdicts[i].Err = fmt.Errorf("publisher: send %s %q position %d to topic %s: %w",
		event.Record.Type, event.Record.Key, event.Position, topic, err)
}

func (s *sending) stopAll(runs []int, err error) {
	for _, i := range runs {
		s.stop(i, err)
	}
}
