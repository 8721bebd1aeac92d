package publisher

import (
	"context"
	"net"
	"sync"
)

// conns is every connection of one sarama client. Cutting them ends whatever sarama waits for, for good: its own
// Close waits for answers, on a half-open broker longer than anybody would.
type conns struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	ctx    context.Context // ends when cut: a dialler is called without one
	cancel context.CancelFunc

	mu   sync.Mutex
	open map[*conn]struct{} // nil when cut
}

type conn struct {
	net.Conn
	of *conns
}

// newConns outlives ctx: whoever opens a client is only the first of its users.
func newConns(ctx context.Context, c Config) *conns {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: c.SendTimeout / 2}).DialContext
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	return &conns{dial: dial, ctx: ctx, cancel: cancel, open: map[*conn]struct{}{}}
}

// Dial is sarama's way to a broker.
func (c *conns) Dial(network, address string) (net.Conn, error) {
	raw, err := c.dial(c.ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	tracked := &conn{Conn: raw, of: c}
	c.open[tracked] = struct{}{}
	return tracked, nil
}

// Close forgets the connection.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// cut closes everything and lets nothing be opened again. It may be called twice.
func (c *conns) cut() {
	c.cancel()
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for conn := range open {
		_ = conn.Conn.Close()
	}
}
