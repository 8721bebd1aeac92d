package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// customers drive the order service over HTTP: they create, update and remove orders, several of them
// the same ones at once.
type customers struct {
	url    string
	seed   uint64
	number int
	orders int // after so many events
	pace   time.Duration
	client *http.Client

	accepted atomic.Int64 // requests that wrote an order and its event
	refused  atomic.Int64 // version conflicts: another customer was faster, nothing was written

	mu   sync.Mutex
	open []order
}

type order struct {
	ID      int64 `json:"id"`
	Version int64 `json:"version"`
}

// run returns the first error that is not a refusal.
func (c *customers) run(ctx context.Context) error {
	errs := make(chan error, c.number)
	var group sync.WaitGroup
	for i := range c.number {
		group.Go(func() {
			r := rand.New(rand.NewPCG(c.seed, uint64(i)))
			next := time.Now()
			for ctx.Err() == nil && c.accepted.Load() < int64(c.orders) {
				if err := c.act(ctx, r); err != nil && ctx.Err() == nil {
					errs <- err
					return
				}
				next = next.Add(c.pace)
				select {
				case <-time.After(time.Until(next)):
				case <-ctx.Done():
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs
}

// act does one thing to one order.
func (c *customers) act(ctx context.Context, r *rand.Rand) error {
	o, ok := c.pick(r)
	switch {
	case !ok || r.IntN(3) == 0:
		return c.send(ctx, http.MethodPost, "/orders", 0, r)
	case r.IntN(6) == 0:
		return c.send(ctx, http.MethodDelete, fmt.Sprintf("/orders/%d", o.ID), 0, r)
	default:
		return c.send(ctx, http.MethodPut, fmt.Sprintf("/orders/%d", o.ID), o.Version, r)
	}
}

func (c *customers) pick(r *rand.Rand) (order, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) < 20 {
		return order{}, false
	}
	return c.open[len(c.open)-1-r.IntN(20)], true
}

func (c *customers) send(ctx context.Context, method, path string, version int64, r *rand.Rand) error {
	body := map[string]any{
		"customer": fmt.Sprintf("customer %d", r.IntN(1000)), "currency": "EUR",
		"items": []map[string]any{{
			"sku": fmt.Sprintf("SKU-%04d", r.IntN(10_000)), "quantity": 1 + r.IntN(9), "price_minor": 100 + r.IntN(9900),
		}},
	}
	if version > 0 {
		body["version"] = version
	}
	var content io.Reader
	if method != http.MethodDelete {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("demo: %s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	return c.answered(resp, method, path)
}

func (c *customers) answered(resp *http.Response, method, path string) error {
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("demo: %s %s: %w", method, path, err)
	}
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusOK:
		var o order
		if err := json.Unmarshal(answer, &o); err != nil {
			return fmt.Errorf("demo: %s %s: %w", method, path, err)
		}
		c.remember(o)
	case http.StatusNoContent:
	case http.StatusConflict, http.StatusPreconditionFailed, http.StatusNotFound:
		c.refused.Add(1)
		return nil
	default:
		return fmt.Errorf("demo: %s %s: %s: %s", method, path, resp.Status, answer)
	}
	c.accepted.Add(1)
	return nil
}

// remember keeps the newest version of an order.
func (c *customers) remember(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.open) - 1; i >= max(0, len(c.open)-20); i-- {
		if c.open[i].ID == o.ID {
			c.open[i].Version = max(c.open[i].Version, o.Version)
			return
		}
	}
	c.open = append(c.open, o)
}
