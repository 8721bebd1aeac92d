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
	nothing int       // the last of them, as many as stored nothing: 0 is health
	resumes time.Time // claims pause until then
	lastErr error
}

// judge learns from one Send. turned: the log took something before and takes nothing now, for the reason
// in problem, or the reverse.
func (h *health) judge(verdicts []Verdict) (turned bool, problem error) {
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
	down := h.nothing > 0
	switch {
	case worldErr == nil && stored:
		h.streak, h.nothing, h.lastErr = 0, 0, nil
	case worldErr == nil:
	case stored: // one partition is in trouble, not the log
		h.streak, h.nothing, h.lastErr = h.streak+1, 0, worldErr
	default:
		h.streak, h.nothing, h.lastErr = h.streak+1, h.nothing+1, worldErr
		h.resumes = time.Now().Add(h.delay(h.nothing))
	}
	if h.nothing > 0 {
		problem = h.lastErr
	}
	return down != (h.nothing > 0), problem
}

// backoff is how long a record that failed for the world's sake stays away.
func (h *health) backoff() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delay(h.streak)
}

func (h *health) delay(failures int) time.Duration {
	return jittered(h.backoffMin, min(h.backoffMax, worldBackoffMax), failures)
}

// wait returns when a claim may go on: at once, or after a pause. probe: with few records. The verdict
// on a probe may be long in coming, so the next one waits as if this one had failed already.
func (h *health) wait(ctx context.Context) (probe bool, err error) {
	for ctx.Err() == nil {
		pause, probe := h.pause()
		if pause <= 0 {
			return probe, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return probe, err
		}
	}
	return false, ctx.Err()
}

func (h *health) pause() (pause time.Duration, probe bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nothing == 0 {
		return 0, false
	}
	if pause = time.Until(h.resumes); pause <= 0 {
		h.resumes = time.Now().Add(h.delay(h.nothing))
	}
	return pause, true
}

// unprobed tells that a probe found no record to try the log with: another may go at once.
func (h *health) unprobed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resumes = time.Time{}
}

// problem is what keeps the log from taking anything, or nil.
func (h *health) problem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nothing > 0 {
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
