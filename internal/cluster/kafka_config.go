package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// log4j2 sends warnings and errors to the broker's log file; Kafka's own default is no configuration at all.
const log4j2 = `rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
`

// kafkaPorts are one broker's. The proxied listener binds inner and tells clients to come to outer.
type kafkaPorts struct{ client, controller, inner, outer int }

// properties is the broker's whole configuration; node counts from 1.
func (k *Kafka) properties(node int) string {
	n := len(k.brokers)
	b := k.brokers[node-1]
	s := kafkaDefaults(n)
	s["node.id"] = fmt.Sprint(node)
	s["controller.quorum.voters"] = k.voters()
	s["log.dirs"] = b.data()
	listeners := []string{"DIRECT://" + loopback(b.ports.client)}
	advertised := slices.Clone(listeners)
	if k.options.Proxied {
		listeners = append(listeners, "PROXIED://"+loopback(b.ports.inner))
		advertised = append(advertised, "PROXIED://"+loopback(b.ports.outer))
	}
	listeners = append(listeners, "CONTROLLER://"+loopback(b.ports.controller))
	s["listeners"] = strings.Join(listeners, ",")
	s["advertised.listeners"] = strings.Join(advertised, ",")
	maps.Copy(s, k.options.Settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&text, "%s=%s\n", name, s[name])
	}
	return text.String()
}

func (k *Kafka) voters() string {
	voters := make([]string, len(k.brokers))
	for i, b := range k.brokers {
		voters[i] = fmt.Sprintf("%d@%s", i+1, loopback(b.ports.controller))
	}
	return strings.Join(voters, ",")
}

// kafkaDefaults suit n small brokers that are killed a lot. The session times are short: a broker that was killed
// cannot register again before its old session has ended, 9 s by Kafka's default, and producers stall until then.
func kafkaDefaults(n int) map[string]string {
	replicas, inSync := fmt.Sprint(n), fmt.Sprint((n+2)/2)
	s := map[string]string{
		"process.roles":                                    "broker,controller",
		"listener.security.protocol.map":                   "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":                       "DIRECT",
		"controller.listener.names":                        "CONTROLLER",
		"auto.create.topics.enable":                        "false",
		"default.replication.factor":                       replicas,
		"min.insync.replicas":                              inSync,
		"offsets.topic.replication.factor":                 replicas,
		"offsets.topic.num.partitions":                     "1",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    inSync,
		"transaction.state.log.num.partitions":             "1",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            inSync,
		"group.initial.rebalance.delay.ms":                 "0",
		"log.cleaner.dedupe.buffer.size":                   "2097152", // the default takes 128 MB at the start
		"num.network.threads":                              "2",
		"num.io.threads":                                   "4",
		"background.threads":                               "2",
		"broker.session.timeout.ms":                        "1000",
		"broker.heartbeat.interval.ms":                     "200",
	}
	if n > 1 {
		s["broker.session.timeout.ms"] = "2000"
		s["broker.heartbeat.interval.ms"] = "250"
		s["controller.quorum.election.timeout.ms"] = "500"
		s["controller.quorum.fetch.timeout.ms"] = "1000"
	}
	return s
}
