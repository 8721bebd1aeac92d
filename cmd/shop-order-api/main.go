// Command shop-order-api keeps the orders of a shop, and writes into Baton's outbox what happens to them: the
// real service of the example, of the form {domain}-{subdomain}-api.
//
// It listens on SHOP_LISTEN and, once it does, writes one JSON line with its address to standard output;
// everything else goes to standard error. The first SIGTERM or SIGINT lets requests finish, the second one ends
// the process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/term"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/api"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal drains; the second one kills
	log := newLog(os.Stderr)
	c, err := parseConfig(env.ToMap(os.Environ()))
	if err == nil {
		err = run(ctx, c, log, os.Stdout)
	}
	if err != nil {
		log.Error("shop-order-api ends", "err", err)
		os.Exit(1)
	}
}

// newLog writes text for people and JSON for programs.
func newLog(f *os.File) *slog.Logger {
	if term.IsTerminal(int(f.Fd())) {
		return slog.New(slog.NewTextHandler(f, nil))
	}
	return slog.New(slog.NewJSONHandler(f, nil))
}

// startTimeout bounds the migration at the start. A database that takes longer is a reason to end, and to be
// started again by whoever watches.
const startTimeout = 15 * time.Second

// run serves until ctx ends, then lets requests finish. It tells started where it listens.
func run(ctx context.Context, c config, log *slog.Logger, started io.Writer) error {
	pool, err := pgxpool.NewWithConfig(ctx, c.pool)
	if err != nil {
		return fmt.Errorf("shop-order-api: open pool: %w", err)
	}
	defer pool.Close()
	s := store.New(pool)
	migrateCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.Migrate(migrateCtx); err != nil {
		return fmt.Errorf("shop-order-api: start: %w", err)
	}
	handler := api.New(api.Config{Store: s, Ready: s.Ready, Log: log, Timeout: c.RequestTimeout})
	return serve(ctx, newServer(handler, c.RequestTimeout, log), c, log, started)
}

// newServer bounds everything that a client can make the server wait for.
func newServer(handler http.Handler, request time.Duration, log *slog.Logger) *http.Server {
	const read = 10 * time.Second
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       read,
		WriteTimeout:      read + request + 5*time.Second, // counts from the end of the header
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

func serve(ctx context.Context, srv *http.Server, c config, log *slog.Logger, started io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("shop-order-api: listen: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	addr := l.Addr().String()
	if err := json.NewEncoder(started).Encode(listening{"listening", addr}); err != nil {
		log.Warn("standard output is closed", "err", err)
	}
	log.Info("listening", "addr", addr)
	select {
	case err := <-served:
		return fmt.Errorf("shop-order-api: serve: %w", err)
	case <-ctx.Done():
	}
	log.Info("draining", "at_most", c.Drain.String())
	err = drain(ctx, srv, c.Drain)
	<-served
	return err
}

// listening is the line on standard output.
type listening struct {
	Msg  string `json:"msg"`
	Addr string `json:"addr"`
}

// drain must outlive the signal that ended ctx, and is bounded by its own time.
func drain(ctx context.Context, srv *http.Server, atMost time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), atMost, errDrain)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("shop-order-api: %w after %s", context.Cause(ctx), atMost), srv.Close())
	}
	return nil
}

var errDrain = errors.New("drain: requests were cut off")
