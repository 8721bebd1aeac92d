package config

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Field is one variable of the reference and its value.
type Field struct {
	Name    string `json:"name"`
	Value   string `json:"value"` // *** for a secret
	From    string `json:"from"`  // "default", or the variable that was set
	Default string `json:"default"`
	Is      string `json:"is"`
	Must    string `json:"must,omitempty"`
	Example string `json:"example"`
}

// Fields lists every variable.
func (c Config) Fields() []Field {
	value := reflect.ValueOf(c)
	var list []Field
	for _, f := range fields() {
		x := Field{
			Name: f.name, Value: text(value.Field(f.index).Interface()), From: "default",
			Default: f.tag("envDefault"), Is: f.tag("is"), Example: f.tag("example"),
		}
		if f.tag("oneof") != "" || f.tag("min") != "" {
			x.Must = f.must()
		}
		if from := c.set[f.name]; from != "" {
			x.From = from
		}
		list = append(list, x)
	}
	return list
}

func text(value any) string {
	if list, isList := value.([]string); isList {
		return strings.Join(list, ",")
	}
	switch v := value.(type) {
	case slog.Level:
		return strings.ToLower(v.String())
	case time.Duration:
		return short(v)
	}
	return fmt.Sprint(value)
}

// short is 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// unknown warns of BATON_ variables that nothing reads: they are mostly misspelt.
func unknown(vars map[string]string) []string {
	var known []string
	for _, f := range fields() {
		known = append(known, f.name)
		if f.secret() {
			known = append(known, f.name+"_FILE")
		}
	}
	var warnings []string
	for name := range vars {
		if !strings.HasPrefix(name, "BATON_") || slices.Contains(known, name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
		if distance(name, nearest) <= 4 {
			warnings = append(warnings, fmt.Sprintf("%s is set, and nothing reads it: is %s meant?", name, nearest))
		} else {
			warnings = append(warnings, name+" is set, and nothing reads it: baton config show lists what is")
		}
	}
	slices.Sort(warnings)
	return warnings
}

// distance is Levenshtein's: how many bytes to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
