package trial_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/outbox"
)

// place is where in a flush to the database a relay freezes.
type place int

const (
	before place = iota // nothing of it has left
	within              // the server has all but the end of the transaction: a broken network can do that
	after               // all of it has left, the answer is not read
)

func (p place) String() string { return [...]string{"before", "within", "after"}[p] }

// point is where a relay freezes: at a flush with a piece of SQL in it, or after so many writes, reads
// or bytes read, all connections to the database together. The zero point is nowhere.
type point struct {
	sql   string
	place place

	writes, reads, bytes int

	mode   pgx.QueryExecMode
	change func(*outbox.RelayConfig)
	slow   time.Duration // of each write of events to Kafka
}

func (p point) String() string {
	switch {
	case p.sql != "":
		return fmt.Sprintf("%v %q", p.place, p.sql)
	case p.writes > 0:
		return fmt.Sprintf("%v write %d", p.place, p.writes)
	case p.reads > 0:
		return fmt.Sprintf("after read %d", p.reads)
	case p.bytes > 0:
		return fmt.Sprintf("after %d bytes read", p.bytes)
	}
	return "nowhere"
}

// freezer stops all traffic of one relay, to the database and to Kafka, at a point, as a stopped
// process does: the sockets stay open, and nobody reads them. Deadlines do not end the wait.
type freezer struct {
	at             point
	frozen, thawed chan struct{}
	freezes        sync.Once

	mu                   sync.Mutex
	writes, reads, bytes int
}

func newFreezer(at point) *freezer {
	return &freezer{at: at, frozen: make(chan struct{}), thawed: make(chan struct{})}
}

func (f *freezer) freeze() { f.freezes.Do(func() { close(f.frozen) }) }

// thaw lets everything go on, once.
func (f *freezer) thaw() { close(f.thawed) }

// pass waits while frozen.
func (f *freezer) pass() {
	select {
	case <-f.frozen:
		<-f.thawed
	default:
	}
}

// cut says whether to freeze in this flush, and how many of its bytes leave before.
func (f *freezer) cut(b []byte) (n int, freeze bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	if f.at.sql != "" {
		freeze = bytes.Contains(b, []byte(f.at.sql))
	} else {
		freeze = f.writes == f.at.writes
	}
	switch f.at.place {
	case before:
		return 0, freeze
	case within:
		return unfinished(b), freeze
	}
	return len(b), freeze
}

// unfinished is how much of a flush makes the server do everything but end the transaction: up to the
// message that prepares COMMIT, or without the Sync that ends a single statement.
func unfinished(b []byte) int {
	if i := bytes.LastIndex(b, []byte("\x00commit\x00")); i >= 5 {
		return i - 5
	}
	return max(0, len(b)-5)
}

// count notes a read, and freezes after the one that is the point's.
func (f *freezer) count(n int) {
	f.mu.Lock()
	f.reads++
	f.bytes += n
	reached := f.at.reads > 0 && f.reads == f.at.reads || f.at.bytes > 0 && f.bytes >= f.at.bytes
	f.mu.Unlock()
	if reached {
		f.freeze()
	}
}

func (f *freezer) dialDatabase(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := f.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(32 << 10); err != nil { // little of what the server says fits
		return nil, err
	}
	return &databaseConn{coldConn{conn, f}}, nil
}

func (f *freezer) dialKafka(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := f.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &coldConn{conn, f}, nil
}

func (f *freezer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	f.pass()
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// coldConn is a real connection that can freeze.
type coldConn struct {
	net.Conn
	f *freezer
}

func (c *coldConn) Read(b []byte) (int, error) {
	c.f.pass()
	n, err := c.Conn.Read(b)
	c.f.pass() // frozen while it waited
	return n, err
}

func (c *coldConn) Write(b []byte) (int, error) {
	if c.f.at.slow > 0 && len(b) > 4<<10 {
		time.Sleep(c.f.at.slow)
	}
	c.f.pass()
	return c.Conn.Write(b)
}

func (c *coldConn) Close() error {
	c.f.pass()
	return c.Conn.Close()
}

// databaseConn is a coldConn that freezes at the point.
type databaseConn struct{ coldConn }

func (c *databaseConn) Read(b []byte) (int, error) {
	c.f.pass()
	n, err := c.Conn.Read(b)
	c.f.count(n)
	c.f.pass()
	return n, err
}

func (c *databaseConn) Write(b []byte) (int, error) {
	c.f.pass()
	cut, freeze := c.f.cut(b)
	if !freeze {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:cut])
	c.f.freeze()
	c.f.pass()
	if err != nil {
		return n, err
	}
	m, err := c.Conn.Write(b[cut:])
	return n + m, err
}
