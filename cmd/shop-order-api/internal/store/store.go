// Package store keeps orders in PostgreSQL. Each write changes the order and writes its event in one
// transaction: both are there afterwards, or neither. The database decides who wins when two clients change one
// version. Not promised: that a write whose answer was lost did not happen.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/outbox"
)

// Store is safe for use by many goroutines.
type Store struct{ pool *pgxpool.Pool }

// New uses the pool, which stays the caller's to close.
func New(pool *pgxpool.Pool) *Store { return &Store{pool: pool} }

// readCommitted is asked for by name: a role's default may be stricter, and updateSQL counts on this one.
var readCommitted = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}

// Migrate creates the table where it does not exist. Any number of instances may call it at once.
func (s *Store) Migrate(ctx context.Context) error {
	err := pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, migrateLockSQL); err != nil {
			return err
		}
		var done bool
		if err := tx.QueryRow(ctx, migratedSQL).Scan(&done); err != nil || done {
			return err
		}
		_, err := tx.Exec(ctx, schemaSQL)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: migrate shop.orders: %w", err)
	}
	return nil
}

// Ready says why no request could be served just now, or nil.
func (s *Store) Ready(ctx context.Context) error {
	var outboxThere bool
	var rows int
	if err := s.pool.QueryRow(ctx, readySQL).Scan(&outboxThere, &rows); err != nil {
		return fmt.Errorf("store: read shop.orders: %w", err)
	}
	if !outboxThere {
		return ErrNoOutbox
	}
	return nil
}

// Create stores a new order.
func (s *Store) Create(ctx context.Context, d model.Draft) (model.Order, error) {
	return s.write(ctx, outbox.Created, func(tx pgx.Tx) (model.Order, error) {
		items, err := json.Marshal(d.Items)
		if err != nil {
			return model.Order{}, err
		}
		return one(ctx, tx, createSQL, d.Customer, d.Currency, string(items))
	})
}

// Update replaces the order's content if it still has the version. Else *ConflictError or ErrNotFound.
func (s *Store) Update(ctx context.Context, id, version int64, d model.Draft) (model.Order, error) {
	return s.write(ctx, outbox.Updated, func(tx pgx.Tx) (model.Order, error) {
		items, err := json.Marshal(d.Items)
		if err != nil {
			return model.Order{}, err
		}
		o, err := one(ctx, tx, updateSQL, id, version, d.Customer, d.Currency, string(items))
		return o, explain(ctx, tx, err, id, version)
	})
}

// Remove deletes the order if it still has the version; 0 means whichever it has. Else *ConflictError or
// ErrNotFound.
func (s *Store) Remove(ctx context.Context, id, version int64) error {
	_, err := s.write(ctx, outbox.Removed, func(tx pgx.Tx) (model.Order, error) {
		o, err := one(ctx, tx, removeSQL, id, version)
		return o, explain(ctx, tx, err, id, version)
	})
	return err
}

// Order returns one order, or ErrNotFound.
func (s *Store) Order(ctx context.Context, id int64) (model.Order, error) {
	o, err := one(ctx, s.pool, orderSQL, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return model.Order{}, ErrNotFound
	}
	if err != nil {
		return model.Order{}, fmt.Errorf("store: read order %d: %w", id, err)
	}
	return o, nil
}

// List returns up to limit orders with ids above after, in the order of their ids.
func (s *Store) List(ctx context.Context, after int64, limit int) ([]model.Order, error) {
	rows, err := s.pool.Query(ctx, listSQL, after, limit)
	if err != nil {
		return nil, fmt.Errorf("store: list orders: %w", err)
	}
	orders, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("store: list orders: %w", err)
	}
	return orders, nil
}

// write runs the change, and writes the event that tells of it, in one transaction. The event comes last: its
// gate is then held for as short a time as can be.
func (s *Store) write(
	ctx context.Context, eventType string, change func(pgx.Tx) (model.Order, error),
) (o model.Order, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		if o, err = change(tx); err != nil {
			return err
		}
		payload, err := o.Event().Payload()
		if err != nil {
			return err
		}
		_, err = outbox.Add(ctx, tx, outbox.Event{
			Record:  outbox.Record{Type: model.RecordType, Key: o.Key()},
			Type:    eventType,
			Payload: payload,
			Headers: map[string]string{"content-type": "application/json"},
		})
		return err
	})
	if err != nil {
		return model.Order{}, fmt.Errorf("store: write %s order: %w", eventType, err)
	}
	return o, nil
}

// explain turns "no row" of a versioned write into what it means.
func explain(ctx context.Context, tx pgx.Tx, err error, id, want int64) error {
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	var have int64
	switch err := tx.QueryRow(ctx, versionSQL, id).Scan(&have); {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case err != nil:
		return err
	}
	return &ConflictError{ID: id, Have: have, Want: want}
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func one(ctx context.Context, q querier, sql string, args ...any) (model.Order, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return model.Order{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scan)
}

func scan(row pgx.CollectableRow) (o model.Order, err error) {
	err = row.Scan(&o.ID, &o.Version, &o.Customer, &o.Currency, &o.Items, &o.CreatedAt, &o.UpdatedAt)
	return o, err
}
