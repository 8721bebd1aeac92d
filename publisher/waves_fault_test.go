package publisher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/batonrelay/baton/outbox"
)

func TestBrokerKilledDuringSendsLosesAndReordersNothing(t *testing.T) {
	k := ownKafka(t)
	c := config(k.Addrs())
	topic := newTopic(t, &c, 4, nil)
	w := newWaves(t, c)
	const senders, records, events = 4, 25, 60
	var stored, failed atomic.Int64
	quarter := make(chan struct{})
	var reached sync.Once
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			runs := make([]outbox.Run, records)
			for i := range runs {
				runs[i] = newRun("shop.order", fmt.Sprintf("%d-%d", sender, i), 0, events)
			}
			for len(runs) > 0 && t.Context().Err() == nil {
				verdicts := w.Send(t.Context(), head(runs, 5))
				left := runs[:0]
				for i, v := range verdicts {
					if v.Err != nil {
						failed.Add(1)
						if got := outbox.ClassOf(v.Err); got != outbox.BadWorld {
							t.Errorf("verdict while the broker is down: class %v, error = %v", got, v.Err)
						}
					}
					if runs[i].Events = runs[i].Events[v.Stored:]; len(runs[i].Events) > 0 {
						left = append(left, runs[i])
					}
					if stored.Add(int64(v.Stored)) > senders*records*events/4 {
						reached.Do(func() { close(quarter) })
					}
				}
				runs = left
				if verdicts[0].Err != nil {
					wait(t.Context(), 20*time.Millisecond) // the relay's back-off
				}
			}
		})
	}
	<-quarter
	if err := k.Restart(t.Context(), 0, true); err != nil {
		t.Error(err)
	}
	group.Wait()
	highest, breaks := judge(t, readAll(t, c.Brokers, topic))
	if failed.Load() == 0 {
		t.Error("no verdict failed: the test shows nothing")
	}
	if breaks != 0 || len(highest) != senders*records {
		t.Errorf("%d order breaks and %d records in the log, want 0 and %d", breaks, len(highest), senders*records)
	}
	for key, last := range highest {
		if last != events {
			t.Errorf("record %s: highest position in the log %d, want %d", key, last, events)
		}
	}
}

// head cuts every run to its next events, under a fresh lease.
func head(runs []outbox.Run, events int) []outbox.Run {
	heads := make([]outbox.Run, len(runs))
	for i, run := range runs {
		run.Events = run.Events[:min(events, len(run.Events))]
		run.Deadline = time.Now().Add(time.Minute)
		heads[i] = run
	}
	return heads
}

func TestSilentBrokerLeavesEventsUndecidedAndCloseDoesNotHang(t *testing.T) {
	k := ownKafka(t)
	c := config(k.Addrs())
	topic := newTopic(t, &c, 1, nil)
	c.SendTimeout = time.Second
	w := newWaves(t, c)
	send := func(key string) outbox.Verdict {
		return w.Send(t.Context(), []outbox.Run{newRun("shop.order", key, 0, 2)})[0]
	}
	wantStored(t, "before", send("before"), 2)

	if err := k.Pause(0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	silent := send("frozen")
	if took := time.Since(began); took > c.SendTimeout+5*time.Second {
		t.Errorf("Send took %v with a deadline of %v", took, c.SendTimeout)
	}
	if silent.Stored != 0 || !silent.Undecided || !errors.Is(silent.Err, ErrSilence) {
		t.Errorf("verdict = %+v, want undecided by silence", silent)
	}
	if got := outbox.ClassOf(silent.Err); got != outbox.BadWorld {
		t.Errorf("class = %v, want %v", got, outbox.BadWorld)
	}
	if err := k.Resume(0); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil { // the broker's session may have ended meanwhile
		if send("frozen").Err == nil {
			break
		}
		wait(t.Context(), 20*time.Millisecond)
	}

	if err := k.Pause(0); err != nil {
		t.Fatal(err)
	}
	if v := send("last"); !v.Undecided {
		t.Errorf("verdict = %+v, want undecided by silence", v)
	}
	began = time.Now()
	if err := w.Close(); err != nil {
		t.Errorf("Close error = %v", err)
	}
	if took := time.Since(began); took > c.SendTimeout+5*time.Second {
		t.Errorf("Close took %v with a frozen broker", took)
	}
	if err := k.Resume(0); err != nil {
		t.Fatal(err)
	}
	if _, breaks := judge(t, readAll(t, c.Brokers, topic)); breaks != 0 {
		t.Errorf("%d order breaks in the log", breaks)
	}
}

func TestSilenceEndsEverybodysWaveOnThatProducer(t *testing.T) {
	c := simulated(t, kfake.SeedTopics(1, "shop.order.events"))
	var frozen atomic.Bool
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if frozen.Load() {
			c.SleepControl(func() { <-t.Context().Done() })
		}
		return nil, nil, false
	})
	conf := config(c.ListenAddrs())
	w := newWaves(t, conf)
	wantStored(t, "before", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "0", 0, 1)})[0], 1)
	frozen.Store(true)
	patient := make(chan outbox.Verdict, 1)
	go func() { patient <- w.Send(t.Context(), []outbox.Run{newRun("shop.order", "1", 0, 1)})[0] }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	for _, v := range []outbox.Verdict{w.Send(ctx, []outbox.Run{newRun("shop.order", "2", 0, 1)})[0], <-patient} {
		if v.Stored != 0 || !v.Undecided || !errors.Is(v.Err, ErrSilence) {
			t.Errorf("verdict = %+v, want undecided by silence", v)
		}
	}
	if took := time.Since(began); took > conf.SendTimeout/2 {
		t.Errorf("the other's wave ended after %v: what waits in the producer could still go out", took)
	}
}

func TestLeaseThatRunsDownStopsTheRunBetweenEvents(t *testing.T) {
	c := simulated(t, kfake.SeedTopics(1, "shop.order.events"))
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(100 * time.Millisecond) }) // a slow broker
		return nil, nil, false
	})
	conf := config(c.ListenAddrs())
	conf.Lease = 8 * time.Second
	w := newWaves(t, conf)
	wantStored(t, "before", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "0", 0, 1)})[0], 1)
	run := newRun("shop.order", "42", 0, 1000)
	run.Deadline = time.Now().Add(conf.Lease/4 + 700*time.Millisecond)
	v := w.Send(t.Context(), []outbox.Run{run})[0]
	if v.Stored == 0 || v.Stored > 20 || v.Undecided || !errors.Is(v.Err, ErrLeaseEnding) {
		t.Errorf("stored %d, undecided %t, error = %v, want a few stored and %v",
			v.Stored, v.Undecided, v.Err, ErrLeaseEnding)
	}
}

func TestProducerWithBrokenSequencesIsReplaced(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch} {
		t.Run(code.Message, func(t *testing.T) {
			c := simulated(t, kfake.SeedTopics(1, "shop.order.events"))
			w := newWaves(t, config(c.ListenAddrs()))
			wantStored(t, "before", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0], 1)
			old := w.batched.current
			old.born = old.born.Add(-time.Minute) // one that was opened just now is kept
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code})
			wantStopped(t, "fault", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 1, 1)})[0], 0, outbox.BadWorld)
			wantStored(t, "after", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 1, 1)})[0], 1)
			if w.batched.current == old {
				t.Fatal("the producer was not replaced")
			}
			<-old.gone
		})
	}
}

func TestRefusedBatchIsSentAgainOneByOne(t *testing.T) {
	for _, code := range []*kerr.Error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord} {
		t.Run(code.Message, func(t *testing.T) {
			c := simulated(t, kfake.SeedTopics(1, "shop.order.events"))
			w := newWaves(t, config(c.ListenAddrs()))
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code}) // the first request only
			wantStored(t, "blamed wrongly", w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 2)})[0], 2)
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code, Count: 2}) // alone as well
			v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 2, 2)})[0]
			wantStopped(t, "blamed alone", v, 0, outbox.BadEvent)
		})
	}
}

func TestTopicErrorsOfTheBrokerAreBadTopics(t *testing.T) {
	c := simulated(t, kfake.SeedTopics(1, "shop.order.events"))
	w := newWaves(t, config(c.ListenAddrs()))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed})
	v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0]
	wantStopped(t, "not authorised", v, 0, outbox.BadTopic)
}

func TestSendWorksWhenTheBrokerComesLater(t *testing.T) {
	port := freePort(t)
	c := config([]string{fmt.Sprintf("127.0.0.1:%d", port)})
	w := newWaves(t, c)
	v := w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0]
	wantStopped(t, "no broker", v, 0, outbox.BadWorld)
	simulated(t, kfake.SeedTopics(1, "shop.order.events"), kfake.Ports(port))
	for t.Context().Err() == nil {
		if v = w.Send(t.Context(), []outbox.Run{newRun("shop.order", "42", 0, 1)})[0]; v.Err == nil {
			break
		}
		wait(t.Context(), 20*time.Millisecond)
	}
	wantStored(t, "broker came", v, 1)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
