package outbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// epochSQL names the database cluster and its timeline: a failover that lost commits gives their
// positions out again, under a new timeline.
const epochSQL = `
select (select system_identifier from pg_control_system())::text || '-' ||
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`

// epochMaxAge bounds how long a failover that kept our connections alive (a pooler's) stays unnoticed.
const epochMaxAge = 10 * time.Second

// epoch remembers the database's name and timeline for the header of every message.
type epoch struct {
	mu    sync.Mutex
	value string
	at    time.Time
}

func (e *epoch) read(ctx context.Context, pool *pgxpool.Pool) (string, error) {
	e.mu.Lock()
	value, at := e.value, e.at
	e.mu.Unlock()
	if value != "" && time.Since(at) < epochMaxAge {
		return value, nil
	}
	err := pool.QueryRow(ctx, epochSQL).Scan(&value)
	if err != nil {
		return "", fmt.Errorf("outbox: read epoch: %w", err)
	}
	e.mu.Lock()
	e.value, e.at = value, time.Now()
	e.mu.Unlock()
	return value, nil
}

func (e *epoch) forget() {
	e.mu.Lock()
	e.at = time.Time{}
	e.mu.Unlock()
}
