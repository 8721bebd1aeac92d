package config

import (
	"log/slog"
	"time"

	"github.com/batonrelay/baton/outbox"
	"github.com/batonrelay/baton/publisher"
)

// Config is the environment, parsed and checked. The tags are the reference: what a variable is, its
// default, its bounds, an example. Their lines are long, since a tag cannot be wrapped.
type Config struct {
	DatabaseURL       Secret `env:"BATON_DATABASE_URL" is:"the application's database; DATABASE_URL and libpq's PGHOST… are read too" example:"postgres://relay@db:5432/shop"`
	DatabaseDirectURL Secret `env:"BATON_DATABASE_DIRECT_URL" is:"the same database past any pooler, for migrations" example:"postgres://owner@db:5432/shop"`
	Pooler            string `env:"BATON_POOLER" envDefault:"auto" oneof:"auto transaction none" is:"what stands before the server: a transaction-mode pooler, nothing, or find out" example:"auto"`
	Schema            string `env:"BATON_SCHEMA" envDefault:"baton" is:"schema of the outbox" example:"baton"`

	Source   string `env:"BATON_SOURCE" envDefault:"baton" is:"who the events are from: ce_source of every message. A copy of the database needs another one" example:"shop-order-api"`
	Instance string `env:"BATON_INSTANCE" is:"this relay's name, for people; by default host name and process id" example:"relay-1"`

	KafkaBrokers  []string `env:"BATON_KAFKA_BROKERS" is:"brokers to begin with, with commas between" example:"kafka-1:9092,kafka-2:9092"`
	KafkaClientID string   `env:"BATON_KAFKA_CLIENT_ID" envDefault:"baton" is:"what brokers see in logs and quotas" example:"baton"`
	Routes        string   `env:"BATON_ROUTES" is:"topic, policy and key by record type; by default a record type goes to the topic of its name and .events" example:"shop.order=orders;policy=block"`
	Allow         string   `env:"BATON_ALLOW" is:"record types that may be published; empty allows all" example:"shop.*,billing.invoice"`

	Consumers int `env:"BATON_CONSUMERS" envDefault:"2" min:"1" max:"64" is:"goroutines that claim" example:"2"`
	Producers int `env:"BATON_PRODUCERS" envDefault:"2" min:"1" max:"64" is:"goroutines that publish" example:"2"`
	Workers   int `env:"BATON_WORKERS" envDefault:"2" min:"1" max:"64" is:"goroutines that acknowledge and release" example:"2"`

	ClaimRecords   int   `env:"BATON_CLAIM_RECORDS" envDefault:"500" min:"1" max:"10000" is:"records of one claim, at most" example:"500"`
	ClaimEvents    int   `env:"BATON_CLAIM_EVENTS" envDefault:"10000" min:"1" max:"1000000" is:"events of one claim, at most" example:"10000"`
	ClaimBytes     Bytes `env:"BATON_CLAIM_BYTES" envDefault:"8MiB" min:"1MiB" max:"1GiB" is:"payload of one claim, at most" example:"8MiB"`
	InFlightEvents int   `env:"BATON_IN_FLIGHT_EVENTS" envDefault:"20000" min:"1" max:"10000000" is:"events claimed and not settled, at most" example:"20000"`
	InFlightBytes  Bytes `env:"BATON_IN_FLIGHT_BYTES" envDefault:"16MiB" min:"1MiB" max:"16GiB" is:"payload claimed and not settled, at most" example:"16MiB"`

	PollMin     time.Duration `env:"BATON_POLL_MIN" envDefault:"2ms" min:"100us" max:"1m" is:"pause between claims while events flow" example:"2ms"`
	PollMax     time.Duration `env:"BATON_POLL_MAX" envDefault:"25ms" min:"100us" max:"1m" is:"pause between claims when idle" example:"25ms"`
	Lease       time.Duration `env:"BATON_LEASE" envDefault:"30s" min:"1s" max:"1h" is:"how long a claim holds its records" example:"30s"`
	SendTimeout time.Duration `env:"BATON_SEND_TIMEOUT" envDefault:"10s" min:"100ms" max:"30m" is:"how long one event may wait for the broker's verdict; at most three quarters of a lease, by default half of a short one" example:"10s"`
	Drain       time.Duration `env:"BATON_DRAIN" envDefault:"20s" min:"0s" max:"1h" is:"how long a relay that was told to end may finish what is in flight" example:"20s"`
	Retention   time.Duration `env:"BATON_RETENTION" envDefault:"24h" min:"1s" max:"87600h" is:"how long published events stay in the outbox" example:"24h"`

	BackoffMin  time.Duration `env:"BATON_BACKOFF_MIN" envDefault:"100ms" min:"1ms" max:"1h" is:"first pause after a failure" example:"100ms"`
	BackoffMax  time.Duration `env:"BATON_BACKOFF_MAX" envDefault:"30s" min:"1ms" max:"1h" is:"longest pause after a failure" example:"30s"`
	AttemptsMax int           `env:"BATON_ATTEMPTS_MAX" envDefault:"5" min:"1" max:"1000000" is:"verdicts against an event before its record is parked" example:"5"`
	ClaimsMax   int           `env:"BATON_CLAIMS_MAX" envDefault:"5" min:"3" max:"1000000" is:"claims without any verdict before a record is parked, as when its event kills the relay" example:"5"`

	OpsListen string     `env:"BATON_OPS_LISTEN" envDefault:"127.0.0.1:9090" is:"where /livez, /readyz and /metrics answer; port 0 takes a free one, off none" example:"127.0.0.1:9090"`
	LogLevel  slog.Level `env:"BATON_LOG_LEVEL" envDefault:"info" oneof:"debug info warn error" is:"the least level that is logged" example:"info"`
	LogFormat string     `env:"BATON_LOG_FORMAT" envDefault:"auto" oneof:"auto text json" is:"auto is text on a terminal, JSON otherwise" example:"auto"`

	// Routing is Routes and Allow, read.
	Routing publisher.Routing `env:"-"`
	// Warnings are variables that nothing reads, with the name that may have been meant.
	Warnings []string `env:"-"`

	set map[string]string // by the variable's name: the one that was set for it, itself or another
}

// Relay is the part that outbox.NewRelay wants.
func (c Config) Relay(log *slog.Logger) outbox.RelayConfig {
	return outbox.RelayConfig{
		Consumers: c.Consumers, Producers: c.Producers, Workers: c.Workers,
		ClaimRecords: c.ClaimRecords, ClaimEvents: c.ClaimEvents, ClaimBytes: int64(c.ClaimBytes),
		InFlightEvents: c.InFlightEvents, InFlightBytes: int64(c.InFlightBytes),
		PollMin: c.PollMin, PollMax: c.PollMax, Lease: c.Lease, Drain: c.Drain,
		BackoffMin: c.BackoffMin, BackoffMax: c.BackoffMax, AttemptsMax: c.AttemptsMax, ClaimsMax: c.ClaimsMax,
		PolicyOf: c.policyOf, Log: log,
	}
}

// policyOf a record type. One that is not allowed has no route, and is parked.
func (c Config) policyOf(recordType string) outbox.Policy {
	route, err := c.Routing.For(recordType)
	if err != nil {
		return outbox.Park
	}
	return route.Policy
}

// Publisher is the part that the publisher wants.
func (c Config) Publisher() publisher.Config {
	p := publisher.DefaultConfig()
	p.Brokers, p.ClientID, p.Source, p.Routes = c.KafkaBrokers, c.KafkaClientID, c.Source, c.Routing
	p.SendTimeout, p.Lease = c.SendTimeout, c.Lease
	return p
}

// Postgres is the part that outbox.NewPostgres wants. version is this build's, pooler what was found.
func (c Config) Postgres(version, pooler string, log *slog.Logger) outbox.PostgresConfig {
	return outbox.PostgresConfig{
		Schema: c.Schema, Lease: c.Lease, Name: c.Instance, Version: version, Pooler: pooler, Retention: c.Retention,
		Log: log,
	}
}

// Direct is the URL that migrations use; "" lets libpq's variables decide.
func (c Config) Direct() string {
	if c.DatabaseDirectURL != "" {
		return string(c.DatabaseDirectURL)
	}
	return string(c.DatabaseURL)
}
