// Package telemetry lets a relay be watched: one small HTTP server with /livez, /readyz and /metrics.
// Liveness never asks PostgreSQL or Kafka: an outage must not restart every relay. No metric has a
// record in its labels.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one condition of readiness.
type Check struct {
	Name  string
	Ready func() error // nil: ready
}

// Ops is the server. Its zero value is not usable.
type Ops struct {
	checks   []Check
	server   *http.Server
	listener net.Listener
	leaving  atomic.Bool
}

// Listen binds address, which may end in port 0. Metrics are those of the collectors, of Go and of the process.
func Listen(address string, checks []Check, metrics ...prometheus.Collector) (*Ops, error) {
	registry := prometheus.NewRegistry()
	metrics = append(metrics,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, c := range metrics {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("telemetry: register metrics: %w", err)
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("telemetry: listen on BATON_OPS_LISTEN: %w: a second relay on one machine wants another address, "+
			"127.0.0.1:0 for a free port, or off", err)
	}
	o := &Ops{checks: checks, listener: listener}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", o.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	o.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return o, nil
}

// Addr is where it listens.
func (o *Ops) Addr() string { return o.listener.Addr().String() }

// Leave makes readiness fail from now on: the relay is draining.
func (o *Ops) Leave() { o.leaving.Store(true) }

// endTimeout is for answers that are under way when the server ends.
const endTimeout = time.Second

// Run serves until ctx ends.
func (o *Ops) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- o.server.Serve(o.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("telemetry: serve: %w", err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if o.server.Shutdown(ending) != nil {
		_ = o.server.Close() // some client is slow
	}
	<-served
	return nil
}

// ready answers in the style of Kubernetes' own servers: a line for each check with ?verbose.
func (o *Ops) ready(w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	ok := true
	line := func(name string, err error) {
		if err != nil {
			ok = false
			fmt.Fprintf(&text, "[-]%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		fmt.Fprintf(&text, "[+]%s ok\n", name)
	}
	if o.leaving.Load() {
		line("relay", errors.New("draining"))
	}
	for _, c := range o.checks {
		line(c.Name, c.Ready())
	}
	status, verdict := http.StatusOK, "ready"
	if !ok {
		status, verdict = http.StatusServiceUnavailable, "not ready"
	}
	w.WriteHeader(status)
	if r.URL.Query().Has("verbose") || !ok {
		fmt.Fprint(w, text.String())
	}
	fmt.Fprintln(w, verdict)
}
