package publisher

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// missingFor is how long a topic that does not exist is believed not to.
const missingFor = time.Second

// generation is one sarama producer from its birth to its end. It is never repaired: when something is wrong with it,
// the next one takes over, and what the old one still says is heard by nobody.
type generation struct {
	conns    *conns
	client   sarama.Client
	producer sarama.AsyncProducer
	born     time.Time
	grace    time.Duration // for the end

	users     sync.WaitGroup // sends that use it: it ends after the last one, since sarama closes its input
	readers   sync.WaitGroup
	abandoned chan struct{}
	abandon1  sync.Once
	end1      sync.Once
	gone      chan struct{}

	mu     sync.Mutex
	topics map[string]*lookup
}

// lookup is one question whether a topic exists.
type lookup struct {
	done  chan struct{}
	ended time.Time
	err   error
}

// open connects, and asks for a producer id. ctx bounds the opening only. topic is any that will be used: asking
// for it teaches sarama the cluster and leads it past seeds that are dead.
func open(ctx context.Context, c Config, lone bool, topic string) (*generation, error) {
	g := &generation{
		conns: newConns(ctx, c), born: time.Now(), grace: c.SendTimeout,
		abandoned: make(chan struct{}), gone: make(chan struct{}), topics: map[string]*lookup{},
	}
	stop := context.AfterFunc(ctx, g.conns.cut)
	err := g.connect(c, lone, topic)
	if !stop() && err == nil {
		err = ctx.Err() // too late: the connections are cut
		g.end()
		return nil, fmt.Errorf("publisher: open producer: %w", err)
	}
	if err != nil {
		g.conns.cut()
		return nil, fmt.Errorf("publisher: open producer on %v: %w", c.Brokers, err)
	}
	return g, nil
}

func (g *generation) connect(c Config, lone bool, topic string) (err error) {
	if g.client, err = sarama.NewClient(c.Brokers, c.producer(g.conns, lone)); err != nil {
		return err
	}
	err = g.client.RefreshMetadata(topic)
	if len(g.client.Brokers()) > 0 { // what is wrong with a topic is that topic's matter
		g.producer, err = sarama.NewAsyncProducerFromClient(g.client)
	}
	if err != nil {
		_ = g.client.Close()
		return err
	}
	g.readers.Go(g.readStored)
	g.readers.Go(g.readRefused)
	return nil
}

// The readers only move verdicts to where they belong: sarama stands still when its channels are not read.

func (g *generation) readStored() {
	for message := range g.producer.Successes() {
		message.Metadata.(*letter).answer(nil)
	}
}

func (g *generation) readRefused() {
	for refused := range g.producer.Errors() {
		refused.Msg.Metadata.(*letter).answer(refused.Err)
	}
}

// ask finds out whether a topic exists, before any of its messages is in sarama's hands: there it would hold up other
// topics' and open a circuit breaker. It waits for nothing. The answer "yes" is kept, "no" is asked again after a
// second.
func (g *generation) ask(topic string) *lookup {
	g.mu.Lock()
	defer g.mu.Unlock()
	look := g.topics[topic]
	if look == nil || look.stale() {
		look = &lookup{done: make(chan struct{})}
		g.topics[topic] = look
		g.users.Go(func() { look.run(g.client, topic) })
	}
	return look
}

// exists waits for the answer to ask. ErrNotSent: there was none.
func (g *generation) exists(ctx context.Context, topic string) error {
	look := g.ask(topic)
	select {
	case <-look.done:
		return look.err
	case <-g.abandoned:
		return ErrNotSent
	case <-ctx.Done():
		return ErrNotSent
	}
}

func (l *lookup) run(client sarama.Client, topic string) {
	defer close(l.done)
	_, l.err = client.Partitions(topic)
	l.ended = time.Now()
}

func (l *lookup) stale() bool {
	select {
	case <-l.done:
		return l.err != nil && time.Since(l.ended) > missingFor
	default:
		return false
	}
}

// cut abandons the producer at once: its connections are gone, and so is what waits in it.
func (g *generation) cut() {
	g.abandon1.Do(func() {
		close(g.abandoned)
		g.conns.cut()
	})
	g.end()
}

// end lets the producer finish what was handed over, and closes it, in the background and within the grace.
func (g *generation) end() {
	g.end1.Do(func() {
		late := time.AfterFunc(g.grace, g.conns.cut)
		go func() {
			defer close(g.gone)
			defer late.Stop()
			g.users.Wait()
			g.producer.AsyncClose()
			g.readers.Wait()
			_ = g.client.Close()
			g.conns.cut()
		}()
	})
}
