package deploy_test

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/internal/config"
)

// relayVariables are the variables that compose may set for `baton`. A misspelt one would do nothing, silently.
var relayVariables = []string{
	"BATON_ALLOW", "BATON_INSTANCE", "BATON_KAFKA_BROKERS", "BATON_OPS_LISTEN", "DATABASE_URL_FILE",
}

// Feared: a variable of the relay is renamed, and compose goes on setting the old one.
func TestRelayVariablesAreTheConfigurations(t *testing.T) {
	t.Parallel()
	known := map[string]bool{"DATABASE_URL": true, "DATABASE_URL_FILE": true} // un-prefixed, as everywhere
	for _, f := range (config.Config{}).Fields() {
		known[f.Name] = true
	}
	for _, v := range relayVariables {
		if !known[v] {
			t.Errorf("baton does not read %s", v)
		}
	}
}

// shopVariables are those of cmd/shop-order-api.
var shopVariables = []string{"DATABASE_URL_FILE", "SHOP_LISTEN"}

func TestVariablesAreKnown(t *testing.T) {
	t.Parallel()
	known := map[string][]string{
		"migrate": relayVariables, "relay-1": relayVariables, "relay-2": relayVariables, "shop-order-api": shopVariables,
	}
	for name, variables := range known {
		allowed := map[string]bool{}
		for _, v := range variables {
			allowed[v] = true
		}
		for v := range service(t, name).Environment {
			if !allowed[v] {
				t.Errorf("%s: nobody reads the variable %s", name, v)
			}
		}
	}
}

// TestPasswordsComeFromFiles: none stands in the environment, and the two files agree about the one there is.
func TestPasswordsComeFromFiles(t *testing.T) {
	t.Parallel()
	p := project(t)
	password := strings.TrimSpace(read(t, "deploy/secrets/demo_postgres_password"))
	if !strings.Contains(password, "demo") {
		t.Errorf("password = %q, want one that says it is a demo's", password)
	}
	u, err := url.Parse(strings.TrimSpace(read(t, "deploy/secrets/demo_database_url")))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := u.User.Password(); got != password {
		t.Errorf("password in the URL = %q, want %q", got, password)
	}
	if strings.Contains(read(t, "docker-compose.yml"), password) {
		t.Error("docker-compose.yml has the password in it")
	}
	for _, s := range p.Services {
		for name, value := range s.Environment {
			secret, ok := strings.CutPrefix(*value, "/run/secrets/")
			if strings.HasSuffix(name, "_FILE") != ok {
				t.Errorf("%s: %s = %q, want a secret if and only if it is a _FILE", s.Name, name, *value)
			}
			granted := func() bool {
				for _, g := range s.Secrets {
					if g.Source == secret {
						return true
					}
				}
				return false
			}
			if ok && !granted() {
				t.Errorf("%s: the secret %q is not granted to it", s.Name, secret)
			}
		}
	}
	for name, secret := range p.Secrets {
		if _, err := os.Stat(secret.File); err != nil {
			t.Errorf("secret %s: %v", name, err)
		}
	}
}

// TestBrokerSettings: the file is the whole of the broker's settings, and fits what compose publishes.
func TestBrokerSettings(t *testing.T) {
	t.Parallel()
	s := service(t, "kafka")
	setting := func(name string) string {
		if v := s.Environment[name]; v != nil {
			return *v
		}
		return ""
	}
	got := map[string]string{}
	want := map[string]string{
		"KAFKA_PROCESS_ROLES":                  "broker,controller",
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":      "false",
		"KAFKA_MIN_INSYNC_REPLICAS":            "1",
		"KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE": "false",
		"KAFKA_LOG_DIRS":                       s.Volumes[0].Target,
	}
	for name := range want {
		got[name] = setting(name)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("settings (-got +want):\n%s", diff)
	}
	host := "HOST://" + s.Ports[0].HostIP + ":" + s.Ports[0].Published
	advertised := strings.Split(setting("KAFKA_ADVERTISED_LISTENERS"), ",")
	brokers := *service(t, "relay-1").Environment["BATON_KAFKA_BROKERS"]
	if diff := cmp.Diff(advertised, []string{"PLAINTEXT://" + brokers, host}); diff != "" {
		t.Errorf("advertised listeners (-got +want):\n%s", diff)
	}
}

func TestImageRunsAsNobodyAndHasBothPrograms(t *testing.T) {
	t.Parallel()
	text := read(t, "deploy/Dockerfile")
	for _, want := range []string{
		"FROM golang:1.26", "CGO_ENABLED=0", "./cmd/baton ./cmd/shop-order-api", "\nUSER 65532:65532\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("Dockerfile has no %q", want)
		}
	}
	for _, s := range project(t).Services {
		if s.Build == nil {
			continue
		}
		if got, want := s.Build.Dockerfile, "deploy/Dockerfile"; got != want {
			t.Errorf("%s: dockerfile = %q, want %q", s.Name, got, want)
		}
		if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" {
			t.Errorf("%s: read_only = %v, cap_drop = %v, want true and ALL", s.Name, s.ReadOnly, s.CapDrop)
		}
	}
}

// TestBuildContextHasAllCode: .dockerignore lets in folders by name, so that a new one must be named there.
func TestBuildContextHasAllCode(t *testing.T) {
	t.Parallel()
	ignore := read(t, ".dockerignore")
	folders, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		if f.IsDir() && hasCode(t, filepath.Join(root, f.Name())) && !strings.Contains(ignore, "\n!"+f.Name()+"\n") {
			t.Errorf(".dockerignore keeps the folder %s out", f.Name())
		}
	}
}

// hasCode reports whether a folder holds Go code that is not a test.
func hasCode(t *testing.T, dir string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			found = true
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
