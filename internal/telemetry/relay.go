package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/batonrelay/baton/outbox"
)

type stats = outbox.RelayStats

// RelayMetrics shows a relay's counters. Names end in their unit.
type RelayMetrics struct{ Stats func() outbox.RelayStats }

type relayMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(stats) int64
}

func counter(name, help string, value func(stats) int64) relayMetric {
	return relayMetric{prometheus.NewDesc("baton_"+name, help, nil, nil), prometheus.CounterValue, value}
}

func gauge(name, help string, value func(stats) int64) relayMetric {
	return relayMetric{prometheus.NewDesc("baton_"+name, help, nil, nil), prometheus.GaugeValue, value}
}

func relayMetrics() []relayMetric {
	return []relayMetric{
		counter("claims_total", "Claims made.", func(s stats) int64 { return s.Claims }),
		counter("claim_errors_total", "Claims that failed.", func(s stats) int64 { return s.ClaimErrors }),
		counter("leases_claimed_total", "Leases taken.", func(s stats) int64 { return s.RecordsClaimed }),
		counter("leases_stale_total", "Leases taken over after another claim had let them run out.",
			func(s stats) int64 { return s.StaleClaimed }),
		counter("leases_empty_total", "Leases taken whose event was not in sight.",
			func(s stats) int64 { return s.EmptyClaimed }),
		counter("leases_acked_total", "Leases ended by an acknowledgement.", func(s stats) int64 { return s.Acked }),
		counter("leases_released_total", "Leases ended with work left.", func(s stats) int64 { return s.Released }),
		counter("leases_lost_total", "Leases lost before they were settled.", func(s stats) int64 { return s.Lost }),
		counter("lease_extensions_total", "Extensions of a claim's leases.", func(s stats) int64 { return s.Extended }),
		counter("events_published_total", "Events known stored by the log.", func(s stats) int64 { return s.Published }),
		counter("runs_failed_world_total", "Runs that stopped because broker or network did.",
			func(s stats) int64 { return s.FailedWorld }),
		counter("runs_failed_topic_total", "Runs that stopped because of their topic.",
			func(s stats) int64 { return s.FailedTopic }),
		counter("runs_failed_event_total", "Runs that stopped because of their event.",
			func(s stats) int64 { return s.FailedEvent }),
		counter("records_parked_total", "Records parked by this relay.", func(s stats) int64 { return s.Parked }),
		counter("job_retries_total", "Acknowledgements and releases tried again.",
			func(s stats) int64 { return s.JobRetries }),
		gauge("in_flight_events", "Events claimed and not settled.", func(s stats) int64 { return s.EventsInFlight }),
		gauge("in_flight_bytes", "Bytes of payload claimed and not settled.",
			func(s stats) int64 { return s.BytesInFlight }),
	}
}

// Describe implements prometheus.Collector.
func (m RelayMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, metric := range relayMetrics() {
		ch <- metric.desc
	}
}

// Collect implements prometheus.Collector.
func (m RelayMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.Stats()
	for _, metric := range relayMetrics() {
		ch <- prometheus.MustNewConstMetric(metric.desc, metric.kind, float64(metric.value(s)))
	}
}
