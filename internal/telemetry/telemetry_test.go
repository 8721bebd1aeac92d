package telemetry_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"github.com/batonrelay/baton/internal/telemetry"
	"github.com/batonrelay/baton/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts an ops server that ends with the test.
func serve(t *testing.T, checks []telemetry.Check, metrics ...prometheus.Collector) *telemetry.Ops {
	t.Helper()
	ops, err := telemetry.Listen("127.0.0.1:0", checks, metrics...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ops.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return ops
}

func get(t *testing.T, ops *telemetry.Ops, path string) (status int, body string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + ops.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestReadinessListsEveryCheck(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	ops := serve(t, []telemetry.Check{
		{Name: "postgres", Ready: func() error { return nil }},
		{Name: "kafka", Ready: func() error {
			if down.Load() {
				return errors.New("no broker\nanswers")
			}
			return nil
		}},
	})
	for _, tc := range []struct {
		down   bool
		path   string
		status int
		body   string
	}{
		{false, "/readyz", 200, "ready\n"},
		{false, "/readyz?verbose", 200, "[+]postgres ok\n[+]kafka ok\nready\n"},
		{true, "/readyz", 503, "[+]postgres ok\n[-]kafka: no broker; answers\nnot ready\n"},
		{true, "/livez", 200, "ok\n"},
	} {
		down.Store(tc.down)
		if status, body := get(t, ops, tc.path); status != tc.status || body != tc.body {
			t.Errorf("%s, down = %v: %d %q, want %d %q", tc.path, tc.down, status, body, tc.status, tc.body)
		}
	}
}

func TestRelayThatLeavesIsNotReadyButAlive(t *testing.T) {
	t.Parallel()
	ops := serve(t, nil)
	ops.Leave()
	if status, body := get(t, ops, "/readyz"); status != 503 || !strings.Contains(body, "[-]relay: draining") {
		t.Errorf("/readyz = %d %q, want 503", status, body)
	}
	if status, _ := get(t, ops, "/livez"); status != 200 {
		t.Errorf("/livez = %d, want 200", status)
	}
}

func TestAddressThatCannotBeBoundIsNamed(t *testing.T) {
	t.Parallel()
	if _, err := telemetry.Listen("127.0.0.1:-1", nil); err == nil || !strings.Contains(err.Error(), "BATON_OPS_LISTEN") {
		t.Errorf("Listen = %v, want an error that names BATON_OPS_LISTEN", err)
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	t.Parallel()
	ops := serve(t, nil)
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		resp, err := http.Post("http://"+ops.Addr()+path, "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s = %d, want 405", path, resp.StatusCode)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// A client that sends half a request must not hold the end up.
func TestSlowClientDoesNotHoldUpTheEnd(t *testing.T) {
	ops, err := telemetry.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ops.Run(ctx) }()
	conn, err := net.Dial("tcp", ops.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")); err != nil {
		t.Fatal(err)
	}
	get(t, ops, "/livez") // it serves, and has seen the half request's connection
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Run waits for a client that is slow")
	}
}

// every field of RelayStats that counts has one metric, and metrics show what they are named after.
func TestEveryCounterOfARelayIsShown(t *testing.T) {
	t.Parallel()
	var stats outbox.RelayStats
	v := reflect.ValueOf(&stats).Elem()
	want := map[string]bool{}
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Int64 {
			v.Field(i).SetInt(int64(1000 + i))
			want[strconv.Itoa(1000+i)] = true
		}
	}
	ops := serve(t, nil, telemetry.RelayMetrics{Stats: func() outbox.RelayStats { return stats }})
	_, text := get(t, ops, "/metrics")
	got := map[string]bool{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, _ := strings.Cut(line, " "); strings.HasPrefix(name, "baton_") {
			if got[value] {
				t.Errorf("%s shows what another metric shows", name)
			}
			got[value] = true
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("values shown (-got +want):\n%s\n%s", diff, text)
	}
	for _, line := range []string{
		"baton_events_published_total " + strconv.FormatInt(stats.Published, 10),
		"baton_leases_lost_total " + strconv.FormatInt(stats.Lost, 10),
		"baton_leases_stale_total " + strconv.FormatInt(stats.StaleClaimed, 10),
		"baton_claims_total " + strconv.FormatInt(stats.Claims, 10),
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "baton_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
