// Package model holds the entity of this service, shop.Order, and what the world hears about it,
// shop.OrderEvent. It decides which orders are valid. It knows nothing of HTTP or of databases.
package model

import (
	"encoding/json"
	"strconv"
	"time"
)

// RecordType names orders in the outbox: an order's events are about the record shop.order, key ID.
const RecordType = "shop.order"

// Order is shop.Order: who ordered what. Its ID is never given to another order, not even after this one
// is removed, because the events of a record must be about one thing for ever.
type Order struct {
	ID        int64     `json:"id"`
	Version   int64     `json:"version"` // 1 at creation, one more with each write
	Customer  string    `json:"customer"`
	Currency  string    `json:"currency"`
	Items     []Item    `json:"items"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Item is one line of an order.
type Item struct {
	SKU        string `json:"sku"`
	Quantity   int    `json:"quantity"`
	PriceMinor int64  `json:"price_minor"` // of one piece, in the currency's minor unit: 1999 is 19.99 EUR
}

// Key is the order's record key.
func (o Order) Key() string { return strconv.FormatInt(o.ID, 10) }

// EventSchema is the version of OrderEvent's form. It grows when a reader of the old form would err.
const EventSchema = 1

// OrderEvent is shop.OrderEvent: the payload of an order's events, the order's state at that event. The
// last one, of type Removed, carries the final state and no tombstone: a topic that is read for history
// must say what was removed. Versions along an order are dense, so a reader can check for gaps.
type OrderEvent struct {
	Schema   int       `json:"schema"`
	ID       int64     `json:"id"`
	Version  int64     `json:"version"`
	Customer string    `json:"customer"`
	Currency string    `json:"currency"`
	Items    []Item    `json:"items"`
	At       time.Time `json:"at"` // when the order took this state, by the database's clock
}

// Event is the order's state, ready to be written beside the order.
func (o Order) Event() OrderEvent {
	return OrderEvent{
		Schema:   EventSchema,
		ID:       o.ID,
		Version:  o.Version,
		Customer: o.Customer,
		Currency: o.Currency,
		Items:    o.Items,
		At:       o.UpdatedAt.UTC(),
	}
}

// Payload is the event as it goes out.
func (e OrderEvent) Payload() ([]byte, error) { return json.Marshal(e) }
