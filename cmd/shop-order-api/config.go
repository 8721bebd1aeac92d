package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/jackc/pgx/v5/pgxpool"
)

// config is the environment, parsed and checked.
type config struct {
	DatabaseURL     string        `env:"DATABASE_URL"`
	DatabaseURLFile string        `env:"DATABASE_URL_FILE"`
	Listen          string        `env:"SHOP_LISTEN" envDefault:"127.0.0.1:8081"`
	Pool            int32         `env:"SHOP_POOL" envDefault:"10"`
	RequestTimeout  time.Duration `env:"SHOP_REQUEST_TIMEOUT" envDefault:"5s"`
	Drain           time.Duration `env:"SHOP_DRAIN" envDefault:"10s"`

	pool *pgxpool.Config
}

// examples are shown with a mistake, by variable.
var examples = map[string]string{
	"DATABASE_URL":         "postgres://shop@localhost:5432/shop",
	"DATABASE_URL_FILE":    "/run/secrets/database_url",
	"SHOP_LISTEN":          "127.0.0.1:8081",
	"SHOP_POOL":            "10",
	"SHOP_REQUEST_TIMEOUT": "5s",
	"SHOP_DRAIN":           "10s",
}

// parseConfig returns one error that names every variable with a mistake. No value of a variable is repeated in
// it, since one of them is a secret.
func parseConfig(environ map[string]string) (config, error) {
	c, err := env.ParseAsWithOptions[config](env.Options{Environment: environ})
	mistakes := parseMistakes(err)
	mistake := func(name, what string) { mistakes[name] = what }
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		mistake("SHOP_LISTEN", "is not host:port")
	}
	if _, parsed := mistakes["SHOP_POOL"]; !parsed && (c.Pool < 1 || c.Pool > 100) {
		mistake("SHOP_POOL", "must be 1 to 100 connections")
	}
	checkDuration(mistakes, "SHOP_REQUEST_TIMEOUT", c.RequestTimeout)
	checkDuration(mistakes, "SHOP_DRAIN", c.Drain)
	c.openPool(environ, mistake)
	return c, joinMistakes(mistakes)
}

// parseMistakes gives the library's errors, which name Go's fields, the names of the variables.
func parseMistakes(err error) map[string]string {
	mistakes := map[string]string{}
	all, _ := errors.AsType[env.AggregateError](err)
	for _, err := range all.Errors {
		name := "environment"
		if p, ok := errors.AsType[env.ParseError](err); ok {
			field, _ := reflect.TypeFor[config]().FieldByName(p.Name)
			name = field.Tag.Get("env")
		}
		mistakes[name] = "cannot be read as what it is for"
	}
	return mistakes
}

func checkDuration(mistakes map[string]string, name string, d time.Duration) {
	if _, parsed := mistakes[name]; !parsed && (d < time.Millisecond || d > time.Hour) {
		mistakes[name] = "must be 1ms to 1h"
	}
}

// openPool finds the database: by URL, by a file with the URL, or by libpq's own variables. Poolers are not
// looked for: behind one in transaction mode the URL has default_query_exec_mode=exec.
func (c *config) openPool(environ map[string]string, mistake func(name, what string)) {
	name, url := "DATABASE_URL", c.DatabaseURL
	if c.DatabaseURLFile != "" {
		if url != "" {
			mistake("DATABASE_URL_FILE", "is set beside DATABASE_URL: which one holds?")
			return
		}
		text, err := os.ReadFile(c.DatabaseURLFile)
		if err != nil || len(strings.TrimSpace(string(text))) == 0 {
			mistake("DATABASE_URL_FILE", "cannot be read, or is empty")
			return
		}
		name, url = "DATABASE_URL_FILE", strings.TrimSpace(string(text))
	}
	if url == "" && environ["PGHOST"] == "" && environ["PGSERVICE"] == "" {
		mistake("DATABASE_URL", "is not set, nor PGHOST")
		return
	}
	pool, err := pgxpool.ParseConfig(url)
	if err != nil { // its text is left out: it may quote the password
		mistake(name, "is not a PostgreSQL URL or a list of keyword=value")
		return
	}
	pool.MaxConns = c.Pool
	c.pool = pool
}

// joinMistakes makes one error of all, in the order of the variables' names.
func joinMistakes(mistakes map[string]string) error {
	if len(mistakes) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("shop-order-api: the environment is not right:")
	for _, name := range slices.Sorted(maps.Keys(mistakes)) {
		fmt.Fprintf(&b, "\n  %s %s", name, mistakes[name])
		if example := examples[name]; example != "" {
			fmt.Fprintf(&b, " (example: %s=%s)", name, example)
		}
	}
	return errors.New(b.String())
}
