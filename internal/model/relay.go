package model

// workerSteps: claim, read, send what the order lemma allows, then ack or release; a crash at any point.
func (m Config) workerSteps(s state, i int, visit visit) {
	do := func(what act, position uint8, next state) {
		visit(step{act: what, who: i, position: position}, next)
	}
	switch s.workers[i].phase {
	case idle:
		m.beginClaim(s, i, do)
		return
	case claiming:
		m.claim(s, i, do)
	case reading:
		m.read(s, i, do)
		m.release(s, i, do) // also the answer of a claim may be lost: then all of it is released
	case holding:
		m.send(s, i, visit)
		if s.workers[i].sent == 0 && s.workers[i].events != 0 {
			m.release(s, i, do)
		}
	default:
	}
	m.ack(s, i, do)
	if m.has(StaleExtended) && s.row.lease == stale && s.workers[i].token == s.row.token {
		next := s
		next.row.lease = live
		do("extends its stale lease", 0, next)
	}
	do("crashes", 0, s.forget(i))
}

type do func(what act, position uint8, next state)

// forget ends worker i. What it sent stays in the network.
func (s state) forget(i int) state {
	w := &s.workers[i]
	for sent := w.sent; sent != 0; sent &= sent - 1 {
		s = s.leave(i, sent.lowest())
	}
	s.workers[i] = worker{}
	return s
}

// leave makes the request for p one that nobody waits for.
func (s state) leave(i int, p uint8) state {
	w := &s.workers[i]
	w.sent &^= only(p)
	kind := 0
	if w.says(p) {
		kind = 1
	}
	s.late[kind] |= only(p)
	return s
}

// says reports whether the request for p carries the gap header: a run's first event does.
func (w *worker) says(p uint8) bool { return w.gap && p == w.events.lowest() }

// beginClaim: the statement takes its snapshot. Without a due row in it there is nothing to lock.
func (m Config) beginClaim(s state, i int, do do) {
	if !m.due(&s) {
		return
	}
	w := &s.workers[i]
	w.phase, w.events = claiming, s.committed
	if m.has(ClaimReadsOpen) {
		for j := range s.writers {
			w.events |= s.writers[j].events
		}
	}
	w.gap = m.has(GapInClaim) && s.gaps != 0
	do("starts a claim", 0, s)
}

func (m Config) due(s *state) bool {
	return s.row.exists && !s.row.parked && (s.row.lease != live || m.has(LeaseIgnored|TailClaimed))
}

// claim: the row is locked and every predicate checked on its newest version; the events, though, are
// those of the older snapshot. A claim may take a part of them, and none.
func (m Config) claim(s state, i int, do do) {
	w := &s.workers[i]
	if !m.due(&s) {
		s.workers[i] = worker{}
		do("finds nothing due", 0, s)
		return
	}
	events := w.events.from(s.row.next)
	if m.has(TailClaimed) && s.row.lease == live && events != 0 {
		events = events.without(only(events.lowest()))
	}
	token := s.freshToken()
	if m.has(TokenKept) && s.row.token != 0 {
		token = s.row.token
	}
	s.row.lease, s.row.token = live, token
	w.phase, w.token, w.events, w.stored = reading, token, events, s.row.next-1
	if events == 0 {
		do("claims, and sees no event", 0, s)
		return
	}
	do("claims up to", events.highest(), s)
	if head := only(events.lowest()); head != events {
		w.events = head
		do("claims only", head.lowest(), s)
	}
}

// read: payloads, and the gap before the first of them, in a snapshot newer than the claim.
func (m Config) read(s state, i int, do do) {
	w := &s.workers[i]
	w.phase = holding
	if !m.has(GapInClaim) {
		w.gap = w.events != 0 && s.gaps&below(w.events.lowest()) != 0
	}
	do("reads what it claimed", 0, s)
}

// send: the order lemma, and the broker's three answers: stored, silence, no.
func (m Config) send(s state, i int, visit visit) {
	w := s.workers[i]
	do := func(what act, p uint8, next state) {
		visit(step{act: what, who: i, position: p, gap: w.says(p)}, next)
	}
	if unsent := w.events.without(w.sent); unsent != 0 && (w.sent == 0 || m.has(Pipelined)) {
		next := s
		next.workers[i].sent |= only(unsent.lowest())
		do("sends", unsent.lowest(), next)
	}
	for sent := w.sent; sent != 0; sent &= sent - 1 {
		p := sent.lowest()
		do("hears that the broker stored", p, s.land(p).hear(i, p))
		lost := s.land(p)
		lost.workers[i].sent &^= only(p)
		do("hears nothing, though the broker stored", p, lost)
		refused := s
		refused.workers[i].sent &^= only(p)
		do("hears that the broker did not store", p, refused)
		late := s.leave(i, p)
		if m.has(SilenceIsSuccess) {
			late = late.hear(i, p)
		}
		do("waits no longer for", p, late)
	}
}

func (s state) land(p uint8) state {
	s.log |= only(p)
	return s
}

// hear: worker i knows p stored.
func (s state) hear(i int, p uint8) state {
	w := &s.workers[i]
	w.sent &^= only(p)
	w.events &^= only(p)
	w.stored, w.gap = p, false
	return s
}

// release gives the record back with work left. fail counts a verdict against the head event, and the
// last one parks the record, or gives the event up and says so, as its route has it.
func (m Config) release(s state, i int, do do) {
	w := s.workers[i]
	mine := s.row.exists && (s.row.token == w.token || m.has(ReleaseWithoutToken))
	told := m.told(&s, i)
	s = s.forget(i)
	if !mine {
		do("releases: lost", 0, s)
		return
	}
	r := &s.row
	progress := w.stored+1 > r.next
	if progress {
		s.gaps &^= told
	}
	r.next = max(r.next, w.stored+1)
	if m.has(ReleaseUnparks) {
		r.parked = false
	}
	r.lease, r.token = unleased, 0
	attempts := r.attempts + 1
	if progress {
		r.attempts, attempts = 0, 1
	}
	do("releases", 0, s)
	if w.phase != holding {
		return
	}
	if r.attempts = attempts; attempts < attemptsMax {
		do("fails at", w.events.lowest(), s)
		return
	}
	r.attempts = 0
	head := w.events.lowest()
	if m.has(DeadLetterInSilence) {
		r.next = max(r.next, head+1)
		do("gives up", head, s)
		return
	}
	given := m.giveUp(s, head)
	do("gives up, and says so,", head, given)
	r.parked = true
	do("parks the record at", head, s)
}

func (m Config) giveUp(s state, head uint8) state {
	s.skipped |= only(head)
	if m.has(GapOverwritten) {
		s.gaps = 0
	}
	s.gaps |= only(head)
	s.row.next = max(s.row.next, head+1)
	s.row.attempts = 0
	return s
}

// ack, after all that was claimed is stored: three statements, each with a snapshot of its own, the
// first of which looks before it tries the gate.
func (m Config) ack(s state, i int, do do) {
	w := &s.workers[i]
	mine := s.row.exists && (w.token == s.row.token || m.has(AckWithoutToken))
	newer := s.committed.from(w.stored+1) != 0
	switch w.phase {
	case holding:
		if w.events != 0 || w.sent != 0 {
			return
		}
		w.phase = looked
		if newer && !m.has(NoFirstLook) {
			w.phase = moving
		}
		do("acks: looks for newer events", 0, s)
	case looked:
		switch {
		case m.has(IdleWithoutGate):
			w.phase = gateHeld
			do("acks: does without the gate", 0, s)
		case s.gateTaken():
			w.phase = moving
			do("acks: does not get the gate", 0, s)
		default:
			w.phase = gateHeld
			do("acks: gets the gate", 0, s)
		}
	case gateHeld:
		newer = newer && !m.has(OneSnapshot)
		if mine && !newer && (!s.row.parked || m.has(AckDeletesParked)) {
			do("acks: deletes the row", 0, m.drop(s, i))
			return
		}
		w.phase = movingGated
		do("acks: leaves the row", 0, s)
	case moving, movingGated:
		m.move(s, i, mine, do)
	default:
	}
}

// drop deletes the row and commits. Claims whose snapshot shows the row find nothing to lock.
func (m Config) drop(s state, i int) state {
	s.gaps &^= m.told(&s, i)
	if m.has(IdleForgetsGap) {
		s.gaps = 0
	}
	s.row = row{}
	s.workers[i] = worker{}
	for j := range s.workers {
		if s.workers[j].phase == claiming {
			s.workers[j] = worker{}
		}
	}
	return s
}

// told is the gaps before the last event that worker i stored. An empty claim stored none, and tells none:
// its last position may itself be a skipped one.
func (m Config) told(s *state, i int) set {
	last := s.workers[i].stored
	if last == 0 || last < s.row.next && !m.has(EmptyAckTells) {
		return 0
	}
	return below(last)
}

func (m Config) move(s state, i int, mine bool, do do) {
	last := s.workers[i].stored
	if !mine {
		s.workers[i] = worker{}
		do("acks: lost", 0, s)
		return
	}
	s.gaps &^= m.told(&s, i)
	s.workers[i] = worker{}
	r := &s.row
	if last >= r.next {
		r.attempts = 0
	}
	r.next = max(r.next, last+1)
	if m.has(AckMovesBack) {
		r.next = last + 1
	}
	r.lease, r.token = unleased, 0
	do("acks: moves the row on, to", r.next, s)
}
