package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/shoptest"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// running is the service in this process, on a port of its own.
type running struct {
	url   string
	stop  context.CancelFunc // as the first signal does
	ended chan error
	pool  *pgxpool.Pool // of the test
}

func start(t *testing.T, environ map[string]string) running {
	t.Helper()
	database := shoptest.Database(t)
	environ["DATABASE_URL"] = database
	environ["SHOP_LISTEN"] = "127.0.0.1:0"
	c, err := parseConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stdout, started := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, c, slog.New(slog.DiscardHandler), started)
		started.Close()
	}()
	t.Cleanup(stop)
	var line listening
	if err := json.NewDecoder(stdout).Decode(&line); err != nil {
		t.Fatal(errors.Join(err, <-ended))
	}
	return running{"http://" + line.Addr, stop, ended, shoptest.Pool(t, database)}
}

// do sends a request on a connection of its own, and returns the status, or 0 when it was cut off.
func (r running) do(method, path, body string) int {
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

const orderJSON = `{"version":1,"customer":"Ada","currency":"EUR","items":[{"sku":"A","quantity":1,"price_minor":1}]}`

// updateHeld starts an update of a row that is held, and returns when it waits in the database.
func updateHeld(t *testing.T, r running) (status chan int, letGo func()) {
	t.Helper()
	draft := strings.Replace(orderJSON, `"version":1,`, "", 1)
	if got, want := r.do("POST", "/orders", draft), http.StatusCreated; got != want {
		t.Fatalf("POST status = %d, want %d", got, want)
	}
	letGo = shoptest.HoldRow(t, r.pool, 1)
	status = make(chan int, 1)
	go func() { status <- r.do("PUT", "/orders/1", orderJSON) }()
	shoptest.WaitForWaiters(t, r.pool, 1)
	return status, letGo
}

func TestFirstSignalLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	r := start(t, map[string]string{})
	status, letGo := updateHeld(t, r)
	r.stop()
	refuses(t, r)
	letGo()
	if got, want := <-status, http.StatusOK; got != want {
		t.Errorf("status of the request in hand = %d, want %d", got, want)
	}
	if err := <-r.ended; err != nil {
		t.Errorf("run error = %v, want nil", err)
	}
}

func TestDrainEndsInTime(t *testing.T) {
	t.Parallel()
	r := start(t, map[string]string{"SHOP_DRAIN": "50ms", "SHOP_REQUEST_TIMEOUT": "1h"})
	status, letGo := updateHeld(t, r)
	defer letGo()
	r.stop()
	if err := <-r.ended; !errors.Is(err, errDrain) {
		t.Errorf("run error = %v, want %v", err, errDrain)
	}
	if got, want := <-status, 0; got != want {
		t.Errorf("status of the request in hand = %d, want it cut off", got)
	}
	if got, want := shoptest.Int(t, r.pool, `SELECT version FROM shop.orders`), int64(1); got != want {
		t.Errorf("version = %d, want %d", got, want)
	}
}

// refuses returns when the service takes no more connections.
func refuses(t *testing.T, r running) {
	t.Helper()
	for {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			return
		}
		conn.Close()
	}
}

func TestBusyPortIsAnError(t *testing.T) {
	t.Parallel()
	r := start(t, map[string]string{})
	c, err := parseConfig(map[string]string{
		"DATABASE_URL": r.pool.Config().ConnString(), "SHOP_LISTEN": strings.TrimPrefix(r.url, "http://"),
	})
	if err != nil {
		t.Fatal(err)
	}
	err = run(t.Context(), c, slog.New(slog.DiscardHandler), io.Discard)
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("run error = %v, want one of listening", err)
	}
	r.stop()
	<-r.ended
}

func TestEveryBadVariableIsNamedAtOnceAndNoSecret(t *testing.T) {
	t.Parallel()
	_, err := parseConfig(map[string]string{
		"DATABASE_URL":         "postgres://shop:hunter2@localhost:port/%zz",
		"SHOP_LISTEN":          "8081",
		"SHOP_POOL":            "many",
		"SHOP_REQUEST_TIMEOUT": "-1s",
		"SHOP_DRAIN":           "soon",
	})
	if err == nil {
		t.Fatal("parseConfig error = nil, want one")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(line, "  ") {
			got = append(got, name)
		}
	}
	want := []string{"DATABASE_URL", "SHOP_DRAIN", "SHOP_LISTEN", "SHOP_POOL", "SHOP_REQUEST_TIMEOUT"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("variables (-got +want):\n%s", diff)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error tells the password: %v", err)
	}
}

func TestDatabaseComesFromOneOfThreePlaces(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "database_url")
	if err := os.WriteFile(file, []byte("postgres://of-file/shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		environ map[string]string
		bad     string // the variable that is named; "" means none
	}{
		{"URL", map[string]string{"DATABASE_URL": "postgres://of-url/shop"}, ""},
		{"file", map[string]string{"DATABASE_URL_FILE": file}, ""},
		{"libpq's variables", map[string]string{"PGHOST": "of-libpq"}, ""},
		{"none", map[string]string{}, "DATABASE_URL"},
		{"two", map[string]string{"DATABASE_URL": "postgres://of-url/shop", "DATABASE_URL_FILE": file}, "DATABASE_URL_FILE"},
		{"missing file", map[string]string{"DATABASE_URL_FILE": file + "x"}, "DATABASE_URL_FILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := parseConfig(tt.environ)
			if tt.bad != "" {
				if err == nil || !strings.Contains(err.Error(), "\n  "+tt.bad+" ") {
					t.Errorf("error = %v, want one that names %s", err, tt.bad)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if host := c.pool.ConnConfig.Host; tt.name != "libpq's variables" && host != "of-"+strings.ToLower(tt.name) {
				t.Errorf("host = %q, want that of the %s", host, tt.name)
			}
			if got, want := c.pool.MaxConns, int32(10); got != want {
				t.Errorf("connections at most = %d, want %d", got, want)
			}
			if got, want := c.RequestTimeout, 5*time.Second; got != want {
				t.Errorf("request timeout = %v, want %v", got, want)
			}
		})
	}
}
