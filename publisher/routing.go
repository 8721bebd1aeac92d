package publisher

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/batonrelay/baton/outbox"
)

// KeyForm says what the key of a message is made of.
type KeyForm string

// The forms of a key.
const (
	KeyOnly    KeyForm = "key"      // the record key
	KeyAndType KeyForm = "type/key" // record type, '/', record key: for topics that several record types share
)

// topicSuffix makes the default topic out of a record type.
const topicSuffix = ".events"

const (
	routesExample = "shop.order=orders;policy=block;key=type/key, billing.*=billing.events"
	topicBytesMax = 249
)

// Route is where the events of a record type go, and how.
type Route struct {
	// Pattern is a record type, or the beginning of record types: "shop.*", or "*" for all.
	Pattern string
	// Topic "" is the default: the record type and ".events".
	Topic  string
	Key    KeyForm
	Policy outbox.Policy
}

// Routing finds the route of a record type: the one that names it, else the one with the longest beginning, else
// the default. The zero Routing allows every record type and sends it to its default topic.
type Routing struct {
	routes []Route // exact ones first, then the longest beginning first
	allow  []string
}

// ParseRouting reads the texts of BATON_ROUTES and BATON_ALLOW. Routes are separated by commas:
//
//	shop.order=orders;policy=block;key=type/key, billing.*=billing.events
//
// An empty topic ("shop.*=;policy=block") is the default one. allow lists the record types that may be published,
// as patterns; an empty list allows all. The error names every bad piece.
func ParseRouting(routes, allow string) (Routing, error) {
	var r Routing
	var errs []error
	for i, text := range pieces(routes) {
		route, err := parseRoute(text)
		if err == nil && slices.ContainsFunc(r.routes, func(o Route) bool { return o.Pattern == route.Pattern }) {
			err = fmt.Errorf("%q is routed twice: keep one of them", route.Pattern)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("publisher: BATON_ROUTES: entry %d %q: %w (example: %s)",
				i+1, text, err, routesExample))
			continue
		}
		r.routes = append(r.routes, route)
	}
	for i, pattern := range pieces(allow) {
		if err := checkPattern(pattern); err != nil {
			errs = append(errs, fmt.Errorf("publisher: BATON_ALLOW: entry %d %q: %w (example: shop.*, billing.invoice)",
				i+1, pattern, err))
		}
		r.allow = append(r.allow, pattern)
	}
	slices.SortStableFunc(r.routes, func(a, b Route) int {
		return cmp.Or(strings.Count(a.Pattern, "*")-strings.Count(b.Pattern, "*"), len(b.Pattern)-len(a.Pattern))
	})
	return r, errors.Join(errs...)
}

// For returns the route of a record type with its topic filled in. The error is of class outbox.BadTopic.
func (r Routing) For(recordType string) (Route, error) {
	allows := func(pattern string) bool { return matches(pattern, recordType) }
	if len(r.allow) > 0 && !slices.ContainsFunc(r.allow, allows) {
		return Route{}, &outbox.ClassError{Class: outbox.BadTopic, Err: fmt.Errorf(
			"publisher: record type %q is not allowed: add it to BATON_ALLOW (now %s), or stop writing it",
			recordType, strings.Join(r.allow, ", "))}
	}
	route := Route{Key: KeyOnly, Policy: outbox.Park}
	for _, candidate := range r.routes {
		if matches(candidate.Pattern, recordType) {
			route = candidate
			break
		}
	}
	if route.Topic == "" {
		route.Topic = recordType + topicSuffix
	}
	return route, nil
}

// Topics lists what can be known of the topics beforehand: those that routes name, and the ones of record types
// that routes or the allow-list name in full.
func (r Routing) Topics() []string {
	var topics []string
	add := func(pattern, topic string) {
		if topic == "" && !strings.HasSuffix(pattern, "*") {
			if route, err := r.For(pattern); err == nil {
				topic = route.Topic
			}
		}
		if topic != "" {
			topics = append(topics, topic)
		}
	}
	for _, route := range r.routes {
		add(route.Pattern, route.Topic)
	}
	for _, pattern := range r.allow {
		add(pattern, "")
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func parseRoute(text string) (Route, error) {
	target, options, _ := strings.Cut(text, ";")
	pattern, topic, found := strings.Cut(target, "=")
	route := Route{Pattern: strings.TrimSpace(pattern), Topic: strings.TrimSpace(topic), Key: KeyOnly, Policy: outbox.Park}
	if !found {
		return Route{}, errors.New("it has no '=': write record type=topic")
	}
	if err := checkPattern(route.Pattern); err != nil {
		return Route{}, err
	}
	if err := checkTopic(route.Topic); err != nil {
		return Route{}, err
	}
	for option := range strings.SplitSeq(options, ";") {
		if err := route.set(strings.TrimSpace(option)); err != nil {
			return Route{}, err
		}
	}
	return route, nil
}

func (r *Route) set(option string) error {
	name, value, _ := strings.Cut(option, "=")
	switch name {
	case "":
		return nil
	case "policy":
		switch value {
		case outbox.Park.String():
			r.Policy = outbox.Park
		case outbox.Block.String():
			r.Policy = outbox.Block
		default:
			return fmt.Errorf("policy %q is unknown: use %s or %s", value, outbox.Park, outbox.Block)
		}
	case "key":
		r.Key = KeyForm(value)
		if r.Key != KeyOnly && r.Key != KeyAndType {
			return fmt.Errorf("key %q is unknown: use %s or %s", value, KeyOnly, KeyAndType)
		}
	default:
		return fmt.Errorf("option %q is unknown: use policy=%s|%s or key=%s|%s",
			name, outbox.Park, outbox.Block, KeyOnly, KeyAndType)
	}
	return nil
}

func checkPattern(pattern string) error {
	name, prefix := strings.CutSuffix(pattern, "*")
	switch {
	case pattern == "*":
		return nil
	case name == "" || !isName(name):
		return fmt.Errorf("record type %q must have letters, digits, '.', '_' and '-' only, and '*' at its end only",
			pattern)
	case prefix && !strings.HasSuffix(name, "."):
		return fmt.Errorf("pattern %q must end with \".*\" (or be \"*\" alone)", pattern)
	case len(name) > outbox.RecordTypeBytesMax:
		return fmt.Errorf("record type has %d bytes, the limit is %d", len(name), outbox.RecordTypeBytesMax)
	}
	return nil
}

func checkTopic(topic string) error {
	switch {
	case topic == "":
		return nil
	case topic == "." || topic == ".." || !isName(topic):
		return fmt.Errorf("topic %q must have letters, digits, '.', '_' and '-' only", topic)
	case len(topic) > topicBytesMax:
		return fmt.Errorf("topic has %d bytes, Kafka's limit is %d", len(topic), topicBytesMax)
	}
	return nil
}

// matches reports whether a checked pattern covers a record type.
func matches(pattern, recordType string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	if open {
		return strings.HasPrefix(recordType, prefix)
	}
	return pattern == recordType
}

func isName(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		return !letter && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	})
}

// pieces splits at commas and drops blanks: a trailing comma is no mistake.
func pieces(text string) []string {
	var list []string
	for piece := range strings.SplitSeq(text, ",") {
		if piece = strings.TrimSpace(piece); piece != "" {
			list = append(list, piece)
		}
	}
	return list
}
