package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Mistake is what is wrong with one variable.
type Mistake struct {
	Variable string `json:"variable"`
	Problem  string `json:"problem"`
	Example  string `json:"example,omitempty"`
}

// Error holds every mistake in the environment, in the order of the reference.
type Error struct{ Mistakes []Mistake }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("config: the environment has ")
	if n := len(e.Mistakes); n == 1 {
		b.WriteString("a mistake:")
	} else {
		fmt.Fprintf(&b, "%d mistakes:", n)
	}
	for _, m := range e.Mistakes {
		fmt.Fprintf(&b, "\n  %s %s", m.Variable, strings.ReplaceAll(m.Problem, "\n", "\n    "))
		if m.Example != "" {
			fmt.Fprintf(&b, " (example: %s=%s)", m.Variable, m.Example)
		}
	}
	return b.String()
}

type mistakes struct {
	vars map[string]string
	list []Mistake
}

func (m *mistakes) has(name string) bool {
	return slices.ContainsFunc(m.list, func(x Mistake) bool { return x.Variable == name })
}

func (m *mistakes) add(name, problem string) {
	x := Mistake{Variable: name, Problem: problem}
	for _, f := range fields() {
		switch {
		case f.name == name:
			x.Example = f.tag("example")
		case f.name+"_FILE" == name, f.name == databaseURL && name == "DATABASE_URL_FILE":
			x.Example = "/run/secrets/" + strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(name, "BATON_"), "_FILE"))
		}
	}
	m.list = append(m.list, x)
}

// refuse adds what the field's tags allow.
func (m *mistakes) refuse(f field) {
	m.add(f.name, fmt.Sprintf("is %s: must be %s", quoted(m.vars[f.name]), f.must()))
}

// pair adds a mistake of two variables, unless one of them is wrong by itself.
func (m *mistakes) pair(ok bool, name string, value any, must string, other any) {
	if ok || m.has(name) {
		return
	}
	for _, word := range strings.Fields(must) {
		if m.has(strings.Trim(word, ",:")) {
			return
		}
	}
	m.add(name, fmt.Sprintf("is %v: must be %s %v", value, must, other))
}

func (m *mistakes) error() error {
	if len(m.list) == 0 {
		return nil
	}
	order := map[string]int{}
	for i, f := range fields() {
		order[f.name], order[f.name+"_FILE"] = i+1, i+1
	}
	slices.SortStableFunc(m.list, func(a, b Mistake) int {
		return cmp.Or(order[a.Variable]-order[b.Variable], strings.Compare(a.Variable, b.Variable))
	})
	return &Error{Mistakes: m.list}
}
