package trial_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
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
	slow   bool // the last events leave for Kafka slowly
}

// flush is a point in a flush with this piece of SQL in it. It takes the mode that sends SQL each time.
func flush(sql string, at place) point {
	return point{sql: sql, place: at, mode: pgx.QueryExecModeExec}
}

func (p point) with(change func(*outbox.RelayConfig)) point {
	p.change = change
	return p
}

// payload is how large each event of the backlog is, and events how many a record has: 8 MB in all.
func (p point) payload() int { return frozenBytes / frozenRecords / p.events() }
func (p point) events() int {
	if p.slow {
		return slowEvents
	}
	return 5
}

func (p point) slowly() point {
	p.slow = true
	return p
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

// points is every place at which the test freezes a relay, and nowhere, to compare with.
func points() []point {
	list := []point{{}}
	for _, at := range []place{before, within, after} {
		list = append(list,
			flush("first_pass as materialized", at), // the claim
			flush("c(id, first, last)", at),         // the events' payloads
			flush("token, busy from", at),           // the ack
			// a claim of few bytes gives the other records back
			flush("released as", at).with(func(c *outbox.RelayConfig) { c.ClaimBytes = outbox.PayloadBytesMax }),
			// a slow broker keeps a claim in hand, and on the move, until it is extended
			flush("r.locked_until > clock_timestamp()", at).slowly().
				with(func(c *outbox.RelayConfig) { c.Lease = 3 * frozenLease }))
	}
	list = append(list, flush("pg_control_system", before), flush("on conflict (id) do update", within), // the heartbeat
		flush("pg_terminate_backend", within), flush("coalesce(wrapped", within)) // retention
	for _, n := range []int{10_000, 1_000_000, 3_000_000, 7_000_000} {
		list = append(list, point{bytes: n})
	}
	list = append(list, point{writes: 5, place: after}, point{writes: 14, place: after}, point{reads: 9}, point{reads: 20})
	return append(slices.Insert(list, len(list)/2, point{}), point{}) // the machine's load may change
}

// freezer stops all traffic of one relay, to the database and to Kafka, at a point, as a stopped
// process does: the sockets stay open, and nobody reads them. Deadlines do not end the wait.
type freezer struct {
	at             point
	frozen, thawed chan struct{}
	freezes        sync.Once

	mu                   sync.Mutex
	writes, reads, bytes int
	sent                 int // to Kafka
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

// delay says whether a write to Kafka is a slow one. The first piece of each record, 16 events, is not.
func (f *freezer) delay(n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent += n
	return f.at.slow && f.sent > frozenRecords*slowEvents*f.at.payload()*8/10
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
	if c.f.delay(len(b)) {
		time.Sleep(slowWrite)
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
