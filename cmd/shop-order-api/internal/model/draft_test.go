package model_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
)

func valid() model.Draft {
	return model.Draft{Customer: "Ada", Currency: "EUR", Items: []model.Item{{SKU: "A-1", Quantity: 1, PriceMinor: 0}}}
}

func TestLimitsOfADraftAreWhereTheDocumentSays(t *testing.T) {
	t.Parallel()
	items := func(n int) []model.Item {
		list := make([]model.Item, n)
		for i := range list {
			list[i] = model.Item{SKU: "A", Quantity: 1, PriceMinor: 1}
		}
		return list
	}
	tests := []struct {
		name   string
		change func(*model.Draft)
		want   string // the field that is refused; "" means valid
	}{
		{"as it is", func(*model.Draft) {}, ""},
		{"customer of 100 characters", func(d *model.Draft) { d.Customer = strings.Repeat("ä", 100) }, ""},
		{"customer of 101 characters", func(d *model.Draft) { d.Customer = strings.Repeat("a", 101) }, "customer"},
		{"customer empty", func(d *model.Draft) { d.Customer = "" }, "customer"},
		{"customer blank", func(d *model.Draft) { d.Customer = " \t" }, "customer"},
		{"customer with NUL", func(d *model.Draft) { d.Customer = "a\x00b" }, "customer"},
		{"customer with a line break", func(d *model.Draft) { d.Customer = "a\nb" }, "customer"},
		{"customer not UTF-8", func(d *model.Draft) { d.Customer = "a\xff" }, "customer"},
		{"customer with U+FFFD", func(d *model.Draft) { d.Customer = "a\uFFFD" }, "customer"},
		{"currency of two letters", func(d *model.Draft) { d.Currency = "EU" }, "currency"},
		{"currency in small letters", func(d *model.Draft) { d.Currency = "eur" }, "currency"},
		{"currency with a line break", func(d *model.Draft) { d.Currency = "EUR\n" }, "currency"},
		{"no items", func(d *model.Draft) { d.Items = nil }, "items"},
		{"50 items", func(d *model.Draft) { d.Items = items(50) }, ""},
		{"51 items", func(d *model.Draft) { d.Items = items(51) }, "items"},
		{"sku of 32", func(d *model.Draft) { d.Items[0].SKU = strings.Repeat("A", 32) }, ""},
		{"sku of 33", func(d *model.Draft) { d.Items[0].SKU = strings.Repeat("A", 33) }, "items[0].sku"},
		{"sku empty", func(d *model.Draft) { d.Items[0].SKU = "" }, "items[0].sku"},
		{"sku begins with a dash", func(d *model.Draft) { d.Items[0].SKU = "-A" }, "items[0].sku"},
		{"quantity 0", func(d *model.Draft) { d.Items[0].Quantity = 0 }, "items[0].quantity"},
		{"quantity 1000", func(d *model.Draft) { d.Items[0].Quantity = 1000 }, ""},
		{"quantity 1001", func(d *model.Draft) { d.Items[0].Quantity = 1001 }, "items[0].quantity"},
		{"price -1", func(d *model.Draft) { d.Items[0].PriceMinor = -1 }, "items[0].price_minor"},
		{"price of the limit", func(d *model.Draft) { d.Items[0].PriceMinor = model.PriceMinorMax }, ""},
		{"price above", func(d *model.Draft) { d.Items[0].PriceMinor = model.PriceMinorMax + 1 }, "items[0].price_minor"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			draft := valid()
			tt.change(&draft)
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			if diff := cmp.Diff(fields(draft.Check()), want); diff != "" {
				t.Errorf("refused fields (-got +want):\n%s", diff)
			}
		})
	}
}

func TestCheckNamesEveryBadFieldAtOnce(t *testing.T) {
	t.Parallel()
	draft := model.Draft{Items: []model.Item{{SKU: "A", Quantity: 1}, {Quantity: 0, PriceMinor: -1}}}
	got := fields(draft.Check())
	want := []string{"customer", "currency", "items[1].sku", "items[1].quantity", "items[1].price_minor"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("refused fields (-got +want):\n%s", diff)
	}
}

func fields(bad []model.FieldError) (names []string) {
	for _, b := range bad {
		names = append(names, b.Field)
	}
	return names
}
