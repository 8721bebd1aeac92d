package model_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
)

// TestPayloadKeepsItsForm holds the contract with whoever reads the topic. A change that breaks it needs a new
// EventSchema.
func TestPayloadKeepsItsForm(t *testing.T) {
	t.Parallel()
	order := model.Order{
		ID: 42, Version: 3, Customer: "Ada", Currency: "EUR",
		Items:     []model.Item{{SKU: "A-1", Quantity: 2, PriceMinor: 1999}},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		UpdatedAt: time.Date(2026, 1, 2, 5, 4, 5, 6000, time.FixedZone("", 3600)),
	}
	got, err := order.Event().Payload()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schema":1,"id":42,"version":3,"customer":"Ada","currency":"EUR",` +
		`"items":[{"sku":"A-1","quantity":2,"price_minor":1999}],"at":"2026-01-02T04:04:05.000006Z"}`
	if diff := cmp.Diff(string(got), want); diff != "" {
		t.Errorf("payload (-got +want):\n%s", diff)
	}
}
