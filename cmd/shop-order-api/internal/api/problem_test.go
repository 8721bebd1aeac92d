package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/shoptest"
	"github.com/batonrelay/baton/internal/cluster"
)

// problem is RFC 9457's, as a client sees it.
type problem struct {
	Type   string             `json:"type"`
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Detail string             `json:"detail"`
	Errors []model.FieldError `json:"errors"`
}

func (p problem) fields() string {
	var names []string
	for _, e := range p.Errors {
		names = append(names, e.Field)
	}
	return strings.Join(names, " ")
}

func decodeProblem(t *testing.T, a answer, status int) problem {
	t.Helper()
	p := decode[problem](t, a, status)
	if got, want := a.header.Get("Content-Type"), "application/problem+json"; got != want {
		t.Errorf("Content-Type = %q, want %q", got, want)
	}
	if p.Status != status || p.Title == "" || p.Type == "" {
		t.Errorf("problem = %+v, want status %d, a title and a type", p, status)
	}
	return p
}

func TestEveryRefusalIsAProblem(t *testing.T) {
	t.Parallel()
	s := newService(t)
	const (
		plain     = "about:blank"
		tag       = "tag:shop.example,2026:"
		invalid   = tag + "invalid-fields"
		malformed = tag + "malformed-body"
	)
	item := `{"sku":"A","quantity":1,"price_minor":1}`
	with := func(old, new string) string { return strings.Replace(draftJSON, old, new, 1) }
	tests := []struct {
		name, method, path, body string
		status                   int
		kind, fields             string
	}{
		{"nothing", "POST", "/orders", ``, 400, malformed, ""},
		{"not JSON", "POST", "/orders", `{"customer":`, 400, malformed, ""},
		{"not JSON either", "POST", "/orders", `customer=Ada`, 400, malformed, ""},
		{"more than one object", "POST", "/orders", draftJSON + draftJSON, 400, malformed, ""},
		{"garbage behind", "POST", "/orders", draftJSON + "]", 400, malformed, ""},
		{"not UTF-8", "POST", "/orders", with("Ada", "A\xff"), 400, malformed, ""},
		{"NUL", "POST", "/orders", with("Ada", `A\u0000`), 422, invalid, "customer"},
		{"half a surrogate pair", "POST", "/orders", with("Ada", `A\ud800`), 422, invalid, "customer"},
		{"null", "POST", "/orders", `null`, 422, invalid, "customer currency items"},
		{"empty object", "POST", "/orders", `{}`, 422, invalid, "customer currency items"},
		{"an array", "POST", "/orders", `[]`, 422, invalid, "body"},
		{"unknown field", "POST", "/orders", `{"discount":1}`, 422, invalid, "discount"},
		{"unknown field inside", "POST", "/orders", with(`"sku"`, `"name":1,"sku"`), 422, invalid, "name"},
		{"id is not the client's", "POST", "/orders", `{"id":1}`, 422, invalid, "id"},
		{"number for a string", "POST", "/orders", with(`"Ada"`, `7`), 422, invalid, "customer"},
		{"fraction of a piece", "POST", "/orders", with(`:2,`, `:2.5,`), 422, invalid, "items.quantity"},
		{"beyond int64", "POST", "/orders", with(`1999`, `99999999999999999999`), 422, invalid, "items.price_minor"},
		{"all limits at once", "POST", "/orders",
			`{"customer":"","currency":"euro","items":[` + item + `,{"sku":"a","quantity":0,"price_minor":-1}]}`,
			422, invalid, "customer currency items[1].sku items[1].quantity items[1].price_minor"},
		{"update without a version", "PUT", "/orders/1", draftJSON, 422, invalid, "version"},
		{"update, all at once", "PUT", "/orders/1", `{"version":-1}`, 422, invalid, "customer currency items version"},
		{"page and limit", "GET", "/orders?after=x&limit=0", ``, 422, invalid, "after limit"},
		{"limit too high", "GET", "/orders?limit=201", ``, 422, invalid, "limit"},
		{"version to remove", "DELETE", "/orders/1?version=two", ``, 422, invalid, "version"},
		{"read what is not there", "GET", "/orders/404", ``, 404, tag + "order-not-found", ""},
		{"read no number", "GET", "/orders/abc", ``, 404, tag + "order-not-found", ""},
		{"read beyond int64", "GET", "/orders/99999999999999999999", ``, 404, tag + "order-not-found", ""},
		{"update what is not there", "PUT", "/orders/404", updateJSON(1), 404, tag + "order-not-found", ""},
		{"remove what is not there", "DELETE", "/orders/404", ``, 404, tag + "order-not-found", ""},
		{"unknown path", "GET", "/baskets", ``, 404, plain, ""},
		{"unknown method", "PATCH", "/orders/1", ``, 405, plain, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := decodeProblem(t, send(t, s.Server, tt.method, tt.path, tt.body), tt.status)
			if got, want := p.Type, tt.kind; got != want {
				t.Errorf("type = %q, want %q", got, want)
			}
			if got, want := p.fields(), tt.fields; got != want {
				t.Errorf("fields = %q, want %q", got, want)
			}
			for _, e := range p.Errors {
				if e.Detail == "" {
					t.Errorf("field %s has no detail", e.Field)
				}
			}
		})
	}
	const written = `SELECT (SELECT count(*) FROM shop.orders) + (SELECT count(*) FROM baton.event)`
	if got := shoptest.Int(t, s.pool, written); got != 0 {
		t.Errorf("orders and events after refusals = %d, want 0", got)
	}
}

func TestWrongMethodNamesTheRightOnes(t *testing.T) {
	t.Parallel()
	s := newService(t)
	a := send(t, s.Server, "PATCH", "/orders/1", "")
	if got, want := a.header.Get("Allow"), "DELETE, GET, HEAD, PUT"; got != want {
		t.Errorf("Allow = %q, want %q", got, want)
	}
}

func TestOtherMediaTypesAreRefused(t *testing.T) {
	t.Parallel()
	s := newService(t)
	for media, status := range map[string]int{
		"":                                  415,
		"text/plain":                        415,
		"application/x-www-form-urlencoded": 415,
		"application/json/x":                415,
		"application/json; charset=utf-8":   201,
		"Application/JSON":                  201,
	} {
		a := send(t, s.Server, "POST", "/orders", draftJSON, "Content-Type", media)
		if status != http.StatusCreated {
			decodeProblem(t, a, status)
		} else if a.status != status {
			t.Errorf("media type %q: status = %d, want %d", media, a.status, status)
		}
	}
}

func TestBodyLimitIs64KiB(t *testing.T) {
	t.Parallel()
	s := newService(t)
	padded := func(n int) string { return draftJSON + strings.Repeat(" ", n-len(draftJSON)) }
	if got, want := send(t, s.Server, "POST", "/orders", padded(64<<10)).status, http.StatusCreated; got != want {
		t.Errorf("status at the limit = %d, want %d", got, want)
	}
	decodeProblem(t, send(t, s.Server, "POST", "/orders", padded(64<<10+1)), http.StatusRequestEntityTooLarge)
}

func TestStaleVersionIsAConflict(t *testing.T) {
	t.Parallel()
	s := newService(t)
	path := send(t, s.Server, "POST", "/orders", draftJSON).header.Get("Location")
	for method, a := range map[string]answer{
		"PUT":    send(t, s.Server, "PUT", path, updateJSON(2)),
		"DELETE": send(t, s.Server, "DELETE", path+"?version=2", ""),
	} {
		p := decodeProblem(t, a, http.StatusConflict)
		if got, want := p.Detail, "order 1 has version 1, not 2: read it again"; got != want {
			t.Errorf("%s: detail = %q, want %q", method, got, want)
		}
	}
}

// TestDatabaseDownIsUnavailable has nothing that listens where the database should be.
func TestDatabaseDownIsUnavailable(t *testing.T) {
	t.Parallel()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig("postgres://shop:secret@127.0.0.1/shop?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.Port = uint16(port)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := serve(t, pool, 30*time.Second)
	for _, a := range []answer{
		send(t, s, "POST", "/orders", draftJSON), send(t, s, "GET", "/orders", ""), send(t, s, "GET", "/orders/1", ""),
		send(t, s, "PUT", "/orders/1", updateJSON(1)),
		send(t, s, "DELETE", "/orders/1", ""), send(t, s, "GET", "/readyz", ""),
	} {
		checkUnavailable(t, a)
		if body := string(a.body); strings.Contains(body, "127.0.0.1") || strings.Contains(body, "secret") {
			t.Errorf("body = %s, want nothing of the inside", body)
		}
	}
	if got, want := send(t, s, "GET", "/livez", "").status, http.StatusOK; got != want {
		t.Errorf("/livez status = %d, want %d", got, want)
	}
}

// TestSlowDatabaseIsUnavailableInTime has somebody hold the row for longer than a request may take.
func TestSlowDatabaseIsUnavailableInTime(t *testing.T) {
	t.Parallel()
	s := newService(t)
	path := send(t, s.Server, "POST", "/orders", draftJSON).header.Get("Location")
	letGo := shoptest.HoldRow(t, s.pool, 1)
	hurried := serve(t, s.pool, 200*time.Millisecond)
	checkUnavailable(t, send(t, hurried, "PUT", path, updateJSON(1)))
	letGo()
	p := decode[model.Order](t, send(t, s.Server, "GET", path, ""), http.StatusOK)
	if got, want := p.Version, int64(1); got != want {
		t.Errorf("version = %d, want %d", got, want)
	}
}

// TestLostConnectionIsUnavailableOnce ends the sessions under the pool: the next request finds that out.
func TestLostConnectionIsUnavailableOnce(t *testing.T) {
	t.Parallel()
	s := newService(t)
	path := send(t, s.Server, "POST", "/orders", draftJSON).header.Get("Location")
	watch := shoptest.Pool(t, s.pool.Config().ConnString())
	letGo := shoptest.HoldRow(t, watch, 1)
	got := make(chan answer, 1)
	go func() {
		defer close(got) // so that a Fatal in send ends this test, and does not hang it
		got <- send(t, s.Server, "PUT", path, updateJSON(1))
	}()
	shoptest.WaitForWaiters(t, watch, 1)
	shoptest.Exec(t, watch, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`)
	checkUnavailable(t, <-got)
	letGo()
	if got, want := send(t, s.Server, "PUT", path, updateJSON(1)).status, http.StatusOK; got != want {
		t.Errorf("status of the next request = %d, want %d", got, want)
	}
}

func TestMissingOutboxIsUnavailableAndNotReady(t *testing.T) {
	t.Parallel()
	s := newService(t)
	shoptest.Exec(t, s.pool, `DROP SCHEMA baton CASCADE`)
	checkUnavailable(t, send(t, s.Server, "POST", "/orders", draftJSON))
	checkUnavailable(t, send(t, s.Server, "GET", "/readyz", ""))
	if got := shoptest.Int(t, s.pool, `SELECT count(*) FROM shop.orders`); got != 0 {
		t.Errorf("orders = %d, want 0", got)
	}
}

func checkUnavailable(t *testing.T, a answer) {
	t.Helper()
	p := decodeProblem(t, a, http.StatusServiceUnavailable)
	if got, want := a.header.Get("Retry-After"), "2"; got != want {
		t.Errorf("Retry-After = %q, want %q", got, want)
	}
	if diff := cmp.Diff(p.Type, "tag:shop.example,2026:unavailable"); diff != "" {
		t.Errorf("type (-got +want):\n%s", diff)
	}
}
