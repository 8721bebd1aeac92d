package model

import "fmt"

const attemptsMax = 2 // verdicts against the head event before it is poison

type act string

// step is what happened: who did what, to which position.
type step struct {
	act      act
	writer   bool // who is a writer, not a worker
	who      int  // -1: nobody that the model names
	position uint8
	gap      bool // of the request that landed
}

func (t step) String() string {
	who := ""
	switch {
	case t.who >= 0 && t.writer:
		who = fmt.Sprintf("writer %d: ", t.who+1)
	case t.who >= 0:
		who = fmt.Sprintf("relay %c: ", 'A'+t.who)
	}
	if t.position != 0 {
		return fmt.Sprintf("%s%s %d", who, t.act, t.position)
	}
	return who + string(t.act)
}

type visit func(step, state)

// each calls visit for everything that may happen next in s.
func (m Config) each(s state, visit visit) {
	for i := range s.writers {
		m.writerSteps(s, i, visit)
	}
	for i := range m.Workers {
		m.workerSteps(s, i, visit)
	}
	m.networkSteps(s, visit)
	m.operatorSteps(s, visit)
}

// writerSteps: gate, then number and event, then the row if it is missing; maybe more events; commit or not.
func (m Config) writerSteps(s state, i int, visit visit) {
	w := &s.writers[i]
	do := func(what act, position uint8, next state) {
		visit(step{act: what, writer: true, who: i, position: position}, next)
	}
	before := s
	switch w.phase {
	case noWriter:
		switch {
		case int(s.numbered) == m.Positions:
		case m.has(NumberBeforeGate):
			s.numbered++
			w.phase, w.events = waiting, only(s.numbered)
			do("takes number, without the gate,", s.numbered, s)
		case m.has(WriterReadsRow):
			w.phase, w.sawRow = waiting, s.row.exists
			do("looks for the row", 0, s)
		case !s.gateTaken():
			w.phase = gated
			do("takes the gate", 0, s)
		}
	case waiting:
		if !s.gateTaken() {
			w.phase = gated
			if w.events != 0 {
				w.phase = numbering
			}
			do("takes the gate", 0, s)
		}
	case numbering:
		// ON CONFLICT DO NOTHING: the unique index answers with the present
		missing := !s.row.exists
		if m.has(WriterReadsRow) {
			missing = !w.sawRow
		}
		w.phase, w.inserted = rowed, w.inserted || missing
		do("inserts the row if missing", 0, s)
	case rowed:
		do("commits", 0, s.commit(i))
	}
	s, w = before, &s.writers[i]
	if (w.phase == gated || w.phase == rowed) && int(s.numbered) < m.Positions {
		s.numbered++
		w.phase, w.events = numbering, w.events|only(s.numbered)
		do("takes number", s.numbered, s)
	}
	if before.writers[i].phase != noWriter {
		before.writers[i] = writer{}
		do("rolls back", 0, before)
	}
}

func (s state) commit(i int) state {
	w := s.writers[i]
	s.committed |= w.events
	if w.inserted && !s.row.exists {
		s.row = row{exists: true, next: w.events.lowest()}
	}
	s.writers[i] = writer{}
	return s
}

// networkSteps: requests that nobody waits for land at any later time, or never; leases run out at any
// instant. A lease that is prolonged is one that does not run out: extend needs no step.
func (m Config) networkSteps(s state, visit visit) {
	for kind, requests := range s.late {
		for ; requests != 0; requests &= requests - 1 {
			p := requests.lowest()
			visit(step{act: "a late request lands:", who: -1, position: p, gap: kind == 1}, s.land(p))
			gone := s
			gone.late[kind] &^= only(p)
			visit(step{act: "a late request is dropped:", who: -1, position: p}, gone)
		}
	}
	if s.row.lease == live && !m.has(NoExpiry) {
		s.row.lease = stale
		visit(step{act: "the lease runs out", who: -1}, s)
	}
}

const (
	park   act = "the operator parks the record"
	unpark act = "the operator lets the record go on"
	skip   act = "the operator skips"
)

// operatorSteps: each takes the gate for its short transaction, and fences whoever holds a lease.
func (m Config) operatorSteps(s state, visit visit) {
	if s.gateTaken() {
		return
	}
	fenced := s
	fenced.row.lease, fenced.row.token = unleased, 0
	parked := fenced
	if m.has(ParkKeepsToken) {
		parked = s
	}
	if !s.row.exists {
		parked.row = row{exists: true, next: s.committed.highest() + 1}
	}
	if parked.row.parked = true; !s.row.parked {
		visit(step{act: park, who: -1}, parked)
	}
	if s.row.parked {
		fenced.row.parked, fenced.row.attempts = false, 0
		visit(step{act: unpark, who: -1}, fenced)
	}
	waiting := s.committed.from(max(s.row.next, 1))
	if !s.row.exists || waiting == 0 {
		return
	}
	skipped := fenced
	if m.has(SkipKeepsToken) {
		skipped = s
	}
	skipped.row.parked = false
	visit(step{act: skip, who: -1, position: waiting.lowest()}, m.giveUp(skipped, waiting.lowest()))
}
