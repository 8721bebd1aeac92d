package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/migrations"
)

var update = flag.Bool("update", false, "write the golden files")

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "baton-cli-")
	if err == nil {
		binary = filepath.Join(dir, "baton")
		err = run("go", "build", "-o", binary, ".")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := clustertest.Run(m, clustertest.Background()...)
	os.RemoveAll(dir)
	os.Exit(code)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

const commandMax = 30 * time.Second

// environment of a command: nothing of the test's own is in it.
type environment map[string]string

func (e environment) with(more environment) environment {
	all := maps.Clone(e)
	if all == nil {
		all = environment{}
	}
	maps.Copy(all, more)
	return all
}

func (e environment) list() []string {
	list := []string{"HOME=/nonexistent"}
	for _, k := range slices.Sorted(maps.Keys(e)) {
		list = append(list, k+"="+e[k])
	}
	return list
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// baton runs a command to its end.
func (e environment) baton(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = e.list()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("baton %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want checks the exit code, and that standard error says all of texts.
func (r result) want(t *testing.T, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code = %d, want %d; stderr:\n%s", r.code, code, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stderr, text) {
			t.Errorf("stderr does not say %q:\n%s", text, r.stderr)
		}
	}
	return r
}

// decode reads standard output as JSON.
func decode[T any](t *testing.T, r result) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatalf("stdout is not JSON: %v\n%s\nstderr:\n%s", err, r.stdout, r.stderr)
	}
	return v
}

// outbox is a database, migrated, a topic, and a superuser's eyes on them.
type outboxDB struct {
	environment
	t          *testing.T
	url        string
	admin      *pgxpool.Pool
	recordType string
	topic      string
}

// newOutbox is migrated, for a record type whose topic does not exist yet.
func newOutbox(t *testing.T) *outboxDB {
	t.Helper()
	return newOutboxOn(t, clustertest.Database(t))
}

func newOutboxOn(t *testing.T, url string) *outboxDB {
	t.Helper()
	if err := migrations.Up(t.Context(), url, migrations.Options{}); err != nil {
		t.Fatal(err)
	}
	admin, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	d := &outboxDB{t: t, url: url, admin: admin, recordType: "shop.o" + strings.ToLower(rand.Text())}
	d.topic = d.recordType + ".events"
	d.environment = environment{
		"DATABASE_URL": url, "BATON_KAFKA_BROKERS": strings.Join(clustertest.Kafka(t).Addrs(), ","),
		"BATON_ALLOW":      d.recordType,
		"BATON_OPS_LISTEN": "127.0.0.1:0", "BATON_INSTANCE": "relay-1",
	}
	return d
}

// withTopic creates the topic too.
func (d *outboxDB) withTopic() *outboxDB {
	d.t.Helper()
	d.baton(d.t, "topics", "ensure", "--partitions", "2", "--replication-factor", "1").want(d.t, 0)
	return d
}

func (d *outboxDB) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.admin.Exec(d.t.Context(), sql, args...); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

// add writes an event for each of n records, few of them in one transaction.
func (d *outboxDB) add(n int) {
	d.t.Helper()
	for from := 1; from <= n; from += 250 {
		d.exec("select baton.add($1, i::text, 'Created', '{}'::text) from generate_series($2::int, $3::int) i",
			d.recordType, from, min(n, from+249))
	}
}

func (d *outboxDB) count(sql string, args ...any) (n int) {
	d.t.Helper()
	if err := d.admin.QueryRow(d.t.Context(), sql, args...).Scan(&n); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// role creates a role that can log in, and returns the URL with which it does.
func (d *outboxDB) role(options string) (name, roleURL string) {
	d.t.Helper()
	name = "cli_" + strings.ToLower(rand.Text()[:12])
	d.exec("create role " + name + " login " + options)
	d.t.Cleanup(func() {
		ctx := context.Background() // the test's context has ended
		_, err := d.admin.Exec(ctx, "drop owned by "+name+"; drop role "+name, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			d.t.Errorf("drop role %s: %v", name, err)
		}
	})
	u, err := url.Parse(d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.User(name)
	return name, u.String()
}

// onServer is a URL of the test's server with another user, host or database.
func onServer(t *testing.T, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(clustertest.Postgres(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

// eventually waits for a condition, or for the end of the process that it depends on.
func eventually(t *testing.T, what string, process *cluster.Process, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20s", what)
		}
		select {
		case <-tick.C:
		case <-process.Done():
			if condition() {
				return
			}
			t.Fatalf("%s: the process has ended: %v", what, process.Err())
		}
	}
}
