package publisher

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// wave is messages that are in sarama's hands together, one of each run. It is used once: a verdict that comes when
// nobody waits any more finds its own letter, and nothing else.
type wave struct {
	letters  []letter
	began    time.Time
	waiting  atomic.Int64 // letters without an answer, and one for the hand that gives them out
	answered chan struct{}
}

// letter is one message and its answer.
type letter struct {
	wave    *wave
	run     int
	message sarama.ProducerMessage
	key     sarama.ByteEncoder
	value   sarama.ByteEncoder
	handed  bool
	err     error // written before done
	done    atomic.Bool
}

type outcome int

const (
	unsent outcome = iota
	unanswered
	refused
	stored
)

func newWave(letters int) *wave {
	return &wave{letters: make([]letter, 0, letters), began: time.Now(), answered: make(chan struct{})}
}

// add gives the next letter, whose address stays.
func (w *wave) add(run int) *letter {
	w.letters = w.letters[:len(w.letters)+1]
	l := &w.letters[len(w.letters)-1]
	l.wave, l.run = w, run
	return l
}

// answer is called by a reader, once for each letter that was handed over.
func (l *letter) answer(err error) {
	l.err = err
	l.done.Store(true)
	l.wave.settled(1)
}

func (w *wave) settled(n int) {
	if w.waiting.Add(int64(-n)) == 0 {
		close(w.answered)
	}
}

func (l *letter) outcome() outcome {
	switch {
	case !l.handed:
		return unsent
	case !l.done.Load():
		return unanswered
	case l.err != nil:
		return refused
	default:
		return stored
	}
}

// send hands the letters over and waits for all answers, until ctx ends or the producer is abandoned. It reports
// whether sarama stood still or an answer is missing.
func (w *wave) send(ctx context.Context, g *generation) (silent bool) {
	w.waiting.Store(int64(len(w.letters)) + 1)
	handed := w.hand(ctx, g)
	w.settled(len(w.letters) - handed + 1)
	select {
	case <-w.answered:
	case <-g.abandoned:
		return true
	case <-ctx.Done():
		return true
	}
	return handed < len(w.letters)
}

// hand returns how many letters it handed over: all, unless sarama stands still.
func (w *wave) hand(ctx context.Context, g *generation) int {
	input := g.producer.Input()
	for k := range w.letters {
		l := &w.letters[k]
		l.handed = true // before: the answer may be there first
		select {
		case input <- &l.message:
		case <-g.abandoned:
			l.handed = false
			return k
		case <-ctx.Done():
			l.handed = false
			return k
		}
	}
	return len(w.letters)
}
