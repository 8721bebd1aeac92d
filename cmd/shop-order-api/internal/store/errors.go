package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound: no order has the id.
var ErrNotFound = errors.New("store: order not found")

// ConflictError: the order has another version than the one that was to be changed. Nothing was written.
type ConflictError struct{ ID, Have, Want int64 }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("store: order %d has version %d, not %d", e.ID, e.Have, e.Want)
}

// ErrNoOutbox: the database answers, and its outbox is not there.
var ErrNoOutbox = errors.New("store: schema baton does not exist: run `baton migrate up`")

// Unavailable reports that the database is at fault, and may serve the same request later. A write that ended
// so may have been committed: only the answer is known to be missing.
func Unavailable(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return unavailableCode(pg.Code)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok { // context.DeadlineExceeded is one as well
		return true
	}
	return errors.Is(err, ErrNoOutbox) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err)
}

func unavailableCode(code string) bool {
	switch code {
	case "25006": // read-only: a standby, or the primary just before a switch
		return true
	case "3F000", "42P01", "42883": // schema, table or function missing: not migrated yet
		return true
	}
	switch code[:min(2, len(code))] {
	case "08", // connection
		"40", // deadlock, serialisation
		"53", // out of connections, memory or disk
		"55", // lock not available
		"57", // cancelled, shutting down, starting up
		"58": // input or output
		return true
	}
	return false
}
