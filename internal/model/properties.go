package model

import "fmt"

// violated names the property that the step from before to after breaks, or returns "".
func violated(before *state, t step, after *state) string {
	for _, property := range []func(*state, step, *state) string{
		committedOnly, firstCopiesInOrder, declaredGaps, nothingLost, oneHolder, neverBack, fenced, parkedStays,
	} {
		if broken := property(before, t, after); broken != "" {
			return broken
		}
	}
	return ""
}

// committedOnly: only events of committed transactions are sent.
func committedOnly(_ *state, _ step, s *state) string {
	sent := s.log | s.late[0] | s.late[1]
	for i := range s.workers {
		sent |= s.workers[i].sent
	}
	if open := sent.without(s.committed); open != 0 {
		return fmt.Sprintf("phantom: %d is sent, and is not committed", open.lowest())
	}
	return ""
}

// firstCopiesInOrder: below an event in the log every committed one is in it too, or was given up. It is
// looked at in every state, since the lower one may also commit after the higher one is published.
func firstCopiesInOrder(_ *state, _ step, s *state) string {
	if s.log == 0 {
		return ""
	}
	top := s.log.highest()
	if missing := (s.committed & below(top)).without(s.log | s.skipped); missing != 0 {
		return fmt.Sprintf("order: %d is in the log, and %d before it is not", top, missing.lowest())
	}
	return ""
}

// declaredGaps: a consumer that keeps one integer sees each event once and in order, and is told of
// every gap by the first event after it.
func declaredGaps(before *state, t step, after *state) string {
	landed := after.log.without(before.log)
	if landed == 0 || landed < before.log {
		return "" // nothing new for the consumer
	}
	p := landed.lowest()
	missing := (before.committed & below(p)).from(before.log.highest() + 1)
	if missing != 0 && !t.gap {
		return fmt.Sprintf("gap: %d does not say that %d was given up", p, missing.highest())
	}
	return ""
}

// nothingLost: what the record has passed is in the log or given up, and what waits has a row.
func nothingLost(_ *state, _ step, s *state) string {
	open := s.committed.without(s.log | s.skipped)
	switch {
	case open == 0:
		return ""
	case !s.row.exists:
		return fmt.Sprintf("stranded: %d waits, and there is no row", open.lowest())
	case open.lowest() < s.row.next:
		return fmt.Sprintf("loss: the record is at %d, and %d is not in the log", s.row.next, open.lowest())
	}
	return ""
}

// oneHolder: no two claims have the token of the lease.
func oneHolder(_ *state, _ step, s *state) string {
	holders := 0
	for i := range s.workers {
		if s.row.token != 0 && s.workers[i].token == s.row.token {
			holders++
		}
	}
	if holders > 1 {
		return fmt.Sprintf("holders: %d claims have the lease's token", holders)
	}
	return ""
}

// neverBack: a record's next_position only grows while it has a row; the log only grows.
func neverBack(before *state, _ step, after *state) string {
	if before.row.exists && after.row.exists && after.row.next < before.row.next {
		return fmt.Sprintf("back: the record goes from %d back to %d", before.row.next, after.row.next)
	}
	if before.log.without(after.log) != 0 || before.skipped.without(after.skipped) != 0 {
		return "back: the log or what was given up gets less"
	}
	return ""
}

// fenced: a claim whose token is not the row's changes neither the row nor the gaps. A claim that is
// being made has none yet.
func fenced(before *state, t step, after *state) string {
	if t.who < 0 || t.writer {
		return ""
	}
	token := before.workers[t.who].token
	if token == 0 || before.row.exists && token == before.row.token {
		return ""
	}
	if after.row != before.row || after.gaps != before.gaps {
		return "fence: a claim that lost its lease changes the record"
	}
	return ""
}

// parkedStays: only an operator lets a parked record go on.
func parkedStays(before *state, t step, after *state) string {
	if before.row.parked && !after.row.parked && t.act != unpark && t.act != skip {
		return "parked: the record goes on, and no operator said so"
	}
	return ""
}

// settled reports that all is done that relays can do: everything committed is in the log or given up
// and the row is gone, or the record is parked and waits for an operator.
func settled(s *state) bool {
	return s.row.parked || !s.row.exists && s.committed.without(s.log|s.skipped) == 0
}

// helps reports whether a step may be counted on. Operators owe nothing: a record must not need them.
func helps(t step) bool { return t.act != park && t.act != unpark && t.act != skip }
