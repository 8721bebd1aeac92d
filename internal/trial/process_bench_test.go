package trial_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/trial"
)

// BenchmarkRelayProcess drains a backlog by one relay as a process, with the default configuration, and
// reports its peak memory and its CPU time per event.
func BenchmarkRelayProcess(b *testing.B) {
	const events, records = 200_000, 66_667
	for range b.N {
		b.StopTimer()
		pool, kafka, url := newOutbox(b)
		backlog(b, pool, recordType(kafka.Topics[0]), events, records)
		program := trial.Program{Path: binary(b, "baton"), Env: map[string]string{
			"DATABASE_URL": url, "BATON_KAFKA_BROKERS": strings.Join(kafka.Brokers, ","), "BATON_OPS_LISTEN": "off",
		}}
		ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
		b.StartTimer()
		relay, err := trial.StartRelay(ctx, program, "bench")
		if err != nil {
			b.Fatal(err)
		}
		if err := trial.Drained(ctx, pool); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		b.ReportMetric(float64(peakKilobytes(b, relay.PID()))/1024, "peak-MB")
		b.ReportMetric(float64(cpu(b, relay.PID()).Microseconds())/events, "relay-µs/event")
		relay.Kill()
		cancel()
	}
	b.ReportMetric(float64(events)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// peakKilobytes is the largest resident set that a process ever had.
func peakKilobytes(b *testing.B, pid int) int64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "VmHWM:"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no VmHWM")
	return 0
}

// cpu is the time that all threads of a process have run.
func cpu(b *testing.B, pid int) (all time.Duration) {
	b.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		if err != nil {
			continue // it has just ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		all += time.Duration(n)
	}
	return all
}
