package checker_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/batonrelay/baton/internal/checker"
)

// relays is a run as the order lemma allows it: any number of claims work on a record at once, each
// sends its events one by one, and none starts past what is known stored.
type relays struct {
	records [][]checker.Committed
	stored  []int      // by record: events from the front that are in the log or skipped
	skipped []int      // by record: the last one skipped, or -1
	claims  [][]*claim // by record
	history
	sent   map[int64]bool // positions
	tokens int64
}

type claim struct {
	next  int // the event to be sent next
	token int64
	gap   int64
}

func TestLegalHistoriesPass(t *testing.T) {
	t.Parallel()
	const histories = 10_000
	var passed, delivered, duplicates, skipped, overlaps int
	for passed < histories { // a Check makes 100, or what -rapid.checks says
		rapid.Check(t, func(t *rapid.T) {
			r := draw(t)
			for !r.done() {
				r.step(t)
			}
			r.committed = slices.Concat(r.records...)
			r.number()
			report := r.judge()
			if !report.OK() {
				t.Fatalf("legal history blamed: %s", report)
			}
			if got, want := report.Delivered-report.Duplicates, len(r.sent); got != want {
				t.Fatalf("first copies = %d, want %d: %s", got, want, report)
			}
			passed++
			delivered += report.Delivered
			duplicates += report.Duplicates
			skipped += report.Skipped
			overlaps += report.Overlaps
		})
	}
	t.Logf("%d legal histories passed: %d delivered, %d duplicates, %d skipped, %d overlaps",
		passed, delivered, duplicates, skipped, overlaps)
	if duplicates == 0 || skipped == 0 || overlaps == 0 {
		t.Error("the histories hold nothing to be mistaken about")
	}
}

func draw(t *rapid.T) *relays {
	r := &relays{sent: map[int64]bool{}}
	count := rapid.IntRange(1, 4).Draw(t, "records")
	r.records = make([][]checker.Committed, count)
	r.claims = make([][]*claim, count)
	r.stored = make([]int, count)
	r.skipped = slices.Repeat([]int{-1}, count)
	for n := range rapid.IntRange(0, 30).Draw(t, "events") {
		record := rapid.IntRange(0, count-1).Draw(t, "record")
		r.records[record] = append(r.records[record], event(n, record))
	}
	return r
}

func (r *relays) done() bool {
	for record, events := range r.records {
		if r.stored[record] < len(events) {
			return false
		}
	}
	return true
}

// step lets one record's operator skip, a new claim begin, or a claim, be it the oldest, send.
func (r *relays) step(t *rapid.T) {
	record := rapid.IntRange(0, len(r.records)-1).Draw(t, "of")
	events, stored := r.records[record], r.stored[record]
	act := rapid.IntRange(0, 9).Draw(t, "act")
	switch {
	case act == 0 && stored < len(events):
		events[stored].Skipped = true
		r.skipped[record] = stored
		r.stored[record]++
		// the new token fences the claims; what they had not sent yet they never send
		r.claims[record] = slices.DeleteFunc(r.claims[record], func(c *claim) bool { return c.next >= stored })
	case act <= 2 || len(r.claims[record]) == 0:
		r.claim(t, record)
	default:
		r.send(record, rapid.SampledFrom(r.claims[record]).Draw(t, "claim"))
	}
}

// claim starts anywhere up to the first event that is not stored: acks may have been lost. It cannot
// start before a skip, which moved the record on.
func (r *relays) claim(t *rapid.T, record int) {
	r.tokens++
	c := &claim{token: r.tokens}
	c.next = rapid.IntRange(r.skipped[record]+1, r.stored[record]).Draw(t, "from")
	if c.next == r.skipped[record]+1 && c.next > 0 {
		c.gap = r.records[record][r.skipped[record]].Position
	}
	r.claims[record] = append(r.claims[record], c)
}

func (r *relays) send(record int, c *claim) {
	events := r.records[record]
	if c.next >= len(events) {
		return
	}
	message := copyOf(events[c.next], record, c.token)
	message.Gap, c.gap = c.gap, 0
	r.delivered = append(r.delivered, message)
	c.next++
	r.sent[message.Position] = true
	r.stored[record] = max(r.stored[record], c.next)
}
