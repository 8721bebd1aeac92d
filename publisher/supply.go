package publisher

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sethvargo/go-retry"
)

const (
	openPause    = 100 * time.Millisecond // before a producer is opened again, doubled each time
	openPauseMax = 2 * time.Second
	// calmAfter is how long a producer must have lived for the pauses to begin afresh.
	calmAfter = 10 * time.Second
	// leaveAfter bounds the end of what was cut off.
	leaveAfter = 2 * time.Second
)

// supply has one producer at a time, opened when it is needed first. A dead broker does not make it spin.
type supply struct {
	config Config
	lone   bool

	mu      sync.Mutex
	closed  bool
	current *generation
	ending  map[*generation]struct{}
	opening chan struct{} // non-nil while somebody opens
	pauses  retry.Backoff
	due     time.Duration // the pause between the last opening and the next
	notYet  time.Time     // no opening before
	err     error         // of the last opening
}

func newSupply(c Config, lone bool) *supply {
	s := &supply{config: c, lone: lone, ending: map[*generation]struct{}{}}
	s.calm()
	return s
}

// calm begins the pauses afresh.
func (s *supply) calm() {
	b := retry.WithCappedDuration(openPauseMax, retry.NewExponential(openPause))
	s.pauses = retry.WithJitterPercent(20, b)
	s.due, _ = s.pauses.Next()
}

// pause returns the pause that is due after an opening, and makes the next one longer. lived is how long the producer
// worked.
func (s *supply) pause(lived time.Duration) time.Duration {
	if lived > calmAfter {
		s.calm()
	}
	due := s.due
	s.due, _ = s.pauses.Next()
	return due
}

// acquire returns the current producer, which must be let go by users.Done, and opens one if there is none.
func (s *supply) acquire(ctx context.Context, topic string) (*generation, error) {
	for {
		s.mu.Lock()
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, ErrClosed
		case s.current != nil:
			defer s.mu.Unlock()
			s.current.users.Add(1)
			return s.current, nil
		case s.opening != nil:
			opening := s.opening
			s.mu.Unlock()
			select {
			case <-opening:
			case <-ctx.Done():
				return nil, fmt.Errorf("publisher: open producer: %w", ctx.Err())
			}
		case time.Now().Before(s.notYet):
			defer s.mu.Unlock()
			return nil, fmt.Errorf("publisher: next try to open a producer in %v: %w",
				time.Until(s.notYet).Round(time.Millisecond), s.err)
		default:
			s.opening = make(chan struct{})
			s.mu.Unlock()
			if err := s.open(ctx, topic); err != nil {
				return nil, err
			}
		}
	}
}

func (s *supply) open(ctx context.Context, topic string) error {
	g, err := open(ctx, s.config, s.lone, topic)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.opening)
	s.opening = nil
	if err != nil {
		s.err = err
		s.notYet = time.Now().Add(s.pause(0))
		return err
	}
	s.current = g
	if s.closed {
		s.drop(g, (*generation).end)
	}
	return nil
}

// replace ends a producer that does not work any more; sends that use it finish. One that was opened just now is
// kept, or a partition without a leader would cost everybody else a new producer at every try.
func (s *supply) replace(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := time.Since(g.born)
	if s.current != g || age < s.due {
		return
	}
	s.pause(age)
	s.drop(g, (*generation).end)
}

// abandon cuts a silent producer off: what waits in it must not go out later than can be helped. Everybody's
// messages in it become undecided.
func (s *supply) abandon(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == g {
		s.err = ErrSilence
		s.notYet = g.born.Add(s.pause(time.Since(g.born)))
	}
	s.drop(g, (*generation).cut)
}

func (s *supply) drop(g *generation, how func(*generation)) {
	if s.current == g {
		s.current = nil
	}
	how(g)
	if _, known := s.ending[g]; known {
		return
	}
	s.ending[g] = struct{}{}
	go func() {
		<-g.gone
		s.mu.Lock()
		delete(s.ending, g)
		s.mu.Unlock()
	}()
}

// close ends the producer and waits for it until done; then it cuts, waits a moment more, and leaves.
func (s *supply) close(done <-chan struct{}) error {
	s.mu.Lock()
	s.closed = true
	if s.current != nil {
		s.drop(s.current, (*generation).end)
	}
	var all []*generation
	for g := range s.ending {
		all = append(all, g)
	}
	s.mu.Unlock()
	left := 0
	for _, g := range all {
		select {
		case <-g.gone:
			continue
		case <-done:
			g.cut()
		}
		select {
		case <-g.gone:
		case <-time.After(leaveAfter):
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("publisher: close: %d producers did not end, left them", left)
	}
	return nil
}
