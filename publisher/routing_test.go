package publisher

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/outbox"
)

func TestRoutingPrefersTheNarrowerPattern(t *testing.T) {
	r, err := ParseRouting("*=rest, shop.*=shop;policy=block, shop.order=orders ;key=type/key; policy=block,"+
		"shop.order.*=;policy=block, billing.*=billing.events,", "")
	if err != nil {
		t.Fatal(err)
	}
	for recordType, want := range map[string]Route{
		"shop.order":      {Pattern: "shop.order", Topic: "orders", Key: KeyAndType, Policy: outbox.Block},
		"shop.order.line": {Pattern: "shop.order.*", Topic: "shop.order.line.events", Key: KeyOnly, Policy: outbox.Block},
		"shop.cart":       {Pattern: "shop.*", Topic: "shop", Key: KeyOnly, Policy: outbox.Block},
		"billing.invoice": {Pattern: "billing.*", Topic: "billing.events", Key: KeyOnly, Policy: outbox.Park},
		"shopping":        {Pattern: "*", Topic: "rest", Key: KeyOnly, Policy: outbox.Park},
	} {
		got, err := r.For(recordType)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("For(%q) error = %v, differs (-want +got):\n%s", recordType, err, diff)
		}
	}
}

func TestZeroRoutingSendsToTheDefaultTopic(t *testing.T) {
	got, err := Routing{}.For("shop.order")
	if want := (Route{Topic: "shop.order.events", Key: KeyOnly, Policy: outbox.Park}); got != want || err != nil {
		t.Errorf("For = %+v, %v, want %+v", got, err, want)
	}
}

func TestRecordTypeThatIsNotAllowedIsABadTopicWithTheCure(t *testing.T) {
	r, err := ParseRouting("", "shop.*, billing.invoice")
	if err != nil {
		t.Fatal(err)
	}
	for recordType, allowed := range map[string]bool{
		"shop.order": true, "billing.invoice": true, "billing.invoices": false, "shop": false,
	} {
		_, err := r.For(recordType)
		if (err == nil) != allowed {
			t.Errorf("For(%q) error = %v, want allowed = %t", recordType, err, allowed)
		}
		if err == nil {
			continue
		}
		if got := outbox.ClassOf(err); got != outbox.BadTopic {
			t.Errorf("For(%q) class = %v, want %v", recordType, got, outbox.BadTopic)
		}
		for _, part := range []string{recordType, "BATON_ALLOW", "shop.*, billing.invoice"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("For(%q) error = %q, want it to name %q", recordType, err, part)
			}
		}
	}
}

func TestParseRoutingNamesEveryBadPiece(t *testing.T) {
	_, err := ParseRouting("shop.order, a=b;policy=drop, c=d;key=id, e=f;polcy=park, g h=i, j=k/l, m*=n, "+
		"shop.x=1,shop.x=2", "ok.*, no*pe")
	if err == nil {
		t.Fatal("ParseRouting accepted nonsense")
	}
	want := []string{
		`entry 1 "shop.order": it has no '='`,
		`entry 2 "a=b;policy=drop": policy "drop" is unknown: use park or block`,
		`entry 3 "c=d;key=id": key "id" is unknown: use key or type/key`,
		`entry 4 "e=f;polcy=park": option "polcy" is unknown: use policy=park|block or key=key|type/key`,
		`entry 5 "g h=i": record type "g h"`,
		`entry 6 "j=k/l": topic "k/l"`,
		`entry 7 "m*=n": pattern "m*" must end with ".*"`,
		`entry 9 "shop.x=2": "shop.x" is routed twice`,
		`BATON_ALLOW: entry 2 "no*pe"`,
		routesExample,
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q:\n%v", part, err)
		}
	}
}

func TestTopicsListsWhatIsKnownBeforehand(t *testing.T) {
	r, err := ParseRouting("shop.order=orders, shop.*=;policy=block, shop.cart=;policy=block, billing.*=billing.events",
		"shop.*, billing.*, audit.entry")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"audit.entry.events", "billing.events", "orders", "shop.cart.events"}
	if diff := cmp.Diff(want, r.Topics()); diff != "" {
		t.Errorf("Topics differ (-want +got):\n%s", diff)
	}
}

func FuzzParseRouting(f *testing.F) {
	f.Add(routesExample, "shop.*")
	f.Add("a=;;key=key", "*,")
	f.Fuzz(func(t *testing.T, routes, allow string) {
		r, err := ParseRouting(routes, allow)
		if err != nil {
			return
		}
		for _, route := range r.routes {
			got, err := r.For(strings.TrimSuffix(route.Pattern, "*") + "x")
			if err == nil && checkTopic(got.Topic) != nil && len(route.Pattern) < outbox.RecordTypeBytesMax {
				t.Errorf("routes %q lead to topic %q", routes, got.Topic)
			}
		}
	})
}
