package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/api"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/shoptest"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/store"
)

// service is the API on a real database.
type service struct {
	*httptest.Server
	pool *pgxpool.Pool
}

func newService(t *testing.T) service {
	t.Helper()
	pool := shoptest.Pool(t, shoptest.Database(t))
	return service{serve(t, pool, 30*time.Second), pool}
}

func serve(t *testing.T, pool *pgxpool.Pool, timeout time.Duration) *httptest.Server {
	t.Helper()
	s := store.New(pool)
	log := slog.New(slog.DiscardHandler)
	server := httptest.NewServer(api.New(api.Config{Store: s, Ready: s.Ready, Log: log, Timeout: timeout}))
	t.Cleanup(server.Close)
	return server
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send sends one request; a body goes as application/json unless the header says otherwise.
func send(t *testing.T, s *httptest.Server, method, path, body string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// decode wants the status and decodes the body, refusing fields that T does not have.
func decode[T any](t *testing.T, a answer, status int) (v T) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status = %d, want %d: %s", a.status, status, a.body)
	}
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("decode %s: %v", a.body, err)
	}
	return v
}

const draftJSON = `{"customer":"Ada","currency":"EUR","items":[{"sku":"A-1","quantity":2,"price_minor":1999}]}`

func updateJSON(version int64) string {
	return fmt.Sprintf(`{"version":%d,%s`, version, draftJSON[1:])
}

func TestAnOrderLivesFromPostToDelete(t *testing.T) {
	t.Parallel()
	s := newService(t)
	a := send(t, s.Server, "POST", "/orders", draftJSON)
	created := decode[model.Order](t, a, http.StatusCreated)
	want := model.Order{ID: created.ID, Version: 1, Customer: "Ada", Currency: "EUR",
		Items: []model.Item{{SKU: "A-1", Quantity: 2, PriceMinor: 1999}}}
	if diff := cmp.Diff(created, want, cmpopts.IgnoreFields(model.Order{}, "CreatedAt", "UpdatedAt")); diff != "" {
		t.Errorf("created (-got +want):\n%s", diff)
	}
	path := a.header.Get("Location")
	if got, want := path, "/orders/"+created.Key(); got != want {
		t.Errorf("Location = %q, want %q", got, want)
	}
	updated := decode[model.Order](t, send(t, s.Server, "PUT", path, updateJSON(1)), http.StatusOK)
	if got, want := updated.Version, int64(2); got != want {
		t.Errorf("version after PUT = %d, want %d", got, want)
	}
	read := decode[model.Order](t, send(t, s.Server, "GET", path, ""), http.StatusOK)
	if diff := cmp.Diff(read, updated); diff != "" {
		t.Errorf("read after PUT (-got +want):\n%s", diff)
	}
	got := send(t, s.Server, "DELETE", path+"?version=2", "")
	if got.status != http.StatusNoContent || len(got.body) != 0 {
		t.Errorf("DELETE = %d %q, want 204 and nothing", got.status, got.body)
	}
	var types []string
	for _, e := range shoptest.Events(t, s.pool, created.Key()) {
		types = append(types, e.Type)
	}
	if diff := cmp.Diff(types, []string{"Created", "Updated", "Removed"}); diff != "" {
		t.Errorf("events (-got +want):\n%s", diff)
	}
}

func TestPagesCoverAllOrdersOnceAndEnd(t *testing.T) {
	t.Parallel()
	s := newService(t)
	var want []int64
	for range 6 {
		want = append(want, decode[model.Order](t, send(t, s.Server, "POST", "/orders", draftJSON), 201).ID)
	}
	type page struct {
		Orders []model.Order `json:"orders"`
		Next   *int64        `json:"next"`
	}
	for _, limit := range []int{1, 4, 6, 7} { // 6: a full page that is the last must not promise another
		var got []int64
		pages := 0
		for path := fmt.Sprintf("/orders?limit=%d", limit); path != ""; pages++ {
			p := decode[page](t, send(t, s.Server, "GET", path, ""), http.StatusOK)
			for _, o := range p.Orders {
				got = append(got, o.ID)
			}
			path = ""
			if p.Next != nil {
				path = fmt.Sprintf("/orders?limit=%d&after=%d", limit, *p.Next)
			}
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("limit %d: ids (-got +want):\n%s", limit, diff)
		}
		if want := (6 + limit - 1) / limit; pages != want {
			t.Errorf("limit %d: pages = %d, want %d", limit, pages, want)
		}
	}
	empty := send(t, s.Server, "GET", fmt.Sprintf("/orders?after=%d", want[5]), "")
	if got, want := string(empty.body), `{"orders":[]}`+"\n"; got != want {
		t.Errorf("page after the last order = %q, want %q", got, want)
	}
}

func TestHealthIsPlainText(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for _, path := range []string{"/livez", "/readyz"} {
		if got := send(t, s.Server, "GET", path, ""); got.status != http.StatusOK || string(got.body) != "ok\n" {
			t.Errorf("%s = %d %q, want 200 %q", path, got.status, got.body, "ok\n")
		}
	}
}
