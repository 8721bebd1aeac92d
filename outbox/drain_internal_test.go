package outbox

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/batonrelay/baton/lease"
)

func TestRelayRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 30*time.Second, nil)
		r := s.start(testConfig(), nil)
		synctest.Wait()
		if err := r.Run(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("second Run error = %v, want %v", err, ErrClosed)
		}
		r.stopWell(t)
		if err := r.Run(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Run error after the end = %v, want %v", err, ErrClosed)
		}
		if err := r.Close(); err != nil {
			t.Errorf("Close error after Run ended = %v, want none", err)
		}
	})
}

func TestCloseBeforeRunKeepsItFromRunning(t *testing.T) {
	r := testRelay(t, testConfig(), NewMemory(time.Second), newMemoryLog(t, nil).connect())
	for range 2 {
		if err := r.Close(); err != nil {
			t.Errorf("Close error = %v, want none", err)
		}
	}
	if err := r.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Run error = %v, want %v", err, ErrClosed)
	}
}

func TestRunUnderAnEndedContextReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 30*time.Second, nil)
		s.add(eventsOf(1, records(10)...)...)
		r := testRelay(t, testConfig(), s.repo, s.log.connect())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if err := r.Run(ctx); err != nil || time.Since(start) > 0 {
			t.Errorf("Run = %v after %v, want nil at once", err, time.Since(start))
		}
		if r.Stats().Claims != 0 {
			t.Error("something was claimed")
		}
	})
}

// Feared: at SIGTERM what is queued keeps its lease, and the record waits half a minute for nothing; or
// what is under way is released as well, and comes twice.
func TestEndReleasesWhatWasNotSentAndFinishesWhatWas(t *testing.T) {
	for name, end := range map[string]func(r *running) error{
		"signal": (*running).stop,
		"close":  func(r *running) error { return errors.Join(r.Close(), <-r.ended) },
		"close without bound": func(r *running) error {
			return errors.Join(r.CloseCtx(context.Background()), r.Close(), <-r.ended)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 30*time.Second, func(Event, int) fault { return fault{latency: 100 * time.Millisecond} })
				s.add(eventsOf(100, records(100)...)...)
				r := s.start(testConfig(), nil)
				time.Sleep(2 * time.Second)
				start := time.Now()
				if err := end(r); err != nil {
					t.Errorf("end = %v, want no error", err)
				}
				if took, one := time.Since(start), pieceEvents*100*time.Millisecond; took > one+100*time.Millisecond {
					t.Errorf("the end took %v, want at most a piece, %v", took, one)
				}
				if err := r.budget.allFree(); err != nil {
					t.Error(err)
				}
				sent := s.log.len()
				if sent == 0 || sent == 100*100 {
					t.Fatalf("events sent before the end = %d, want some, not all", sent)
				}
				s.log.fault = nil
				next := s.start(testConfig(), nil)
				if err := s.delivered(5 * time.Second); err != nil { // much less than a lease
					t.Error(err)
				}
				next.stopWell(t)
				if report := s.judge(); !report.OK() || report.Duplicates != 0 {
					t.Errorf("want no duplicate: %v", report)
				}
			})
		})
	}
}

// slowAnswer answers claims three seconds after they took their leases.
type slowAnswer struct{ EventRepo }

func (s slowAnswer) Lock(ctx context.Context, limits lease.Limits) (Claim, error) {
	claim, err := s.EventRepo.Lock(ctx, limits)
	if cut := sleep(ctx, 3*time.Second); cut != nil {
		return Claim{}, cut
	}
	return claim, err
}

// Feared: the relay is closed while its claim is on the way, and the leases that it brings are nobody's.
func TestEndDuringAClaimGivesItsLeasesBack(t *testing.T) {
	for name, end := range map[string]func(r *running) error{
		"signal": (*running).stop,
		"close":  func(r *running) error { return errors.Join(r.CloseCtx(context.Background()), <-r.ended) },
		"close at once": func(r *running) error {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := r.CloseCtx(ctx); !errors.Is(err, context.Canceled) {
				return errors.Join(err, errors.New("want the context's error"))
			}
			return <-r.ended
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 30*time.Second, nil)
				s.add(eventsOf(1, records(100)...)...)
				r := s.start(testConfig(), func(r *running) { r.repo.EventRepo = slowAnswer{s.repo} })
				time.Sleep(time.Second)
				if err := end(r); err != nil {
					t.Errorf("end = %v", err)
				}
				if n := s.log.len(); n != 0 {
					t.Errorf("events sent after the end = %d, want none", n)
				}
				claim, err := s.repo.Lock(t.Context(), lease.Limits{Records: 1000, Events: 1000, Bytes: 1 << 20})
				if err != nil || len(claim.Runs) != 100 {
					t.Errorf("free after the end = %d records, %v, want 100", len(claim.Runs), err)
				}
			})
		})
	}
}

// Feared: a sender that never answers keeps the process from ending; or its records are given to others
// while they may still land.
func TestDrainCutsASilentSenderOffAndKeepsItsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime = 60 * time.Second
		s := newStage(t, leaseTime, func(e Event, _ int) fault { return fault{silent: e.Record == record(0)} })
		s.add(eventsOf(1, record(0), record(1))...)
		cfg := testConfig()
		cfg.Drain = 5 * time.Second
		r := s.start(cfg, nil)
		start := time.Now()
		time.Sleep(time.Second)
		r.stopWell(t)
		if took := time.Since(start); took < 6*time.Second || took > 6*time.Second+settleGrace {
			t.Errorf("Run ended after %v, want %v after the signal", took, cfg.Drain)
		}
		claim := lease.Limits{Records: 10, Events: 10, Bytes: 1 << 20}
		time.Sleep(leaseTime - time.Since(start) - time.Second)
		if c, err := s.repo.Lock(t.Context(), claim); err != nil || len(c.Runs) != 0 {
			t.Errorf("free before the lease's end = %d records, %v, want none", len(c.Runs), err)
		}
		time.Sleep(2 * time.Second)
		if c, err := s.repo.Lock(t.Context(), claim); err != nil || len(c.Runs) != 1 {
			t.Errorf("free after the lease's end = %d records, %v, want the silent one", len(c.Runs), err)
		}
	})
}

// Feared: the database is away at the end, and Run waits for it; or it says that all is well.
func TestDrainThatCannotWriteSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 60*time.Second, nil)
		s.add(eventsOf(1, records(7)...)...)
		cfg := testConfig()
		cfg.Drain = 5 * time.Second
		r := s.start(cfg, func(r *running) {
			r.repo.remove = func(context.Context, []lease.Ack) error { return errDatabase }
		})
		time.Sleep(time.Second)
		start := time.Now()
		err := r.stop()
		if !errors.Is(err, ErrDrain) {
			t.Fatalf("Run error = %v, want %v", err, ErrDrain)
		}
		if got, want := err.Error(), ErrDrain.Error()+": 7 events"; got != want {
			t.Errorf("Run error = %q, want %q", got, want)
		}
		if took := time.Since(start); took > cfg.Drain+settleGrace {
			t.Errorf("Run ended after %v, want at most %v", took, cfg.Drain+settleGrace)
		}
		c, err := s.repo.Lock(t.Context(), lease.Limits{Records: 10, Events: 10, Bytes: 1 << 20})
		if err != nil || len(c.Runs) != 0 {
			t.Errorf("free after the end = %d records, %v, want none: their leases end by themselves", len(c.Runs), err)
		}
	})
}

// Feared: CloseCtx without a bound hangs for as long as the sender is silent.
func TestCloseWithoutBoundEndsWhenTheLastLeaseHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const leaseTime = 10 * time.Second
		s := newStage(t, leaseTime, func(Event, int) fault { return fault{silent: true} })
		s.add(eventsOf(1, records(3)...)...)
		r := s.start(testConfig(), nil)
		start := time.Now()
		time.Sleep(time.Second)
		if err := errors.Join(r.CloseCtx(context.Background()), <-r.ended); err != nil {
			t.Errorf("CloseCtx error = %v, want none", err)
		}
		if took := time.Since(start); took > leaseTime+time.Second {
			t.Errorf("closed after %v, want %v", took, leaseTime)
		}
	})
}
