//go:build !race

package model

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const statesMax = 5_000_000

// TestModelHoldsEveryProperty walks all states of three events and two claims at a time, and of two
// events and three claims.
func TestModelHoldsEveryProperty(t *testing.T) {
	for _, c := range []Config{
		{Positions: 3, Workers: 2, StatesMax: statesMax},
		{Positions: 2, Workers: 3, StatesMax: statesMax},
	} {
		r := Explore(c)
		t.Logf("%d events, %d claims at a time: %s", c.Positions, c.Workers, r)
		switch {
		case r.Broken != "":
			t.Error("a property is broken")
		case !r.Complete:
			t.Errorf("more than %d states: not all were seen", statesMax)
		case r.States < 400_000:
			t.Errorf("%d states: too few to say anything", r.States)
		}
	}
}

func TestModelCatchesPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		bugs   Bug
		breaks string
	}{
		{"tail claimed", TailClaimed, "order"},
		{"second event before the first is stored", Pipelined, "order"},
		{"silence taken as success", SilenceIsSuccess, "stranded"},
		{"release and failure written without the token", ReleaseWithoutToken, "fence"},
		{"ack without the token", AckWithoutToken, "fence"},
		{"idle without the gate", IdleWithoutGate, "stranded"},
		{"gate and look in one snapshot", OneSnapshot, "stranded"},
		{"ack after a skip moves back", SkipKeepsToken | AckMovesBack, "back"},
		{"release lets a parked record go on", ParkKeepsToken | ReleaseUnparks, "parked"},
		{"ack deletes the row of a parked record", ParkKeepsToken | AckDeletesParked, "parked"},
		{"dead letter in silence", DeadLetterInSilence, "loss"},
		{"number before the gate", NumberBeforeGate, "loss"},
		{"writer reads the row in an old snapshot", WriterReadsRow, "stranded"},
		{"claim reads open transactions", ClaimReadsOpen, "phantom"},
		{"token kept over claims", TokenKept, "holders"},
		{"gap goes with the row", IdleForgetsGap, "gap"},
		{"gap read in the claim's snapshot", GapInClaim, "gap"},
		{"gap replaced by the next one", GapOverwritten, "gap"},
		{"gap told by an empty claim", EmptyAckTells, "gap"},
		{"leases never run out", NoExpiry, stuck},
	} {
		r := Explore(Config{Positions: 3, Workers: 2, StatesMax: statesMax, Bugs: test.bugs})
		if !strings.HasPrefix(r.Broken, test.breaks+":") || len(r.Trace) == 0 {
			t.Errorf("%s: %s, want a violation of %q", test.name, r, test.breaks)
			continue
		}
		t.Logf("%s: %s", test.name, r)
	}
}

// TestModelShowsWhichRulesAreSecondLines takes away rules that no property needs while the others hold.
// A change that makes one of them necessary, or one of the bugs above harmless, is worth knowing.
func TestModelShowsWhichRulesAreSecondLines(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		bugs Bug
		why  string
	}{
		{
			"ack without greatest, acks and releases that forget parking, no first look before the gate",
			AckMovesBack | ReleaseUnparks | AckDeletesParked | NoFirstLook,
			"every operator's verb fences the holder, and the first look only saves gates",
		},
		{
			"skip and park under the holder's token",
			SkipKeepsToken | ParkKeepsToken,
			"ack takes the greatest, and a parked record stays parked",
		},
		{
			"claims of live leases, stale leases extended",
			LeaseIgnored | StaleExtended,
			"order and loss hang on the order lemma and the token; leases only save duplicates",
		},
	} {
		r := Explore(Config{Positions: 3, Workers: 2, StatesMax: statesMax, Bugs: test.bugs})
		if r.Broken != "" || !r.Complete {
			t.Errorf("%s: complete %v: %s", test.name, r.Complete, r)
			continue
		}
		t.Logf("%s: harmless, since %s: %s", test.name, test.why, r)
	}
}

// TestModelEncodingLosesNothing goes random ways: a state and its decoded key must be the same state,
// and have the same successors.
func TestModelEncodingLosesNothing(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	c := Config{Positions: positionsMax, Workers: workersMax}
	all := cmp.AllowUnexported(state{}, row{}, writer{}, worker{})
	for range 300 {
		var s state
		for range 60 {
			canonical := s.canonical()
			if diff := cmp.Diff(canonical, decode(encode(s)), all); diff != "" {
				t.Fatalf("decoded state (-want +got):\n%s", diff)
			}
			next := successors(c, s)
			if diff := cmp.Diff(others(canonical, successors(c, canonical)), others(s, next)); diff != "" {
				t.Fatalf("successors (-of the canonical +of the state):\n%s", diff)
			}
			s = next[random.IntN(len(next))]
		}
	}
}

func successors(c Config, s state) (all []state) {
	c.each(s, func(_ step, next state) { all = append(all, next) })
	return all
}

// others is which states of to are not s itself: a late copy of what is in the log changes nothing.
func others(s state, to []state) map[key]bool {
	set := map[key]bool{}
	for _, next := range to {
		set[encode(next)] = true
	}
	delete(set, encode(s))
	return set
}
