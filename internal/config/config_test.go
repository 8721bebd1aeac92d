package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

const canary = "c4n4ry-p4ssw0rd"

// least is an environment that every command accepts.
func least(more ...string) []string {
	return append([]string{"DATABASE_URL=postgres://relay@db/shop", "BATON_KAFKA_BROKERS=kafka:9092"}, more...)
}

func load(t *testing.T, environ ...string) config.Config {
	t.Helper()
	c, err := config.Load(environ, config.Database, config.Kafka)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mistakes are the variables of the error, in its order.
func mistakes(t *testing.T, err error) []string {
	t.Helper()
	var e *config.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("error is a %T: %v", err, err)
	}
	var names []string
	if e != nil {
		for _, m := range e.Mistakes {
			names = append(names, m.Variable)
		}
	}
	return names
}

func TestDefaultsAreThoseOfThePackages(t *testing.T) {
	t.Parallel()
	c := load(t, least()...)
	got, want := c.Relay(nil), outbox.DefaultRelayConfig()
	got.PolicyOf = nil
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("relay (-got +want):\n%s", diff)
	}
	pub, defaults := c.Publisher(), publisher.DefaultConfig()
	if pub.SendTimeout != defaults.SendTimeout || pub.Lease != defaults.Lease ||
		pub.ClientID != defaults.ClientID || pub.Source != defaults.Source {
		t.Errorf("publisher = %+v, want the defaults of %+v", pub, defaults)
	}
}

func TestEveryMistakeIsInOneErrorByVariableWithLimitAndExample(t *testing.T) {
	t.Parallel()
	bad := map[string]string{
		"BATON_DATABASE_URL": "postgres://relay:" + canary + "@db:port/shop", "BATON_DATABASE_DIRECT_URL": "host='" + canary,
		"BATON_POOLER": "session", "BATON_SCHEMA": "1st", "BATON_SOURCE": "a\nb", "BATON_INSTANCE": "a\tb",
		"BATON_KAFKA_BROKERS": "kafka", "BATON_KAFKA_CLIENT_ID": "a\x00",
		"BATON_ROUTES": "shop.order", "BATON_ALLOW": "shop*",
		"BATON_CONSUMERS": "0", "BATON_PRODUCERS": "65", "BATON_WORKERS": "two",
		"BATON_CLAIM_RECORDS": "-1", "BATON_CLAIM_EVENTS": "many", "BATON_CLAIM_BYTES": "8MB",
		"BATON_IN_FLIGHT_EVENTS": "0", "BATON_IN_FLIGHT_BYTES": "1",
		"BATON_POLL_MIN": "2", "BATON_POLL_MAX": "2h", "BATON_LEASE": "1ms", "BATON_SEND_TIMEOUT": "0s", "BATON_DRAIN": "-1s",
		"BATON_RETENTION": "1d", "BATON_BACKOFF_MIN": "0s", "BATON_BACKOFF_MAX": "2h",
		"BATON_ATTEMPTS_MAX": "0", "BATON_CLAIMS_MAX": "2",
		"BATON_OPS_LISTEN": "9090", "BATON_LOG_LEVEL": "loud", "BATON_LOG_FORMAT": "xml",
	}
	var environ, want []string
	for name, value := range bad {
		environ = append(environ, name+"="+value)
	}
	c, err := config.Load(environ, config.Database, config.Kafka)
	for _, f := range c.Fields() {
		want = append(want, f.Name)
	}
	if diff := cmp.Diff(mistakes(t, err), want); diff != "" {
		t.Errorf("mistakes (-got +want, which is every variable that there is):\n%s", diff)
	}
	if err == nil {
		return
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "BATON_") && !strings.Contains(line, "(example: "+name+"=") {
			t.Errorf("no example in: %s", line)
		}
	}
	for _, text := range []string{
		"a whole number from 1 to 64", "one of auto, transaction, none", "a duration from 1s to 1h",
		"a size from 1MiB to 1GiB",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q:\n%v", text, err)
		}
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("a secret is in the error:\n%v", err)
	}
}

func TestEveryExampleIsAccepted(t *testing.T) {
	t.Parallel()
	var environ []string
	for _, f := range load(t, least()...).Fields() {
		environ = append(environ, f.Name+"="+f.Example)
	}
	load(t, environ...)
}

func TestPairsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ environ, variable, says string }{
		{"BATON_LEASE=10s BATON_SEND_TIMEOUT=8s", "BATON_SEND_TIMEOUT", "the lease is shorter than a send may take: at most 7.5s"},
		{"BATON_LEASE=3s BATON_SEND_TIMEOUT=2s", "", ""},
		{"BATON_LEASE=3s", "", ""}, // the default follows
		{"BATON_CLAIM_EVENTS=100", "BATON_CLAIM_EVENTS", "at least BATON_CLAIM_RECORDS 500"},
		{"BATON_IN_FLIGHT_EVENTS=9999", "BATON_IN_FLIGHT_EVENTS", "at least BATON_CLAIM_EVENTS 10000"},
		{"BATON_CLAIM_BYTES=32MiB", "BATON_IN_FLIGHT_BYTES", "at least BATON_CLAIM_BYTES 32MiB"},
		{"BATON_POLL_MIN=50ms", "BATON_POLL_MAX", "at least BATON_POLL_MIN 50ms"},
		{"BATON_BACKOFF_MIN=1m", "BATON_BACKOFF_MAX", "at least BATON_BACKOFF_MIN 1m0s"},
		{"BATON_CLAIM_RECORDS=no", "BATON_CLAIM_RECORDS", "a whole number"}, // and nothing about what depends on it
	} {
		_, err := config.Load(least(strings.Fields(tc.environ)...))
		if got := strings.Join(mistakes(t, err), " "); got != tc.variable {
			t.Errorf("%s: mistakes in %q, want %q", tc.environ, got, tc.variable)
		}
		if tc.says != "" && !strings.Contains(fmt.Sprint(err), tc.says) {
			t.Errorf("%s: error %q does not say %q", tc.environ, err, tc.says)
		}
	}
}

func TestADatabaseIsNamedByURLByFileOrByLibpq(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "url")
	empty := filepath.Join(t.TempDir(), "empty")
	for path, text := range map[string]string{file: "postgres://relay@db/shop\n", empty: "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name     string
		environ  []string
		url      string
		mistakes []string
	}{
		{"nothing", nil, "", []string{"BATON_DATABASE_URL"}},
		{"empty", []string{"DATABASE_URL="}, "", []string{"BATON_DATABASE_URL"}},
		{"URL", []string{"DATABASE_URL=postgres://a@db/shop"}, "postgres://a@db/shop", nil},
		{"own URL first", []string{"DATABASE_URL=postgres://app@db/shop", "BATON_DATABASE_URL=postgres://a@db/shop"},
			"postgres://a@db/shop", nil},
		{"file", []string{"DATABASE_URL_FILE=" + file}, "postgres://relay@db/shop", nil},
		{"own file", []string{"BATON_DATABASE_URL_FILE=" + file}, "postgres://relay@db/shop", nil},
		{"both forms", []string{"DATABASE_URL_FILE=" + file, "DATABASE_URL=postgres://a@db/shop"},
			"", []string{"DATABASE_URL"}},
		{"both own forms", []string{"BATON_DATABASE_URL_FILE=" + file, "BATON_DATABASE_URL=postgres://a@db/shop"},
			"", []string{"BATON_DATABASE_URL"}},
		{"no such file", []string{"DATABASE_URL_FILE=" + file + "x"}, "", []string{"DATABASE_URL_FILE"}},
		{"empty file", []string{"DATABASE_URL_FILE=" + empty}, "", []string{"DATABASE_URL_FILE"}},
		{"libpq", []string{"PGHOST=db"}, "", nil},
	} {
		c, err := config.Load(tc.environ, config.Database)
		if diff := cmp.Diff(mistakes(t, err), tc.mistakes); diff != "" {
			t.Errorf("%s: mistakes (-got +want):\n%s", tc.name, diff)
		}
		if err == nil && string(c.DatabaseURL) != tc.url {
			t.Errorf("%s: URL = %q, want %q", tc.name, string(c.DatabaseURL), tc.url)
		}
	}
}

func TestAPasswordThatIsNotEscapedIsRefused(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"a@b", "1/b", "1?b", "1#b", "a:b@c"} {
		_, err := config.Load([]string{"DATABASE_URL=postgres://relay:" + password + "@db/shop"})
		if got := strings.Join(mistakes(t, err), " "); got != "BATON_DATABASE_URL" {
			t.Errorf("password %s: mistakes in %q, want BATON_DATABASE_URL", password, got)
		}
	}
	load(t, "DATABASE_URL=postgres://relay:a%40b%2Fc%3Fd%23e@db/shop?sslmode=disable", "BATON_KAFKA_BROKERS=kafka:9092")
}

func TestCommandsThatNeedNoServerLoadWithoutOne(t *testing.T) {
	t.Parallel()
	if _, err := config.Load(nil); err != nil {
		t.Error(err)
	}
}

func TestAMisspeltVariableIsToldWithTheNameThatMayBeMeant(t *testing.T) {
	t.Parallel()
	c := load(t, least("BATON_CONSUMER=3", "BATON_SOMETHING_ELSE=1", "BATONS=1")...)
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], "BATON_CONSUMERS") ||
		!strings.Contains(c.Warnings[1], "BATON_SOMETHING_ELSE") {
		t.Errorf("warnings = %q", c.Warnings)
	}
}

func TestFieldsTellWhereAValueIsFrom(t *testing.T) {
	t.Parallel()
	c := load(t, least("BATON_LEASE=45s", "BATON_CLAIM_BYTES=1048576")...)
	got := map[string]string{}
	for _, f := range c.Fields() {
		got[f.Name] = f.Value + " " + f.From
	}
	for name, want := range map[string]string{
		"BATON_LEASE": "45s BATON_LEASE", "BATON_CLAIM_BYTES": "1MiB BATON_CLAIM_BYTES", "BATON_DRAIN": "20s default",
		"BATON_DATABASE_URL": "*** DATABASE_URL", "BATON_DATABASE_DIRECT_URL": " default", "BATON_LOG_LEVEL": "info default",
		"BATON_KAFKA_BROKERS": "kafka:9092 BATON_KAFKA_BROKERS",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
}

func TestASecretIsPrintedByNothing(t *testing.T) {
	t.Parallel()
	c := load(t, "DATABASE_URL=postgres://relay:"+canary+"@db/shop", "BATON_KAFKA_BROKERS=kafka:9092")
	var printed strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%t"} {
		fmt.Fprintf(&printed, verb+verb, c.DatabaseURL, c)
	}
	text, err := json.Marshal([]any{c.DatabaseURL, c})
	if err != nil {
		t.Fatal(err)
	}
	printed.Write(text)
	slog.New(slog.NewTextHandler(&printed, nil)).Info("text", "secret", c.DatabaseURL, "config", c)
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("json", "secret", c.DatabaseURL, "config", c)
	// c.set holds names of variables only
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary)} {
		if strings.Contains(printed.String(), form) {
			t.Errorf("%q is in %s", form, printed.String())
		}
	}
	if !strings.Contains(printed.String(), "***") {
		t.Errorf("nothing is masked in %s", printed.String())
	}
}

func TestRoutesDecideThePolicy(t *testing.T) {
	t.Parallel()
	policy := load(t, least("BATON_ROUTES=shop.order=orders;policy=block")...).Relay(nil).PolicyOf
	if got := policy("shop.order"); got != outbox.Block {
		t.Errorf("policy of a route with block = %v", got)
	}
	if got := policy("shop.invoice"); got != outbox.Park {
		t.Errorf("policy by default = %v", got)
	}
}

// FuzzLoad: no environment makes Load panic or tell a secret, and what it accepts, the relay and the
// publisher accept.
func FuzzLoad(f *testing.F) {
	names := []string{"BATON_DATABASE_URL", "BATON_DATABASE_DIRECT_URL", "DATABASE_URL"}
	c, _ := config.Load(nil)
	for _, field := range c.Fields() {
		names = append(names, field.Name)
		f.Add(field.Example, field.Name)
		f.Add(field.Default, field.Name)
	}
	f.Add("postgres://relay:"+canary+"@db:port/shop", "BATON_DATABASE_URL")
	f.Add("postgres://relay:a@"+canary+"@db/shop", "DATABASE_URL")
	f.Add("host=db password="+canary+" x", "DATABASE_URL")
	f.Add("9223372036854775807GiB", "BATON_CLAIM_BYTES")
	f.Fuzz(func(t *testing.T, value, name string) {
		if !slices.Contains(names, name) || strings.Contains(value, "\x00") {
			return // not a variable that an environment can hold
		}
		c, err := config.Load(least(name+"="+value), config.Database, config.Kafka)
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("a secret is in the error: %v", err)
			}
			return
		}
		if err := c.Relay(nil).Validate(); err != nil {
			t.Errorf("%s=%q was accepted, but the relay refuses: %v", name, value, err)
		}
		if err := c.Publisher().Validate(); err != nil {
			t.Errorf("%s=%q was accepted, but the publisher refuses: %v", name, value, err)
		}
	})
}
