package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
)

const canary = "c4n4ry-p4ssw0rd"

// leaves are all commands that do something, as argument lists.
func leaves() (list [][]string) {
	var walk func(cmd *cobra.Command, path []string)
	walk = func(cmd *cobra.Command, path []string) {
		if !cmd.HasSubCommands() {
			list = append(list, path)
		}
		for _, c := range cmd.Commands() {
			walk(c, append(append([]string{}, path...), c.Name()))
		}
	}
	walk(newRoot(), nil)
	return list
}

// The texts of all commands: what a user reads first. Run with -update after a change.
func TestHelpOfEveryCommandIsTheGoldenOne(t *testing.T) {
	t.Parallel()
	var help strings.Builder
	for _, path := range append([][]string{{}}, leaves()...) {
		if len(path) > 0 && slices.Contains([]string{"demo", "completion", "help"}, path[0]) {
			continue // a random seed, and texts of cobra
		}
		r := environment{}.baton(t, append(path, "--help")...).want(t, 0)
		help.WriteString("$ baton " + strings.Join(append(path, "--help"), " ") + "\n" + r.stdout + "\n")
	}
	golden := filepath.Join("testdata", "help.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(help.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(help.String(), string(want)); diff != "" {
		t.Errorf("help (-got +want; go test ./cmd/baton -update writes it anew):\n%s", diff)
	}
}

func TestMistakesInArgumentsEndWithUsage(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"statuss":                   `is "status" meant?`,
		"migrate upp":               `is "up" meant?`,
		"relay now":                 "usage: baton relay",
		"relay --foo":               "unknown flag: --foo",
		"status -o yaml":            "must be text or json",
		"park shop.order":           "usage: baton park TYPE KEY --reason",
		"park shop.order 42":        "--reason is missing",
		"migrate grants":            "name a role: --writer ROLE, --relay ROLE or both",
		"topics check":              "no topic: name some",
		"topics ensure":             "no topic: name some",
		"topics ensure --partition": "unknown flag",
	} {
		e := environment{"DATABASE_URL": "postgres://relay@127.0.0.1:1/shop", "BATON_KAFKA_BROKERS": "127.0.0.1:1"}
		if r := e.baton(t, strings.Fields(args)...).want(t, 2, says); r.stdout != "" {
			t.Errorf("baton %s: stdout = %q, want nothing: it is for data", args, r.stdout)
		}
	}
}

func TestAllMistakesInTheEnvironmentAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	e := environment{
		"BATON_CONSUMERS": "0", "BATON_LEASE": "soon", "BATON_ROUTES": "shop.order", "BATON_OPS_LISTEN": "here",
		"BATON_CONSUMER": "1",
	}
	e.baton(t, "relay").want(t, 2, "6 mistakes", "BATON_DATABASE_URL is not set", "BATON_KAFKA_BROKERS is not set",
		`BATON_CONSUMERS is "0"`, `BATON_LEASE is "soon"`, "BATON_ROUTES entry 1", `BATON_OPS_LISTEN is "here"`,
		"warning: BATON_CONSUMER is set", "is BATON_CONSUMERS meant?")
}

func TestVersionSaysForWhichSchema(t *testing.T) {
	t.Parallel()
	got := decode[build](t, environment{}.baton(t, "version", "-o", "json").want(t, 0))
	if got.Schema != thisBuild().Schema || got.Go != thisBuild().Go || got.Version == "" {
		t.Errorf("version = %+v, want that of %+v", got, thisBuild())
	}
}

func TestConfigShowHidesSecretsAndTellsWhereValuesAreFrom(t *testing.T) {
	t.Parallel()
	e := environment{"DATABASE_URL": "postgres://relay:" + canary + "@db/shop", "BATON_LEASE": "45s"}
	list := decode[[]config.Field](t, e.baton(t, "config", "show", "-o", "json").want(t, 0))
	from := map[string]string{}
	for _, f := range list {
		from[f.Name] = f.Value + " " + f.From
	}
	for name, want := range map[string]string{
		"BATON_DATABASE_URL": "*** DATABASE_URL", "BATON_LEASE": "45s BATON_LEASE", "BATON_DRAIN": "20s default",
	} {
		if from[name] != want {
			t.Errorf("%s = %q, want %q", name, from[name], want)
		}
	}
	r := e.baton(t, "config", "show").want(t, 0)
	if strings.Contains(r.stdout, canary) || !strings.Contains(r.stdout, "***") {
		t.Errorf("the secret is not masked:\n%s", r.stdout)
	}
	r = e.with(environment{"BATON_LEASE": "1"}).baton(t, "config", "show").want(t, 2, "BATON_LEASE")
	if !strings.Contains(r.stdout, "BATON_DRAIN") {
		t.Errorf("one mistake hides the other variables:\n%s", r.stdout)
	}
}

// No command may print a secret, however malformed it is.
func TestNoCommandPrintsASecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "url")
	if err := os.WriteFile(file, []byte("postgres://relay:"+canary+"@127.0.0.1:port/shop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := map[string][]string{
		"park": {"shop.order", "42", "--reason", "x"}, "unpark": {"shop.order", "42", "--reason", "x"},
		"skip":           {"shop.order", "42", "--reason", "x"},
		"migrate grants": {"--relay", "r", "--apply"}, "topics ensure": {"orders"}, "topics check": {"orders"},
	}
	const other = "postgres://u@127.0.0.1:1/shop"
	for _, secret := range []environment{
		{"DATABASE_URL": "postgres://relay:" + canary + "@127.0.0.1:1/shop"},
		{"DATABASE_URL": "postgres://relay:" + canary + "@127.0.0.1:port/shop"},
		{"DATABASE_URL": "postgres://relay:a/" + canary + "@127.0.0.1/shop"},
		{"DATABASE_URL": "postgres://relay:a@" + canary + "@127.0.0.1/shop"},
		{"DATABASE_URL": "postgres://relay:1/" + canary + "@127.0.0.1/shop"},
		{"DATABASE_URL": "postgres://relay:1?" + canary + "@127.0.0.1/shop"},
		{"DATABASE_URL": "postgres://relay:1#" + canary + "@127.0.0.1/shop"},
		{"DATABASE_URL": "host=127.0.0.1 port=1 password='" + canary},
		{"DATABASE_URL": "host=127.0.0.1 port=1 user=u password=" + canary + " sslmode=" + canary},
		{"DATABASE_URL_FILE": file},
		{"PGHOST": "127.0.0.1", "PGPORT": "1", "PGPASSWORD": canary},
		{"DATABASE_URL": other, "BATON_DATABASE_DIRECT_URL": "postgres://owner:" + canary + "@127.0.0.1:1/shop"},
		{"DATABASE_URL": other, "BATON_DATABASE_DIRECT_URL": canary + "://" + canary},
	} {
		for _, path := range leaves() {
			name := strings.Join(path, " ")
			if name == "demo" || path[0] == "completion" || path[0] == "help" || name == "relay" && !mistaken(secret) {
				continue // these read no environment; a relay waits for a server that is away
			}
			e := secret.with(environment{"BATON_OPS_LISTEN": "off", "BATON_LOG_LEVEL": "debug"})
			r := e.baton(t, append(path, arguments[name]...)...)
			if strings.Contains(r.stdout+r.stderr, canary) {
				t.Errorf("baton %s with %v prints the secret:\n%s%s", name, secret, r.stdout, r.stderr)
			}
		}
	}
}

// mistaken reports whether an environment is refused.
func mistaken(e environment) bool {
	_, err := config.Load(e.list(), config.Database, config.Kafka)
	return err != nil
}
