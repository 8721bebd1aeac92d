package publisher

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/outbox"
)

// BenchmarkSend measures waves beside what sarama's own producer does with the same messages, against the broker of
// clustertest: go test -run '^$' -bench Send -benchtime 100x ./publisher
func BenchmarkSend(b *testing.B) {
	for _, shape := range []struct{ runs, events int }{{500, 1}, {2000, 1}, {60, 20}, {1, 1}} {
		b.Run(fmt.Sprintf("waves/%dx%d", shape.runs, shape.events), func(b *testing.B) {
			c := config(clustertest.Kafka(b).Addrs())
			newTopic(b, &c, 8, nil)
			w := newWaves(b, c)
			runs := benchRuns(shape.runs, shape.events)
			once := func() {
				for _, v := range w.Send(b.Context(), runs) {
					if v.Err != nil {
						b.Fatal(v.Err)
					}
				}
			}
			measure(b, shape.runs*shape.events, once)
		})
	}
	for _, events := range []int{500, 2000} {
		b.Run(fmt.Sprintf("sarama-SendMessages/%d", events), func(b *testing.B) {
			c := config(clustertest.Kafka(b).Addrs())
			topic := newTopic(b, &c, 8, nil)
			conns := newConns(b.Context(), c)
			defer conns.cut()
			p, err := sarama.NewSyncProducer(c.Brokers, c.producer(conns, false))
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			runs := benchRuns(events, 1)
			measure(b, events, func() {
				press := newPress(c.Source, len(runs))
				messages := make([]*sarama.ProducerMessage, len(runs))
				for i := range runs {
					headers, err := press.head(&runs[i], 0)
					if err != nil {
						b.Fatal(err)
					}
					messages[i] = &sarama.ProducerMessage{
						Topic: topic, Key: sarama.ByteEncoder(press.key(KeyOnly, runs[i].Events[0].Record)),
						Value: sarama.ByteEncoder(runs[i].Events[0].Payload), Headers: headers,
					}
				}
				if err := p.SendMessages(messages); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// measure repeats once, which sends so many events, after two rounds of warming up.
func measure(b *testing.B, events int, once func()) {
	once()
	once()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		once()
	}
	b.StopTimer()
	b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*events), "µs/event")
}

func benchRuns(runs, events int) []outbox.Run {
	all := make([]outbox.Run, runs)
	for i := range all {
		all[i] = newRun("shop.order", fmt.Sprint("order-", i), 0, events)
		all[i].Deadline = time.Now().Add(time.Hour)
		for k := range all[i].Events {
			all[i].Events[k].Payload = make([]byte, 200)
		}
	}
	return all
}
