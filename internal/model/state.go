// Package model walks every state that one record can reach: its events, its row that comes and goes,
// writers with the gate, relays with leases, a network that holds requests back, operators, crashes.
//
// In every state and on every step it holds the properties of properties.go against what it sees, and
// at the end it looks whether each state has a way to everything being published. The search is
// exhaustive for its few events and relays, and breadth first, so a counterexample is a shortest one.
//
// It proves the rules, not the code: that SQL and Go keep them is for the storm and the chaos tests.
// Time, payloads, batches of several records and PostgreSQL's own failures are not in it.
//
//	state.go       what a state is, and its encoding in 128 bits
//	steps.go       what may happen next: writers, the network, operators
//	relay.go       the same for what relays do
//	bugs.go        which rules can be broken on purpose
//	properties.go  what must hold
//	search.go      the walk, and the way back from a violation
package model

import (
	"math/bits"
	"slices"
)

const (
	positionsMax = 4
	workersMax   = 3
	writersMax   = 2
)

// set is a set of positions. Position p, from 1, is bit p-1.
type set uint8

func only(p uint8) set          { return 1 << (p - 1) }
func below(p uint8) set         { return only(p) - 1 }
func (s set) lowest() uint8     { return uint8(bits.TrailingZeros8(uint8(s))) + 1 }
func (s set) highest() uint8    { return uint8(bits.Len8(uint8(s))) }
func (s set) from(p uint8) set  { return s &^ below(p) }
func (s set) without(o set) set { return s &^ o }

// state is everything about one record at one moment.
//
// The log is kept as the set of positions in it: whether a copy is the first one, and what a consumer
// with one integer makes of it, hangs on no more. Requests whose sender waits no longer are kept as
// sets too, one for those that carry a gap header: such a request may land any number of times or never,
// which is every multiset of them at once.
type state struct {
	numbered  uint8 // the sequence: the last position handed out
	committed set
	skipped   set // given up on purpose
	gaps      set // skipped, and no event after it is known to have said so
	log       set
	late      [2]set // requests in the network: without a gap header, with one
	row       row
	writers   [writersMax]writer
	workers   [workersMax]worker
}

type lease uint8

const (
	unleased lease = iota
	live
	stale // ran out; the token still stands
)

// row is the record's row in the outbox. All is zero while there is none.
type row struct {
	exists   bool
	next     uint8 // next_position
	lease    lease
	token    uint8 // 0: null
	parked   bool
	attempts uint8
}

type writing uint8

const (
	noWriter writing = iota
	waiting          // for the gate; only the planted bugs do something before it
	gated            // from here to the end of the transaction the writer holds the gate
	numbering
	rowed // the row is there, or was
)

// writer is one open transaction that adds events to the record.
type writer struct {
	phase    writing
	events   set
	inserted bool // the row is its own, and nobody else sees it yet
	sawRow   bool // for a planted bug
}

type working uint8

const (
	idle        working = iota
	claiming            // the claim's statement has its snapshot, and not yet the row
	reading             // the claim is committed; payloads and gap are not read yet
	holding             // sends what it claimed
	looked              // ack: saw nothing newer
	gateHeld            // ack: and got the gate
	moving              // ack: will not delete the row, but move it
	movingGated         // the same, with the gate
)

// worker is one claim in some relay: from its first statement to its last.
type worker struct {
	phase  working
	token  uint8
	events set   // claiming: what the snapshot shows. later: claimed and not yet known stored
	sent   set   // requests in the network that this worker waits for
	stored uint8 // the last position that needs no sending, as far as it knows
	gap    bool  // the next event that it sends says that one before it was skipped
}

// gateTaken reports whether the record's gate is held by a writer, or by an ack in a relay.
func (s *state) gateTaken() bool {
	for i := range s.writers {
		if s.writers[i].phase >= gated {
			return true
		}
	}
	for i := range s.workers {
		if s.workers[i].phase == gateHeld || s.workers[i].phase == movingGated {
			return true
		}
	}
	return false
}

// freshToken is one that nobody has or had.
func (s *state) freshToken() uint8 {
	top := s.row.token
	for i := range s.workers {
		top = max(top, s.workers[i].token)
	}
	return top + 1
}

// key is a state in canonical form: which worker is which does not matter, nor what tokens are, only
// whether they are the row's. Requests for what is in the log are left out: landing, they change nothing.
type key [2]uint64

// canonical returns the state that stands for s and all that differ in names only.
func (s state) canonical() state {
	for i := range s.workers {
		w := &s.workers[i]
		switch {
		case w.token == 0:
		case w.token == s.row.token:
			w.token = 1
		default:
			w.token = 2
		}
	}
	s.row.token = min(s.row.token, 1)
	for i := range s.late {
		s.late[i] &^= s.log
	}
	// the idle last: fewer workers than the array holds stay at its front
	slices.SortFunc(s.workers[:], func(a, b worker) int { return int(b.rank()) - int(a.rank()) })
	slices.SortFunc(s.writers[:], func(a, b writer) int { return int(b.rank()) - int(a.rank()) })
	return s
}

func (w *worker) rank() uint32 {
	var c coder
	w.code(&c)
	return uint32(c.key[0])
}

func (w *writer) rank() uint32 {
	var c coder
	w.code(&c)
	return uint32(c.key[0])
}

func encode(s state) key {
	s = s.canonical()
	var c coder
	s.code(&c)
	return c.key
}

func decode(k key) (s state) {
	s.code(&coder{key: k, decoding: true})
	return s
}

// coder packs fields into a key, or takes them out again: one list of fields serves both.
type coder struct {
	key      key
	at       uint
	decoding bool
}

func (c *coder) bits(v *uint8, width uint) {
	if c.at%64+width > 64 {
		c.at += 64 - c.at%64 // no field lies across the two words
	}
	word, shift := &c.key[c.at/64], c.at%64
	if c.decoding {
		*v = uint8(*word >> shift & (1<<width - 1))
	} else {
		if *v >= 1<<width {
			panic("model: a field does not fit its bits")
		}
		*word |= uint64(*v) << shift
	}
	c.at += width
}

func (c *coder) flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	c.bits(&b, 1)
	*v = b == 1
}

func (c *coder) set(v *set) { c.bits((*uint8)(v), positionsMax) }

func (s *state) code(c *coder) {
	c.bits(&s.numbered, 3)
	for _, v := range []*set{&s.committed, &s.skipped, &s.gaps, &s.log, &s.late[0], &s.late[1]} {
		c.set(v)
	}
	c.flag(&s.row.exists)
	c.bits(&s.row.next, 3)
	c.bits((*uint8)(&s.row.lease), 2)
	c.bits(&s.row.token, 1)
	c.flag(&s.row.parked)
	c.bits(&s.row.attempts, 1)
	for i := range s.writers {
		s.writers[i].code(c)
	}
	for i := range s.workers {
		s.workers[i].code(c)
	}
}

func (w *writer) code(c *coder) {
	c.bits((*uint8)(&w.phase), 3)
	c.set(&w.events)
	c.flag(&w.inserted)
	c.flag(&w.sawRow)
}

func (w *worker) code(c *coder) {
	c.bits((*uint8)(&w.phase), 3)
	c.bits(&w.token, 2)
	c.set(&w.events)
	c.set(&w.sent)
	c.bits(&w.stored, 3)
	c.flag(&w.gap)
}
