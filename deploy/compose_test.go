// Package deploy_test holds docker-compose.yml and its parts to what they promise, without an engine: the file is
// read by Compose's own library. It does not promise that the images exist, or that the containers come up.
package deploy_test

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
)

const (
	root  = ".."
	local = "baton:local" // built from deploy/Dockerfile, never pulled
)

// load reads a compose file as `docker compose` would, from an empty environment.
func load(t *testing.T, file string) (*types.Project, error) {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{file}, cli.WithWorkingDirectory(root))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t, filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func service(t *testing.T, name string) types.ServiceConfig {
	t.Helper()
	s, err := project(t).GetService(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestComposeHasItsServices(t *testing.T) {
	t.Parallel()
	got := project(t).ServiceNames()
	want := []string{"kafka", "migrate", "postgres", "relay-1", "relay-2", "shop-order-api"}
	slices.Sort(got)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("services (-got +want):\n%s", diff)
	}
}

// TestUnknownSettingsAreRefused holds that load is strict: a misspelt setting would otherwise do nothing, silently.
func TestUnknownSettingsAreRefused(t *testing.T) {
	t.Parallel()
	text := read(t, "docker-compose.yml")
	misspelt := strings.Replace(text, "stop_grace_period: 30s", "stop_grace_time: 30s", 1)
	if misspelt == text {
		t.Fatal("nothing was misspelt")
	}
	file := filepath.Join(t.TempDir(), "docker-compose.yml")
	if err := os.WriteFile(file, []byte(misspelt), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, file); err == nil || !strings.Contains(err.Error(), "stop_grace_time") {
		t.Errorf("load error = %v, want one that names stop_grace_time", err)
	}
}

// TestEveryServiceIsHealthyOrCompletes: what others wait for must be able to say that it is ready.
func TestEveryServiceIsHealthyOrCompletes(t *testing.T) {
	t.Parallel()
	p := project(t)
	for _, s := range p.Services {
		if s.Name == "migrate" {
			continue // it ends: the services that depend on it wait for that, see below
		}
		h := s.HealthCheck
		if h == nil || h.Disable || len(h.Test) < 2 || h.Interval == nil || h.Timeout == nil || h.Retries == nil {
			t.Errorf("%s: healthcheck = %+v, want a test with interval, timeout and retries", s.Name, h)
		}
	}
}

func TestServicesWaitForWhatTheyNeed(t *testing.T) {
	t.Parallel()
	const healthy, completed = types.ServiceConditionHealthy, types.ServiceConditionCompletedSuccessfully
	relay := map[string]string{"postgres": healthy, "kafka": healthy, "migrate": completed}
	want := map[string]map[string]string{
		"postgres":       {},
		"kafka":          {},
		"migrate":        {"postgres": healthy, "kafka": healthy},
		"shop-order-api": {"postgres": healthy, "migrate": completed},
		"relay-1":        relay,
		"relay-2":        relay,
	}
	got := map[string]map[string]string{}
	for _, s := range project(t).Services {
		got[s.Name] = map[string]string{}
		for name, d := range s.DependsOn {
			got[s.Name][name] = d.Condition
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("dependencies (-got +want):\n%s", diff)
	}
}

func TestOnlyLoopbackIsPublishedAndNoPortTwice(t *testing.T) {
	t.Parallel()
	taken := map[string]string{}
	for _, s := range project(t).Services {
		for _, port := range s.Ports {
			if got, want := port.HostIP, "127.0.0.1"; got != want {
				t.Errorf("%s: port %d is published on %q, want %q", s.Name, port.Target, got, want)
			}
			if other, ok := taken[port.Published]; ok {
				t.Errorf("%s: port %s is %s's already", s.Name, port.Published, other)
			}
			taken[port.Published] = s.Name
		}
		if s.NetworkMode != "" { // the host's network would publish everything
			t.Errorf("%s: network mode = %q, want none", s.Name, s.NetworkMode)
		}
	}
}

var pinned = regexp.MustCompile(`^[a-z/]+:\d+\.\d+[a-z0-9.-]*$`)

func TestImagesArePinned(t *testing.T) {
	t.Parallel()
	for _, s := range project(t).Services {
		if s.Build != nil {
			if got := s.Image; got != local {
				t.Errorf("%s: image = %q, want %q: all services share one build", s.Name, got, local)
			}
			continue
		}
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %q is not pinned to a version", s.Name, s.Image)
		}
	}
	for line := range strings.Lines(read(t, "deploy/Dockerfile")) {
		if image, ok := strings.CutPrefix(line, "FROM "); ok && !pinned.MatchString(strings.Fields(image)[0]) {
			t.Errorf("Dockerfile: image %q is not pinned to a version", strings.Fields(image)[0])
		}
	}
}

func TestStopsAreLongerThanDrains(t *testing.T) {
	t.Parallel()
	drains := map[string]time.Duration{ // the defaults of BATON_DRAIN and SHOP_DRAIN
		"relay-1": 20 * time.Second, "relay-2": 20 * time.Second, "shop-order-api": 10 * time.Second,
	}
	for name, drain := range drains {
		s := service(t, name)
		if s.StopGracePeriod == nil || time.Duration(*s.StopGracePeriod) <= drain {
			t.Errorf("%s: stop_grace_period = %v, want more than %v", name, s.StopGracePeriod, drain)
		}
		if s.Init == nil || !*s.Init {
			t.Errorf("%s: init = %v, want true", name, s.Init)
		}
	}
}

func TestHealthChecksAskWhereTheServiceListens(t *testing.T) {
	t.Parallel()
	listens := map[string]string{
		"relay-1": "BATON_OPS_LISTEN", "relay-2": "BATON_OPS_LISTEN", "shop-order-api": "SHOP_LISTEN",
	}
	for name, variable := range listens {
		s := service(t, name)
		listen := s.Environment[variable]
		if listen == nil {
			t.Errorf("%s: %s is not set", name, variable)
			continue
		}
		host, port, err := net.SplitHostPort(*listen)
		if err != nil || host != "0.0.0.0" {
			t.Errorf("%s: %s = %q, want 0.0.0.0 and a port: a published port does not reach the container's loopback",
				name, variable, *listen)
		}
		want := "http://127.0.0.1:" + port + "/readyz"
		if got := s.HealthCheck.Test[len(s.HealthCheck.Test)-1]; got != want {
			t.Errorf("%s: health check asks %q, want %q", name, got, want)
		}
	}
}
