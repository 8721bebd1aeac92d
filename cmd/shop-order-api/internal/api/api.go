// Package api serves orders over HTTP. It decides what a well-formed request is and gives every refusal as an
// RFC 9457 problem that names all that is wrong at once. The store decides everything else. Creating is not
// idempotent: a client that lost the answer may find its order when it lists them.
package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
)

// Store is what the API needs to know of package store.
type Store interface {
	Create(ctx context.Context, d model.Draft) (model.Order, error)
	Update(ctx context.Context, id, version int64, d model.Draft) (model.Order, error)
	Remove(ctx context.Context, id, version int64) error
	Order(ctx context.Context, id int64) (model.Order, error)
	List(ctx context.Context, after int64, limit int) ([]model.Order, error)
}

// Config is what New needs. All fields are required.
type Config struct {
	Store   Store
	Ready   func(context.Context) error // why no request could be served just now, or nil
	Log     *slog.Logger
	Timeout time.Duration // of one request, waiting for a connection of the pool included
}

type api struct{ Config }

// New returns the service's handler.
func New(c Config) http.Handler {
	a := &api{c}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /orders", a.create)
	mux.HandleFunc("GET /orders", a.list)
	mux.HandleFunc("GET /orders/{id}", a.read)
	mux.HandleFunc("PUT /orders/{id}", a.update)
	mux.HandleFunc("DELETE /orders/{id}", a.remove)
	mux.HandleFunc("GET /livez", a.livez)
	mux.HandleFunc("GET /readyz", a.readyz)
	return a.deadline(problems(mux))
}

// deadline bounds what one request may wait for, so that a slow database fills no queue here.
func (a *api) deadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), a.Timeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (a *api) create(w http.ResponseWriter, r *http.Request) {
	var draft model.Draft
	if p := decode(w, r, &draft); p != nil {
		p.write(w)
		return
	}
	if bad := draft.Check(); bad != nil {
		invalid(bad).write(w)
		return
	}
	o, err := a.Store.Create(r.Context(), draft)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	w.Header().Set("Location", "/orders/"+o.Key())
	writeJSON(w, http.StatusCreated, o)
}

// change is the body of an update: the whole draft, and the version that it was made from.
type change struct {
	Version int64 `json:"version"`
	model.Draft
}

func (a *api) update(w http.ResponseWriter, r *http.Request) {
	id, p := orderID(r)
	if p != nil {
		p.write(w)
		return
	}
	var c change
	if p := decode(w, r, &c); p != nil {
		p.write(w)
		return
	}
	bad := c.Check()
	if c.Version < 1 {
		bad = append(bad, model.FieldError{Field: "version", Detail: "must be the order's version, 1 or more"})
	}
	if bad != nil {
		invalid(bad).write(w)
		return
	}
	o, err := a.Store.Update(r.Context(), id, c.Version, c.Draft)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, o)
}

// remove takes an optional ?version=: without one it removes whatever is there.
func (a *api) remove(w http.ResponseWriter, r *http.Request) {
	id, p := orderID(r)
	if p != nil {
		p.write(w)
		return
	}
	q := query{values: r.URL.Query()}
	version := q.number("version", 0, 1, 1<<62)
	if q.bad != nil {
		invalid(q.bad).write(w)
		return
	}
	if err := a.Store.Remove(r.Context(), id, version); err != nil {
		a.refuse(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *api) read(w http.ResponseWriter, r *http.Request) {
	id, p := orderID(r)
	if p != nil {
		p.write(w)
		return
	}
	o, err := a.Store.Order(r.Context(), id)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, o)
}

// Bounds of a page.
const (
	pageDefault = 50
	pageMax     = 200
)

// page is a part of the list. Next goes into ?after= for the part that follows; it is absent at the end.
type page struct {
	Orders []model.Order `json:"orders"`
	Next   int64         `json:"next,omitempty"`
}

func (a *api) list(w http.ResponseWriter, r *http.Request) {
	q := query{values: r.URL.Query()}
	after := q.number("after", 0, 0, 1<<62)
	limit := int(q.number("limit", pageDefault, 1, pageMax))
	if q.bad != nil {
		invalid(q.bad).write(w)
		return
	}
	orders, err := a.Store.List(r.Context(), after, limit+1) // one more tells whether there is a next page
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	p := page{Orders: orders}
	if len(orders) > limit {
		p.Orders = orders[:limit]
		p.Next = p.Orders[limit-1].ID
	}
	writeJSON(w, http.StatusOK, p)
}

// livez says that the process serves. It asks no database: restarting this would heal nothing there.
func (a *api) livez(w http.ResponseWriter, _ *http.Request) {
	writeText(w, "ok\n")
}

func (a *api) readyz(w http.ResponseWriter, r *http.Request) {
	if err := a.Ready(r.Context()); err != nil {
		a.Log.WarnContext(r.Context(), "not ready", "err", err)
		unavailable("the database does not answer as it should; the log has the cause").write(w)
		return
	}
	writeText(w, "ok\n")
}

// orderID reads {id}. What is not the number of an order names no order.
func orderID(r *http.Request) (int64, *problem) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return 0, notFound(r.PathValue("id"))
	}
	return id, nil
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // a client that is gone needs no answer
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone needs no answer
}
