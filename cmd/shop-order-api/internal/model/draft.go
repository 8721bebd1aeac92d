package model

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of an order. 50 items of these sizes stay far below what one event may carry.
const (
	CustomerCharsMax = 100
	ItemsMax         = 50
	QuantityMax      = 1000
	PriceMinorMax    = 100_000_000 // times QuantityMax times ItemsMax still fits an int64 a million times
)

var (
	skuPattern      = regexp.MustCompile(`^[A-Z0-9][A-Z0-9-]{0,31}$`)
	currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`) // the form of ISO 4217; its list changes too often to copy
)

// Draft is what a client may decide about an order.
type Draft struct {
	Customer string `json:"customer"`
	Currency string `json:"currency"`
	Items    []Item `json:"items"`
}

// FieldError says what is wrong with one field, in words for whoever filled it in.
type FieldError struct {
	Field  string `json:"field"` // as in the JSON document: items[2].sku
	Detail string `json:"detail"`
}

// Check returns everything that is wrong with the draft, in the order of its fields; nil means valid.
func (d Draft) Check() []FieldError {
	var bad []FieldError
	refuse := func(field, detail string) { bad = append(bad, FieldError{field, detail}) }
	if detail := checkCustomer(d.Customer); detail != "" {
		refuse("customer", detail)
	}
	if !currencyPattern.MatchString(d.Currency) {
		refuse("currency", "must be an ISO 4217 code of three capital letters, such as EUR")
	}
	if n := len(d.Items); n < 1 || n > ItemsMax {
		refuse("items", fmt.Sprintf("must have 1 to %d entries, has %d", ItemsMax, n))
	}
	for i, item := range d.Items[:min(len(d.Items), ItemsMax)] {
		item.check(func(field, detail string) { refuse(fmt.Sprintf("items[%d].%s", i, field), detail) })
	}
	return bad
}

func (i Item) check(refuse func(field, detail string)) {
	if !skuPattern.MatchString(i.SKU) {
		refuse("sku", "must be 1 to 32 of A-Z, 0-9 and '-', and not begin with '-'")
	}
	if i.Quantity < 1 || i.Quantity > QuantityMax {
		refuse("quantity", fmt.Sprintf("must be 1 to %d, is %d", QuantityMax, i.Quantity))
	}
	if i.PriceMinor < 0 || i.PriceMinor > PriceMinorMax {
		refuse("price_minor", fmt.Sprintf("must be 0 to %d minor units, is %d", PriceMinorMax, i.PriceMinor))
	}
}

// checkCustomer says what is wrong with the name, or "". A decoder of JSON puts U+FFFD where the text was
// not Unicode (half a surrogate pair, say), so that character is refused too: the name would be a wrong one.
func checkCustomer(name string) string {
	switch n := utf8.RuneCountInString(name); {
	case strings.TrimSpace(name) == "":
		return "must not be empty"
	case n > CustomerCharsMax:
		return fmt.Sprintf("must have at most %d characters, has %d", CustomerCharsMax, n)
	case strings.ContainsRune(name, utf8.RuneError):
		return "must be valid Unicode"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "must not have control characters"
	}
	return ""
}
