package publisher

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/batonrelay/baton/outbox"
)

// goldenRun has an event of every kind. The second one is plain.
func goldenRun() outbox.Run {
	zone := time.FixedZone("CET", 3600)
	return outbox.Run{
		Token: -42, Epoch: "7301234567890123456.1", Gap: 998,
		Deadline: time.Now().Add(time.Minute),
		Events: []outbox.Event{{
			ID:     uuid.MustParse("01934b2e-7c00-7abc-8def-0123456789ab"),
			Record: outbox.Record{Type: "shop.order", Key: "42"}, Type: outbox.Created,
			Payload: []byte(`{"total":5}`),
			Headers: map[string]string{
				"zeta": "last", "alpha": "first", "tracestate": "v=1",
				"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "baggage": "user=7",
				"content-type": "application/x.order+json",
			},
			Position: 1000, CreatedAt: time.Date(2026, 11, 24, 11, 30, 0, 123456000, zone),
		}, {
			ID:     uuid.MustParse("01934b2e-7c01-7abc-8def-0123456789ab"),
			Record: outbox.Record{Type: "shop.order", Key: "42"}, Type: outbox.Removed,
			Position: 1001, CreatedAt: time.Date(2026, 11, 24, 11, 30, 1, 0, zone),
		}},
	}
}

// The contract, byte by byte: a change here breaks consumers.
const goldenFirst = `key 42
ce_specversion: 1.0
ce_id: 01934b2e-7c00-7abc-8def-0123456789ab
ce_source: shop-order-api
ce_type: shop.order.Created
ce_subject: 42
ce_time: 2026-11-24T10:30:00.123456Z
content-type: application/x.order+json
traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
tracestate: v=1
baggage: user=7
alpha: first
zeta: last
baton_position: 1000
baton_token: -42
baton_epoch: 7301234567890123456.1
baton_gap: 998
value "{\"total\":5}"
`

const goldenSecond = `key 42
ce_specversion: 1.0
ce_id: 01934b2e-7c01-7abc-8def-0123456789ab
ce_source: shop-order-api
ce_type: shop.order.Removed
ce_subject: 42
ce_time: 2026-11-24T10:30:01Z
content-type: application/json
baton_position: 1001
baton_token: -42
baton_epoch: 7301234567890123456.1
value NULL
`

// text shows a message as the golden ones are written.
func text(key []byte, headers []sarama.RecordHeader, value []byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "key %s\n", key)
	for _, h := range headers {
		fmt.Fprintf(&b, "%s: %s\n", h.Key, h.Value)
	}
	if value == nil {
		b.WriteString("value NULL\n")
	} else {
		fmt.Fprintf(&b, "value %q\n", value)
	}
	return b.String()
}

func TestMessageIsTheContract(t *testing.T) {
	run := goldenRun()
	p := newPress("shop-order-api", 1) // too small: growing must not harm what was pressed before
	var got [2]string
	var keys [2][]byte
	var heads [2][]sarama.RecordHeader
	for i := range run.Events {
		var err error
		if heads[i], err = p.head(&run, i); err != nil {
			t.Fatal(err)
		}
		keys[i] = p.key(KeyOnly, run.Events[i].Record)
	}
	for i := range run.Events {
		got[i] = text(keys[i], heads[i], run.Events[i].Payload)
	}
	if diff := cmp.Diff([2]string{goldenFirst, goldenSecond}, got); diff != "" {
		t.Errorf("messages differ (-want +got):\n%s", diff)
	}
}

func TestKeyMayCarryTheRecordType(t *testing.T) {
	p := newPress("s", 1)
	if got, want := string(p.key(KeyAndType, outbox.Record{Type: "shop.order", Key: "42"})), "shop.order/42"; got != want {
		t.Errorf("key = %q, want %q", got, want)
	}
}

func TestHeaderThatIsTheRelaysIsRefused(t *testing.T) {
	for _, name := range []string{"ce_id", "baton_position", "baton_anything"} {
		run := newRun("shop.order", "42", 0, 1)
		run.Events[0].Headers = map[string]string{name: "1"}
		_, err := newPress("s", 1).head(&run, 0)
		if got := outbox.ClassOf(err); got != outbox.BadEvent || !strings.Contains(fmt.Sprint(err), name) {
			t.Errorf("header %s: error = %v, class %v, want a bad event that names it", name, err, got)
		}
	}
}

func TestDecodeReadsWhatWasWritten(t *testing.T) {
	run := goldenRun()
	want := Message{
		Event: run.Events[0], CEType: "shop.order.Created", Source: "shop-order-api", Token: run.Token, Epoch: run.Epoch,
		Gap: run.Gap, Topic: "orders", Partition: 3, Offset: 17, Key: []byte("42"), SentAt: time.Unix(1, 0),
	}
	want.Event.CreatedAt = want.Event.CreatedAt.UTC()
	headers, err := newPress("shop-order-api", 1).head(&run, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := &sarama.ConsumerMessage{
		Topic: "orders", Partition: 3, Offset: 17, Timestamp: time.Unix(1, 0),
		Key: []byte("42"), Value: run.Events[0].Payload,
	}
	for i := range headers {
		read.Headers = append(read.Headers, &headers[i])
	}
	got, err := Decode(read)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Decode error = %v, differs (-want +got):\n%s", err, diff)
	}
}

func TestDecodeNamesEveryHeaderThatIsWrong(t *testing.T) {
	_, err := Decode(&sarama.ConsumerMessage{Topic: "orders", Partition: 3, Offset: 17, Headers: []*sarama.RecordHeader{
		{Key: []byte("ce_specversion"), Value: []byte("2.0")}, {Key: []byte("ce_id"), Value: []byte("42")},
		{Key: []byte("ce_type"), Value: []byte("Created")}, {Key: []byte("baton_position"), Value: []byte("first")},
	}})
	if err == nil {
		t.Fatal("Decode accepted nonsense")
	}
	for _, part := range []string{
		"offset 17 of orders/3", "ce_specversion: it is", "ce_id: ", "ce_type: ", "baton_position: ",
		"ce_source is missing", "ce_time is missing", "baton_token is missing", "baton_epoch is missing",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q:\n%v", part, err)
		}
	}
}

func BenchmarkMessage(b *testing.B) {
	traced := goldenRun()
	plain := newRun("shop.order", "42", 0, 1)
	for name, run := range map[string]*outbox.Run{"plain": &plain, "six-headers": &traced} {
		b.Run(name, func(b *testing.B) {
			const wave = 500
			b.ReportAllocs()
			var p *press
			for i := range b.N {
				if i%wave == 0 {
					p = newPress("shop-order-api", wave)
				}
				p.key(KeyOnly, run.Events[0].Record)
				if _, err := p.head(run, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
