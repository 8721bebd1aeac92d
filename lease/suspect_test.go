package lease_test

import (
	"testing"

	"github.com/batonrelay/baton/lease"
)

// Feared: suspects, which are due before all others, fill a claim's limit, and nothing flows until they
// have gone one by one.
func TestSuspectsDoNotKeepOthersOutOfAClaim(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.add("s1", "s2", "s3")
	d.exec("update baton.record set claims = $1, ready_at = clock_timestamp() - interval '1 minute'", lease.SuspectAfter)
	d.add("h1", "h2")
	limits := lease.Limits{Records: 2, Events: 100, Bytes: 1 << 20}
	c, err := d.keeper.Claim(t.Context(), limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.Records {
		if r.Claims != 0 {
			t.Errorf("record %d was claimed with others after %d claims without a verdict", r.ID, r.Claims)
		}
	}
	if len(c.Records) != 2 || !c.Suspects {
		t.Errorf("records = %d, suspects = %v, want the 2 healthy ones and a word of the suspects", len(c.Records), c.Suspects)
	}
	limits.Alone = true
	alone, err := d.keeper.Claim(t.Context(), limits)
	if err != nil {
		t.Fatal(err)
	}
	if len(alone.Records) != 1 || alone.Records[0].Claims != lease.SuspectAfter {
		t.Errorf("alone = %+v, want one suspect", alone.Records)
	}
}
