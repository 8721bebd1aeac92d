package publisher

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/batonrelay/baton/outbox"
)

func TestWavesKeepEachRunInOrder(t *testing.T) {
	c := simulated(t, kfake.SeedTopics(3, "shop.order.events"))
	w := newWaves(t, config(c.ListenAddrs()))
	runs := []outbox.Run{newRun("shop.order", "a", 0, 5), newRun("shop.order", "b", 10, 1), newRun("shop.order", "c", 20, 3)}
	for i, v := range w.Send(t.Context(), runs) {
		if v.Err != nil || v.Stored != len(runs[i].Events) {
			t.Errorf("run %d: verdict = %+v, want all stored", i, v)
		}
	}
	readAll(t, c.ListenAddrs(), 9, "shop.order.events")
}
