package storm

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
)

// Plant puts bugs into statements on their way from pgx to the server: the program under test stays as it is.
type Plant struct {
	changes [][]string
	planted []atomic.Int64
}

// NewPlant makes each change in the statements of batches that hold all of its old texts: it is a list of old texts,
// each followed by the new one.
func NewPlant(changes ...[]string) *Plant {
	return &Plant{changes: changes, planted: make([]atomic.Int64, len(changes))}
}

// Planted says whether each change was made in some statement: a bug that was never planted proves nothing.
func (p *Plant) Planted() bool {
	for i := range p.planted {
		if p.planted[i].Load() == 0 {
			return false
		}
	}
	return true
}

// TraceBatchStart changes the statements.
func (p *Plant) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	for _, q := range data.Batch.QueuedQueries {
		for i, change := range p.changes {
			if sql, err := Replaced(q.SQL, change...); err == nil {
				q.SQL = sql
				p.planted[i].Add(1)
			}
		}
	}
	return ctx
}

// TraceBatchQuery does nothing.
func (p *Plant) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd does nothing.
func (p *Plant) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TraceQueryStart does nothing: the Keeper sends batches.
func (p *Plant) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (p *Plant) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Replaced replaces each old text by the new one that follows it, and fails unless every old one was there.
func Replaced(sql string, oldNew ...string) (string, error) {
	for i := 0; i+1 < len(oldNew); i += 2 {
		if !strings.Contains(sql, oldNew[i]) {
			return "", fmt.Errorf("storm: plant: the statement does not hold %q", oldNew[i])
		}
		sql = strings.ReplaceAll(sql, oldNew[i], oldNew[i+1])
	}
	return sql, nil
}
