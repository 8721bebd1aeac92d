// Package docs_test holds the documents to the code.
package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testsByName maps every test, fuzz target and benchmark of the module to its folder.
func testsByName(t *testing.T) map[string]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	found := map[string]string{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = filepath.ToSlash(filepath.Dir(path))[len("../"):]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Feared: a promise whose test was renamed or removed.
func TestEveryGuaranteeNamesATestThatExists(t *testing.T) {
	tests := testsByName(t)
	text, err := os.ReadFile("guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise") {
			continue
		}
		rows++
		names := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)`").FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("no test is named: %s", line)
		}
		for _, name := range names {
			if tests[name[1]] == "" {
				t.Errorf("there is no test %s: %s", name[1], line)
			}
		}
	}
	if rows < 10 {
		t.Errorf("rows = %d, want the table of promises", rows)
	}
}

// imports that must not be, with the reason beside each rule.
var forbidden = []struct{ of, not, why string }{
	{"lease", "github.com/batonrelay/baton/outbox", "leases know nothing of payloads"},
	{"lease", "github.com/IBM/sarama", "leases know nothing of brokers"},
	{"outbox", "github.com/batonrelay/baton/publisher", "an application that only writes events links no Kafka client"},
	{"outbox", "github.com/IBM/sarama", "an application that only writes events links no Kafka client"},
	{"outbox", "github.com/pressly/goose/v3", "an application that only writes events links no migrator"},
	{"outbox", "go.opentelemetry.io/otel/sdk", "libraries use OpenTelemetry's API; the program chooses the SDK"},
	{"outbox", "github.com/caarlos0/env/v11", "libraries do not read the environment"},
	{"publisher", "github.com/caarlos0/env/v11", "libraries do not read the environment"},
	{"migrations", "github.com/batonrelay/baton/outbox", "migrations stand below everything"},
}

func TestImportsPointOneWay(t *testing.T) {
	for _, rule := range forbidden {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "../"+rule.of).Output()
		if err != nil {
			t.Fatal(err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if dep == rule.not || strings.HasPrefix(dep, rule.not+"/") {
				t.Errorf("%s imports %s, but %s", rule.of, dep, rule.why)
			}
		}
	}
}

// Feared: a package that the house has no room for.
func TestNoPackageIsADrawerForEverything(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		for _, name := range []string{"pkg", "util", "utils", "common", "models", "helpers"} {
			if strings.HasSuffix(pkg, "/"+name) {
				t.Errorf("%s: say what it promises", pkg)
			}
		}
	}
}

// Feared: a dependency that nobody can give a reason for.
func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	reasons, err := os.ReadFile("dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not .Indirect}}{{.Path}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	for module := range strings.FieldsSeq(string(out)) {
		if module != "github.com/batonrelay/baton" && !strings.Contains(string(reasons), "`"+module) {
			t.Errorf("dependencies.md has no reason for %s", module)
		}
	}
}
