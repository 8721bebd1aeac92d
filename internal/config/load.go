package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Need is what a command cannot do without.
type Need int

// The needs.
const (
	Database Need = iota
	Kafka
)

const databaseURL = "BATON_DATABASE_URL"

// Load reads environ ("NAME=value"). An empty variable counts as one that is not set. The error is a
// *Error that holds every mistake.
func Load(environ []string, needs ...Need) (Config, error) {
	vars := map[string]string{}
	for _, v := range environ {
		if name, value, found := strings.Cut(v, "="); found && value != "" {
			vars[name] = value
		}
	}
	m := mistakes{vars: vars}
	c := Config{Warnings: unknown(vars), set: resolve(vars, &m)}
	err := env.ParseWithOptions(&c, env.Options{Environment: vars})
	m.unparsed(err)
	c.check(&m, needs)
	if c.Instance == "" {
		host, _ := os.Hostname()
		c.Instance = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	return c, m.error()
}

// resolve puts what files hold, and what other names hold, under the variables' own names in vars. It
// returns which variable was set for which.
func resolve(vars map[string]string, m *mistakes) map[string]string {
	set := map[string]string{}
	for _, name := range append(secretNames(), "DATABASE_URL") {
		file := name + "_FILE"
		path := vars[file]
		if path == "" {
			continue
		}
		if vars[name] != "" {
			m.add(name, "and "+file+" are both set: keep one of them")
			continue
		}
		text, err := os.ReadFile(path)
		switch value := strings.TrimRight(string(text), "\r\n"); {
		case err != nil:
			m.add(file, "cannot be read: "+err.Error())
		case value == "":
			m.add(file, "is the name of an empty file")
		default:
			vars[name], set[name] = value, file
		}
	}
	if vars[databaseURL] == "" && vars["DATABASE_URL"] != "" {
		vars[databaseURL], set[databaseURL] = vars["DATABASE_URL"], "DATABASE_URL"
		if from := set["DATABASE_URL"]; from != "" {
			set[databaseURL] = from
		}
	}
	for _, f := range fields() {
		if vars[f.name] != "" && set[f.name] == "" {
			set[f.name] = f.name
		}
	}
	return set
}

// unparsed gives the library's errors, which name Go's fields, the names of the variables.
func (m *mistakes) unparsed(err error) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		if err != nil {
			m.add("environment", err.Error())
		}
		return
	}
	for _, err := range all.Errors {
		var p env.ParseError
		if !errors.As(err, &p) {
			m.add("environment", err.Error())
			continue
		}
		for _, f := range fields() {
			if f.field.Name == p.Name {
				m.refuse(f)
			}
		}
	}
}

// field is one variable and its tags.
type field struct {
	name  string
	index int
	field reflect.StructField
}

func fields() []field {
	var list []field
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("env"); name != "" && name != "-" {
			list = append(list, field{name: name, index: i, field: t.Field(i)})
		}
	}
	return list
}

func (f field) tag(name string) string { return f.field.Tag.Get(name) }
func (f field) secret() bool           { return f.field.Type == reflect.TypeFor[Secret]() }

func secretNames() []string {
	var names []string
	for _, f := range fields() {
		if f.secret() {
			names = append(names, f.name)
		}
	}
	return names
}

// must says what the field allows, from its tags.
func (f field) must() string {
	if choices := f.tag("oneof"); choices != "" {
		return "one of " + strings.ReplaceAll(choices, " ", ", ")
	}
	kind := "a whole number"
	switch f.field.Type {
	case reflect.TypeFor[time.Duration]():
		kind = "a duration"
	case reflect.TypeFor[Bytes]():
		kind = "a size"
	}
	return kind + " from " + f.tag("min") + " to " + f.tag("max")
}

// within reports whether a value that was parsed keeps the field's tags.
func (f field) within(value any) bool {
	switch v := value.(type) {
	case int:
		low, _ := strconv.Atoi(f.tag("min"))
		high, _ := strconv.Atoi(f.tag("max"))
		return v >= low && v <= high
	case time.Duration:
		low, _ := time.ParseDuration(f.tag("min"))
		high, _ := time.ParseDuration(f.tag("max"))
		return v >= low && v <= high
	case Bytes:
		var low, high Bytes
		_ = low.UnmarshalText([]byte(f.tag("min")))
		_ = high.UnmarshalText([]byte(f.tag("max")))
		return v >= low && v <= high
	case string:
		choices := strings.Fields(f.tag("oneof"))
		for _, choice := range choices {
			if v == choice {
				return true
			}
		}
		return len(choices) == 0
	}
	return true
}
