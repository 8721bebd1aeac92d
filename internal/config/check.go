package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
	"github.com/batonrelay/baton/publisher"
)

// check finds everything that parsing does not.
func (c *Config) check(m *mistakes, needs []Need) {
	value := reflect.ValueOf(*c)
	for _, f := range fields() {
		if !m.has(f.name) && !f.within(value.Field(f.index).Interface()) {
			m.refuse(f)
		}
	}
	c.checkDatabase(m, needs)
	c.checkKafka(m, needs)
	c.checkNames(m)
	c.checkPairs(m)
}

func (c *Config) checkDatabase(m *mistakes, needs []Need) {
	libpq := m.vars["PGHOST"] != "" || m.vars["PGSERVICE"] != "" || m.vars["PGDATABASE"] != ""
	for _, need := range needs {
		if need == Database && c.DatabaseURL == "" && !libpq && !m.has("DATABASE_URL_FILE") && !m.has(databaseURL+"_FILE") {
			m.add(databaseURL, "is not set, nor DATABASE_URL, nor PGHOST")
		}
	}
	urls := map[string]Secret{databaseURL: c.DatabaseURL, "BATON_DATABASE_DIRECT_URL": c.DatabaseDirectURL}
	for name, url := range urls {
		if url == "" {
			continue
		}
		if _, err := pgxpool.ParseConfig(string(url)); err != nil || spilled(string(url)) {
			m.add(name, "in "+c.set[name]+urlProblem(err))
		}
	}
}

// spilled reports whether a URL has a password that must have been escaped: parsed all the same, the rest of
// the password would be taken for a host or a database, which errors name.
func spilled(url string) bool {
	_, rest, isURL := strings.Cut(url, "://")
	end := strings.IndexAny(rest+"/", "/?#")
	return isURL && (strings.Count(rest[:end], "@") > 1 || strings.Contains(rest[end:], "@"))
}

// urlProblem leaves the cause out, which may quote the password, unless it is about a file.
func urlProblem(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return " names a file that cannot be read: " + path.Error()
	}
	return " is not a PostgreSQL URL, or one of its parameters is wrong (a password needs %40 for @, %2F for /, %23 for #)"
}

func (c *Config) checkKafka(m *mistakes, needs []Need) {
	for _, need := range needs {
		if need == Kafka && len(c.KafkaBrokers) == 0 {
			m.add("BATON_KAFKA_BROKERS", "is not set")
		}
	}
	for i, broker := range c.KafkaBrokers {
		c.KafkaBrokers[i] = strings.TrimSpace(broker)
		if !hostPort(c.KafkaBrokers[i], 1) {
			m.add("BATON_KAFKA_BROKERS", fmt.Sprintf("has %s: it must be host:port", quoted(broker)))
		}
	}
	for name, text := range map[string][2]string{"BATON_ROUTES": {c.Routes, ""}, "BATON_ALLOW": {"", c.Allow}} {
		if _, err := publisher.ParseRouting(text[0], text[1]); err != nil {
			m.add(name, strings.ReplaceAll(err.Error(), "publisher: "+name+": ", ""))
		}
	}
	c.Routing, _ = publisher.ParseRouting(c.Routes, c.Allow)
}

func (c *Config) checkNames(m *mistakes) {
	if err := schema.Check(c.Schema); err != nil {
		m.add("BATON_SCHEMA", fmt.Sprintf("is %s: must be 1 to 63 small letters, digits or '_', "+
			"not begin with a digit or pg_", quoted(c.Schema)))
	}
	for name, text := range map[string]string{
		"BATON_SOURCE": c.Source, "BATON_INSTANCE": c.Instance, "BATON_KAFKA_CLIENT_ID": c.KafkaClientID,
	} {
		if len(text) > 200 || strings.ContainsFunc(text, unprintable) {
			m.add(name, "must be at most 200 bytes that can be printed")
		}
	}
	if c.OpsListen != "off" && !hostPort(c.OpsListen, 0) {
		m.add("BATON_OPS_LISTEN", fmt.Sprintf("is %s: must be host:port, or off", quoted(c.OpsListen)))
	}
}

// checkPairs looks at variables that only make sense together.
func (c *Config) checkPairs(m *mistakes) {
	m.pair(c.ClaimEvents >= c.ClaimRecords, "BATON_CLAIM_EVENTS", c.ClaimEvents,
		"at least BATON_CLAIM_RECORDS", c.ClaimRecords)
	m.pair(c.InFlightEvents >= c.ClaimEvents, "BATON_IN_FLIGHT_EVENTS", c.InFlightEvents,
		"at least BATON_CLAIM_EVENTS", c.ClaimEvents)
	m.pair(c.InFlightBytes >= c.ClaimBytes, "BATON_IN_FLIGHT_BYTES", c.InFlightBytes,
		"at least BATON_CLAIM_BYTES", c.ClaimBytes)
	m.pair(c.PollMax >= c.PollMin, "BATON_POLL_MAX", c.PollMax, "at least BATON_POLL_MIN", c.PollMin)
	m.pair(c.BackoffMax >= c.BackoffMin, "BATON_BACKOFF_MAX", c.BackoffMax, "at least BATON_BACKOFF_MIN", c.BackoffMin)
	// no send starts in the last quarter of a lease
	trusted := c.Lease - c.Lease/4
	if c.set["BATON_SEND_TIMEOUT"] == "" && c.SendTimeout > trusted {
		c.SendTimeout = c.Lease / 2 // the default follows a shorter lease
	}
	m.pair(c.SendTimeout <= trusted, "BATON_SEND_TIMEOUT", c.SendTimeout,
		"at most three quarters of BATON_LEASE, or the lease is shorter than a send may take: at most",
		trusted.Truncate(time.Millisecond))
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

func hostPort(text string, portMin int) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || r == '@' || r == '/' }) {
		return false
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= portMin && n <= 65535
}

// quoted shortens what may be long.
func quoted(text string) string {
	const most = 60
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strconv.Quote(text)
}
