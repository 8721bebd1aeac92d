package publisher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/outbox"
)

// wantStored fails unless all of a run is stored.
func wantStored(t *testing.T, name string, v outbox.Verdict, events int) {
	t.Helper()
	if v.Err != nil || v.Stored != events || v.Undecided {
		t.Errorf("%s: stored %d of %d, undecided %t, error = %v", name, v.Stored, events, v.Undecided, v.Err)
	}
}

// wantStopped fails unless a run stopped with an error of that class.
func wantStopped(t *testing.T, name string, v outbox.Verdict, stored int, class outbox.Class) {
	t.Helper()
	if got := outbox.ClassOf(v.Err); v.Err == nil || v.Stored != stored || v.Undecided || got != class {
		t.Errorf("%s: stored %d, undecided %t, class %v, error = %v, want %d stored and a %v",
			name, v.Stored, v.Undecided, got, v.Err, stored, class)
	}
}

// payloads of one key, in the order of the log.
func payloads(records []*kgo.Record, key string) []string {
	var list []string
	for _, r := range records {
		if string(r.Key) == key {
			list = append(list, string(r.Value))
		}
	}
	return list
}

func TestMessageInKafkaIsTheContract(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 3, nil)
	empty := newRun("shop.order", "empty", 0, 1)
	empty.Events[0].Payload = []byte{}
	run := goldenRun()
	before := time.Now().Truncate(time.Millisecond)
	verdicts := newWaves(t, c).Send(t.Context(), []outbox.Run{run, empty})
	after := time.Now()
	wantStored(t, "run", verdicts[0], 2)
	wantStored(t, "empty", verdicts[1], 1)
	var got []string
	for _, r := range readAll(t, c.Brokers, topic) {
		if r.Timestamp.Before(before) || r.Timestamp.After(after) {
			t.Errorf("offset %d: timestamp %v, want the time of sending, %v to %v", r.Offset, r.Timestamp, before, after)
		}
		if string(r.Key) == "empty" {
			if r.Value == nil || len(r.Value) != 0 {
				t.Errorf("empty payload became %v, want an empty value and no NULL", r.Value)
			}
			continue
		}
		var headers []sarama.RecordHeader
		for _, h := range r.Headers {
			headers = append(headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		got = append(got, text(r.Key, headers, r.Value))
		if want := int32(417700972 % 3); r.Partition != want { // Java's murmur2 of "42"
			t.Errorf("offset %d: partition %d, want %d", r.Offset, r.Partition, want)
		}
	}
	if diff := cmp.Diff([]string{goldenFirst, goldenSecond}, got); diff != "" {
		t.Errorf("messages differ (-want +got):\n%s", diff)
	}
}

func TestOversizeEventStopsItsRunAndNoOther(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 1, nil)
	runs := []outbox.Run{newRun("shop.order", "big", 0, 5), newRun("shop.order", "small", 0, 5)}
	runs[0].Events[2].Payload = make([]byte, c.MaxMessageBytes)
	verdicts := newWaves(t, c).Send(t.Context(), runs)
	wantStopped(t, "big", verdicts[0], 2, outbox.BadEvent)
	if text := fmt.Sprint(verdicts[0].Err); !strings.Contains(text, `shop.order "big" position 3 to topic `+topic) {
		t.Errorf("error = %q, want it to name the event", text)
	}
	wantStored(t, "small", verdicts[1], 5)
	log := readAll(t, c.Brokers, topic)
	if diff := cmp.Diff([]string{`{"position":1}`, `{"position":2}`}, payloads(log, "big")); diff != "" {
		t.Errorf("big in the log (-want +got):\n%s", diff)
	}
	if got := len(payloads(log, "small")); got != 5 {
		t.Errorf("small in the log: %d events, want 5", got)
	}
}

func TestBatchThatIsTooLargeBlamesOnlyTheEventThatIs(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 1, map[string]string{"max.message.bytes": "3000"})
	w := newWaves(t, c)
	var runs []outbox.Run
	for i := range 20 {
		run := newRun("shop.order", fmt.Sprint(i), 0, 2)
		run.Events[0].Payload = make([]byte, 600)
		if i == 7 {
			run.Events[0].Payload = make([]byte, 4000)
		}
		runs = append(runs, run)
	}
	for i, v := range w.Send(t.Context(), runs) {
		if i == 7 {
			wantStopped(t, "too large", v, 0, outbox.BadEvent)
			continue
		}
		wantStored(t, fmt.Sprint("run ", i), v, 2)
	}
	if w.lone.current == nil {
		t.Error("no batch was refused: the test shows nothing")
	}
	if got := len(readAll(t, c.Brokers, topic)); got != 38 {
		t.Errorf("%d messages in the log, want 38", got)
	}
}

func TestTopicsAndRoutesThatAreBadStopTheirRunsOnly(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 1, nil)
	var err error
	if c.Routes, err = ParseRouting("shop.order="+topic, "shop.*"); err != nil {
		t.Fatal(err)
	}
	w := newWaves(t, c)
	for range 5 { // more often than sarama's circuit breaker allows errors
		runs := []outbox.Run{
			newRun("shop.nowhere", "1", 0, 2), newRun("shop.order", "2", 0, 2), newRun("billing.invoice", "3", 0, 2),
		}
		verdicts := w.Send(t.Context(), runs)
		wantStopped(t, "unknown topic", verdicts[0], 0, outbox.BadTopic)
		if err := verdicts[0].Err; !errors.Is(err, sarama.ErrUnknownTopicOrPartition) ||
			!strings.Contains(err.Error(), "baton topics ensure") {
			t.Errorf("unknown topic: error = %v, want the code and the cure", err)
		}
		wantStored(t, "good", verdicts[1], 2)
		wantStopped(t, "not allowed", verdicts[2], 0, outbox.BadTopic)
	}
}

func TestTopicWithAnotherPartitionCountIsStopped(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 3, nil)
	var mu sync.Mutex
	accepted := int32(2)
	c.Partitions = func(string) int32 {
		mu.Lock()
		defer mu.Unlock()
		return accepted
	}
	w := newWaves(t, c)
	v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 2)})[0]
	wantStopped(t, "not accepted", v, 0, outbox.BadTopic)
	if !strings.Contains(fmt.Sprint(v.Err), "baton topics accept "+topic) {
		t.Errorf("error = %v, want it to name the cure", v.Err)
	}
	mu.Lock()
	accepted = 3
	mu.Unlock()
	wantStored(t, "accepted", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 2)})[0], 2)
	if got := len(readAll(t, c.Brokers, topic)); got != 2 {
		t.Errorf("%d messages in the log, want the 2 that were accepted", got)
	}
}

func TestConcurrentSendsKeepEveryRecordInOrder(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 4, nil)
	w := newWaves(t, c)
	const senders, records, events = 8, 30, 5
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			var runs []outbox.Run
			for record := range records {
				runs = append(runs, newRun("shop.order", fmt.Sprintf("%d-%d", sender, record), 0, events))
			}
			for i, v := range w.Send(t.Context(), runs) {
				wantStored(t, fmt.Sprintf("sender %d run %d", sender, i), v, events)
			}
		})
	}
	group.Wait()
	copies, breaks := judge(t, readAll(t, c.Brokers, topic))
	if len(copies) != senders*records || breaks != 0 {
		t.Errorf("%d records and %d order breaks in the log, want %d and 0", len(copies), breaks, senders*records)
	}
	for key, highest := range copies {
		if highest != events {
			t.Errorf("record %s: highest position %d, want %d", key, highest, events)
		}
	}
}

// judge returns the highest position of each key, where positions are dense, and how often one came too early.
func judge(t *testing.T, log []*kgo.Record) (highest map[string]int64, breaks int) {
	t.Helper()
	highest = map[string]int64{}
	for _, r := range log {
		message := sarama.ConsumerMessage{
			Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value,
		}
		for _, h := range r.Headers {
			message.Headers = append(message.Headers, &sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		m, err := Decode(&message)
		if err != nil {
			t.Fatal(err)
		}
		switch key := m.Event.Record.Key; {
		case m.Event.Position == highest[key]+1:
			highest[key]++
		case m.Event.Position > highest[key]:
			breaks++
		}
	}
	return highest, breaks
}

func TestLeaseInItsLastQuarterSendsNothing(t *testing.T) {
	c := config([]string{"127.0.0.1:1"})
	run := newRun("shop.order", "42", 0, 1)
	run.Deadline = time.Now().Add(c.Lease/4 - time.Millisecond)
	v := newWaves(t, c).Send(t.Context(), []outbox.Run{run})[0]
	wantStopped(t, "run", v, 0, outbox.BadWorld)
	if !errors.Is(v.Err, ErrLeaseEnding) {
		t.Errorf("error = %v, want %v", v.Err, ErrLeaseEnding)
	}
}

func TestCancelledSendLeavesNothingUndecidedAndTheProducerAlone(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	newTopic(t, &c, 1, nil)
	w := newWaves(t, c)
	wantStored(t, "before", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0], 1)
	old := w.batched.current
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := w.Send(ctx, []outbox.Run{newRun("shop.order", "42", 1, 2)})[0]
	wantStopped(t, "cancelled", v, 0, outbox.BadWorld)
	if !errors.Is(v.Err, ErrNotSent) || w.batched.current != old {
		t.Errorf("error = %v, producer replaced %t", v.Err, w.batched.current != old)
	}
}

func TestNoBrokerIsTheWorldsFaultAndIsNotAskedAllTheTime(t *testing.T) {
	c := config([]string{"127.0.0.1:1"})
	var mu sync.Mutex
	dials := 0
	c.Dial = func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dials++
		return nil, errors.New("nobody there")
	}
	w := newWaves(t, c)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return dials
	}
	const tries = 20
	one := 0 // dials of one opening
	for i := range tries {
		v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 2)})[0]
		wantStopped(t, fmt.Sprint("try ", i), v, 0, outbox.BadWorld)
		if i == 0 {
			one = count()
		}
	}
	if got := count(); one == 0 || got > tries/4*one {
		t.Errorf("%d dials in %d tries, %d in the first, want a pause between", got, tries, one)
	}
}

func TestSendAfterCloseIsRefused(t *testing.T) {
	w := newWaves(t, config([]string{"127.0.0.1:1"}))
	if err := errors.Join(w.Close(), w.CloseCtx(t.Context())); err != nil {
		t.Errorf("Close error = %v", err)
	}
	if v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0]; !errors.Is(v.Err, ErrClosed) {
		t.Errorf("error = %v, want %v", v.Err, ErrClosed)
	}
}
