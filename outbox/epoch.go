package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

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

func parseHeaders(text *string) (map[string]string, error) {
	if text == nil {
		return nil, nil
	}
	var h map[string]string
	err := json.Unmarshal([]byte(*text), &h)
	return h, err
}
