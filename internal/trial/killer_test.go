package trial_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/lease"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

const (
	// killerURL, when set, makes this test binary a relay that an event can kill; killerBrokers goes with it.
	killerURL     = "BATON_TRIAL_KILLER_URL"
	killerBrokers = "BATON_TRIAL_KILLER_BROKERS"
	killerKey     = "killer"
	killedStatus  = 86
	killerClaims  = 4 // deaths until the killer is parked
)

// killedBy is a sender that dies of an event.
type killedBy struct{ outbox.EventSender }

func (k killedBy) Send(ctx context.Context, runs []outbox.Run) []outbox.Verdict {
	for _, r := range runs {
		if r.Events[0].Record.Key == killerKey {
			os.Exit(killedStatus)
		}
	}
	return k.EventSender.Send(ctx, runs)
}

// beMortal runs a relay until its parent kills it, or the event does.
func beMortal(t *testing.T) {
	pool, err := open(t.Context(), os.Getenv(killerURL), lease.ApplicationName+" mortal", 8, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := outbox.DefaultRelayConfig()
	cfg.Lease, cfg.ClaimsMax = time.Second, killerClaims
	named := outbox.PostgresConfig{Lease: cfg.Lease, Name: "mortal", Version: "test", Pooler: "none"}
	repo, err := outbox.NewPostgres(pool, named)
	if err != nil {
		t.Fatal(err)
	}
	pub := publisher.DefaultConfig()
	pub.Brokers, pub.Source = strings.Split(os.Getenv(killerBrokers), ","), "trial"
	pub.Lease, pub.SendTimeout = cfg.Lease, cfg.Lease
	waves, err := publisher.NewWaves(pub)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := outbox.NewRelay(cfg, repo, killedBy{waves})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = repo.Maintain(t.Context()) }()
	t.Fatal(relay.Run(t.Context()))
}

// Feared: an event that kills its relay kills the next one too, for ever, or the records that were
// claimed beside it are taken for killers.
func TestAnEventThatKillsItsRelayIsParkedAlone(t *testing.T) {
	if os.Getenv(killerURL) != "" {
		beMortal(t)
	}
	t.Parallel()
	s := newSmall(t)
	s.add(s.record(killerKey), 10, 20)
	for k := range 499 {
		s.add(s.record(fmt.Sprint("healthy-", k)), 10)
	}
	deaths := s.killUntilParked()
	s.drained()
	if deaths != killerClaims {
		t.Errorf("relays killed = %d, want %d", deaths, killerClaims)
	}
	var parked int
	if err := s.pool.QueryRow(s.ctx, `select count(*) from baton.record`).Scan(&parked); err != nil || parked != 1 {
		t.Errorf("records left = %d (%v), want the killer alone", parked, err)
	}
	got := standing(t, s.pool, s.record(killerKey))
	if !got.parked || got.waiting != 2 || !strings.Contains(got.lastError, "may kill its relay") {
		t.Errorf("the killer stands at %+v, want it parked with 2 events, and why", got)
	}
	s.operator("skip", s.record(killerKey)) // and gone with it: its second event is of the same key
	s.operator("skip", s.record(killerKey))
	var skipped []int64
	rows, err := s.pool.Query(s.ctx, `select position from baton.audit where action = 'skip'`)
	if err == nil {
		skipped, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	if err != nil {
		t.Fatal(err)
	}
	if report, _ := s.verdict(skipped...); report.Delivered != 499 {
		t.Errorf("delivered %d, want 499", report.Delivered)
	}
}

// killUntilParked starts a relay as often as the event kills it, until the event is parked.
func (s *small) killUntilParked() (deaths int) {
	s.t.Helper()
	for {
		p, err := cluster.StartProcess(s.ctx, cluster.ProcessOptions{
			Path: os.Args[0], Args: []string{"-test.run=^" + s.t.Name() + "$"}, Output: os.Stderr,
			Env: append(os.Environ(), killerURL+"="+s.url, killerBrokers+"="+strings.Join(s.kafka.Brokers, ","),
				"TMPDIR="+s.t.TempDir()),
		})
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(p.Kill)
		for !standing(s.t, s.pool, s.record(killerKey)).parked {
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-p.Done():
			case <-s.ctx.Done():
				s.t.Fatalf("the killer is not parked after %d deaths: %v", deaths, s.ctx.Err())
			}
			break
		}
		if p.Alive() {
			s.drained()
			p.Kill()
			return deaths
		}
		if p.ExitCode() != killedStatus {
			s.t.Fatalf("a relay ended by itself: %v", p.Err())
		}
		deaths++
	}
}
