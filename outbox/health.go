package outbox

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// worldBackoffMax caps the pause while broker or network are down: as long as a user would wait for
// the first event after they are back.
const worldBackoffMax = 5 * time.Second

// health remembers whether the log takes anything at all. While it does not, claims pause, and then
// try with few records, so that an outage does not churn the whole outbox.
type health struct {
	backoffMin, backoffMax time.Duration

	mu      sync.Mutex
	streak  int       // sends in a row of which some run failed for the world's sake
	down    bool      // the last of them stored nothing
	resumes time.Time // claims pause until then
	lastErr error
}

// judge learns from one Send.
func (h *health) judge(verdicts []Verdict) {
	var worldErr error
	stored := false
	for _, v := range verdicts {
		stored = stored || v.Stored > 0
		if v.Err != nil && ClassOf(v.Err) == BadWorld && !errors.Is(v.Err, ErrLeaseEnding) {
			worldErr = v.Err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if worldErr == nil {
		if stored {
			h.streak, h.down, h.lastErr = 0, false, nil
		}
		return
	}
	h.streak++
	h.down, h.lastErr = !stored, worldErr
	if h.down {
		h.resumes = time.Now().Add(h.delay())
	}
}

// backoff is how long a record that failed for the world's sake stays away.
func (h *health) backoff() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delay()
}

func (h *health) delay() time.Duration {
	return jittered(h.backoffMin, min(h.backoffMax, worldBackoffMax), h.streak)
}

// wait returns when claims may go on: at once, or after a pause. probe: with few records.
func (h *health) wait(ctx context.Context) (probe bool, err error) {
	h.mu.Lock()
	down, pause := h.down, time.Until(h.resumes)
	h.mu.Unlock()
	if !down {
		return false, ctx.Err()
	}
	return true, sleep(ctx, pause)
}

// problem is what keeps the log from taking anything, or nil.
func (h *health) problem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return h.lastErr
	}
	return nil
}

// jittered doubles from shortest, once for each try after the first, up to longest; ±20 %.
func jittered(shortest, longest time.Duration, tries int) time.Duration {
	d := shortest
	for range tries - 1 {
		if d >= longest {
			break
		}
		d *= 2
	}
	d = min(d, longest)
	return d - d/5 + rand.N(2*d/5+1)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
