package checker_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/batonrelay/baton/internal/checker"
)

// counts are the findings of a report: lost, phantom, order, moved, misread.
type counts [5]int

func countsOf(r checker.Report) counts { return counts{r.Lost, r.Phantom, r.Order, r.Moved, r.Misread} }

// damages are the smallest things that can go wrong with a log, each done at place i.
var damages = []struct {
	name   string
	damage func(h *history, i, records int)
	want   counts
}{
	{"drop", func(h *history, i, _ int) { h.delivered = slices.Delete(h.delivered, i, i+1) }, counts{1, 0, 1, 0, 0}},
	{"drop of a record's last", func(h *history, i, records int) {
		i = len(h.delivered) - records + i%records
		h.delivered = slices.Delete(h.delivered, i, i+1)
	}, counts{1, 0, 0, 0, 0}},
	{"adjacent swap", func(h *history, i, records int) {
		d := h.delivered
		d[i], d[i+records] = d[i+records], d[i]
	}, counts{0, 0, 1, 0, 0}},
	{"phantom", func(h *history, i, _ int) {
		phantom := h.delivered[i]
		phantom.Position++ // of a transaction that rolled back
		h.delivered = slices.Insert(h.delivered, i+1, phantom)
	}, counts{0, 1, 0, 0, 0}},
	{"flipped byte", func(h *history, i, _ int) { h.delivered[i].Hash[i%16] ^= 1 << (i % 8) }, counts{0, 1, 0, 0, 0}},
	{"other id", func(h *history, i, _ int) { h.delivered[i].EventID[i%16] ^= 1 }, counts{0, 1, 0, 0, 0}},
	{"other type", func(h *history, i, _ int) { h.delivered[i].Type += "x" }, counts{0, 1, 0, 0, 0}},
	{"tombstone for an empty payload", func(h *history, i, _ int) {
		h.committed[i].Hash = checker.Hash([]byte{})
		h.delivered[i].Hash = checker.Hash(nil)
	}, counts{0, 1, 0, 0, 0}},
	{"other key", func(h *history, i, _ int) { h.delivered[i].RecordKey += "x" }, counts{1, 1, 1, 0, 0}},
	{"other partition", func(h *history, i, _ int) {
		h.delivered[i].Partition = (h.delivered[i].Partition + 1) % partitions
	}, counts{0, 0, 0, 1, 0}},
}

// TestOneDamageAnywhereIsFlagged damages a small log at hundreds of random places.
func TestOneDamageAnywhereIsFlagged(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	const events, records, spots = 1_000, 7, 300
	for _, d := range damages {
		for range spots {
			h := straight(events, records)
			i := random.IntN(events - 2*records)
			d.damage(&h, i, records)
			h.number()
			if got := countsOf(h.judge()); got != d.want {
				t.Fatalf("%s at %d: findings %v, want %v", d.name, i, got, d.want)
			}
		}
	}
}

// TestOneDamageInAMillionIsFlagged does the same once in 10^6 events, repeated runs between them.
func TestOneDamageInAMillionIsFlagged(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	const events, records = 1_000_000, 5_000
	base := straight(events, records)
	if r := base.repeated(random, 1_000, records).judge(); !r.OK() || r.Duplicates < 1_000 {
		t.Fatalf("undamaged: %s", r)
	}
	for _, d := range damages[:5] {
		h := history{slices.Clone(base.committed), slices.Clone(base.delivered)}
		i := random.IntN(events - 2*records)
		d.damage(&h, i, records)
		h.number()
		if got := countsOf(h.judge()); got != d.want {
			t.Errorf("%s at %d: findings %v, want %v", d.name, i, got, d.want)
		}
	}
}

// log judges one record: committed positions, of which some are skipped, and delivered ones.
func log(committed, skipped []int64, messages ...checker.Delivered) checker.Report {
	c := checker.New()
	for i, m := range messages {
		m.Offset = int64(i)
		c.Deliver(m)
	}
	for _, position := range committed {
		c.Commit(checker.Committed{Position: position, Skipped: slices.Contains(skipped, position)})
	}
	return c.Judge()
}

// at makes messages of one record with these positions.
func at(positions ...int64) []checker.Delivered {
	var out []checker.Delivered
	for _, position := range positions {
		out = append(out, checker.Delivered{Position: position})
	}
	return out
}

// after makes the message that says that gap was skipped.
func after(gap, position int64) []checker.Delivered {
	return []checker.Delivered{{Position: position, Gap: gap}}
}

func in(epoch string, positions ...int64) []checker.Delivered {
	out := at(positions...)
	for i := range out {
		out[i].Epoch = epoch
	}
	return out
}

func TestVerdictOnSmallLogs(t *testing.T) {
	t.Parallel()
	all := []int64{10, 11, 12, 13, 14, 15}
	join := slices.Concat[[]checker.Delivered]
	for _, test := range []struct {
		name    string
		skipped []int64
		log     []checker.Delivered
		want    counts
		copies  int
	}{
		{"in order", nil, at(10, 11, 12, 13, 14, 15), counts{}, 0},
		{"a late copy", nil, at(10, 11, 12, 11, 13, 14, 15), counts{}, 1},
		{"a run from the start again", nil, at(10, 11, 12, 10, 11, 12, 13, 14, 15), counts{}, 3},
		{"12 before 11", nil, at(10, 12, 11, 13, 14, 15), counts{2: 1}, 0},
		{"one gap is one finding", nil, at(10, 13, 14, 15), counts{0: 2, 2: 1}, 0},
		{"after a gap it goes on, and finds the next", nil, at(10, 12, 13, 15), counts{0: 2, 2: 2}, 0},
		{"a gap filled late is one finding", nil, at(10, 13, 11, 12, 14, 15), counts{2: 1}, 0},
		{"the first is missing", nil, at(11, 12, 13, 14, 15), counts{0: 1, 2: 1}, 0},
		{"nothing came", nil, nil, counts{0: 6}, 0},
		{"skipped and said", []int64{11}, join(at(10), after(11, 12), at(13, 14, 15)), counts{}, 0},
		{"skipped and not said", []int64{11}, at(10, 12, 13, 14, 15), counts{2: 1}, 0},
		{"skipped, another said", []int64{11}, join(at(10), after(10, 12), at(13, 14, 15)), counts{2: 1}, 0},
		{"said and not skipped", nil, join(at(10), after(11, 12), at(13, 14, 15)), counts{0: 1, 2: 1}, 0},
		{"two skipped, the last said", []int64{11, 12}, join(at(10), after(12, 13), at(14, 15)), counts{}, 0},
		{"skipped and lost", []int64{11}, join(at(10), after(11, 13), at(14, 15)), counts{0: 1, 2: 1}, 0},
		{"skipped too late", []int64{11}, join(at(10, 11), after(11, 12), at(13, 14, 15)), counts{}, 0},
		{"skipped, and a late request lands", []int64{11}, join(at(10), after(11, 12), at(11, 13, 14, 15)), counts{}, 0},
		{"the last ones skipped", []int64{14, 15}, at(10, 11, 12, 13), counts{}, 0},
		{"a new epoch goes on", nil, join(in("a", 10, 11, 12), in("b", 13, 14, 15)), counts{}, 0},
		{"a new epoch goes back", nil, join(in("a", 10, 11, 12), in("b", 11, 12, 13, 14, 15)), counts{}, 2},
		{"a new epoch leaves out", nil, join(in("a", 10, 11), in("b", 13, 14, 15)), counts{0: 1, 2: 1}, 0},
		{"a new epoch goes back and leaves out",
			nil, join(in("a", 10, 11, 12), in("b", 10, 12, 13, 14, 15)), counts{2: 1}, 2},
		{"the old epoch again", nil, join(in("a", 10, 11), in("b", 12), in("a", 11), in("b", 13, 14, 15)), counts{}, 1},
		{"the old epoch leaves out the new one's",
			nil, join(in("a", 10, 11), in("b", 12), in("a", 13, 14, 15)), counts{2: 1}, 0},
	} {
		r := log(all, test.skipped, test.log...)
		if got := countsOf(r); got != test.want || r.Duplicates != test.copies {
			t.Errorf("%s: findings %v and %d duplicates, want %v and %d\n%s",
				test.name, got, r.Duplicates, test.want, test.copies, r)
		}
		if got, want := r.OK(), test.want == (counts{}); got != want {
			t.Errorf("%s: OK = %v, want %v", test.name, got, want)
		}
	}
}

func TestPartitionReadBackwardsVoidsTheVerdict(t *testing.T) {
	t.Parallel()
	h := straight(10, 1)
	h.delivered[5].Offset = h.delivered[4].Offset
	if r := h.judge(); r.OK() || r.Misread != 1 {
		t.Errorf("misread = %d, OK %v, want 1, false", r.Misread, r.OK())
	}
}

func TestCommitsMayComeInAnyOrderAndAfterDelivery(t *testing.T) {
	t.Parallel()
	h := straight(1_000, 7)
	c := checker.New()
	c.Deliver(h.delivered...)
	for _, i := range rand.Perm(len(h.committed)) {
		c.Commit(h.committed[i])
	}
	if r := c.Judge(); !r.OK() {
		t.Error(r)
	}
}

func TestClaimThatComesBackIsCountedAsOverlap(t *testing.T) {
	t.Parallel()
	messages := at(10, 11, 12, 11, 13)
	for i, token := range []int64{5, 6, 6, 5, 6} {
		messages[i].Token = token
	}
	if r := log([]int64{10, 11, 12, 13}, nil, messages...); !r.OK() || r.Overlaps != 2 {
		t.Errorf("overlaps = %d, want 2: 5 after 6, and 6 after 5\n%s", r.Overlaps, r)
	}
}

func TestReportNamesTheFirstOffenders(t *testing.T) {
	t.Parallel()
	h := straight(100, 1)
	for i := range 50 {
		h.delivered[i].Hash[0] ^= 1
	}
	h.delivered = slices.Delete(h.delivered, 60, 61)
	r := h.judge()
	want := []checker.Finding{
		{Kind: checker.Phantom, RecordType: "shop.order", RecordKey: "0",
			EventID: h.committed[0].EventID, Position: 1, Token: 1, Topic: "shop.order.events", Offset: 0,
			Reason: "payload is not the committed one"},
		{Kind: checker.Order, RecordType: "shop.order", RecordKey: "0",
			EventID: h.committed[61].EventID, Position: 185, Token: 1, Topic: "shop.order.events", Offset: 122,
			Reason: "follows no copy of position 181"},
		{Kind: checker.Lost, RecordType: "shop.order", RecordKey: "0",
			EventID: h.committed[60].EventID, Position: 181, Offset: -1, Reason: "was committed, and no partition holds it"},
	}
	if len(r.Findings) != checker.ExamplesMax+2 {
		t.Fatalf("%d findings kept, want %d", len(r.Findings), checker.ExamplesMax+2)
	}
	got := []checker.Finding{r.Findings[0], r.Findings[10], r.Findings[11]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	for _, part := range []string{"VIOLATED: 100 committed, 99 delivered, 1 records", "lost 1, phantom 50, order breaks 1",
		"order break: shop.order/0 position 185", "offset 122"} {
		if !strings.Contains(r.String(), part) {
			t.Errorf("report does not contain %q:\n%s", part, r)
		}
	}
}

func TestHashTellsNilFromEmpty(t *testing.T) {
	t.Parallel()
	sums := map[checker.Sum]bool{}
	for _, payload := range [][]byte{nil, {}, {0}, {1}} {
		sums[checker.Hash(payload)] = true
	}
	if len(sums) != 4 {
		t.Errorf("%d different sums of nil, empty, 0 and 1, want 4", len(sums))
	}
	if (checker.Delivered{}).EventID != uuid.Nil {
		t.Error("a message without an id must not match an event that has one")
	}
}

// BenchmarkJudge tells the cost of one event on both sides: Commit, Deliver and its part of Judge.
func BenchmarkJudge(b *testing.B) {
	const events, records = 2_000_000, 60_000
	h := straight(events, records)
	b.ResetTimer()
	for b.Loop() {
		if r := h.judge(); !r.OK() {
			b.Fatal(r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}
