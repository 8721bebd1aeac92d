package checker_test

import (
	"encoding/binary"
	"math/rand/v2"
	"strconv"

	"github.com/google/uuid"

	"github.com/batonrelay/baton/internal/checker"
)

// history is what a run could have left behind.
type history struct {
	committed []checker.Committed
	delivered []checker.Delivered // partition by partition, offsets ascending
}

func (h history) judge() checker.Report {
	c := checker.New()
	c.Commit(h.committed...)
	c.Deliver(h.delivered...)
	return c.Judge()
}

const partitions = 4

// event makes the n-th event of a run; its position has a hole before it now and then.
func event(n, record int) checker.Committed {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return checker.Committed{
		Position:   int64(n*3 + n%2 + 1),
		RecordType: "shop.order",
		RecordKey:  strconv.Itoa(record),
		EventID:    id,
		Type:       []string{"Created", "Updated", "Removed"}[n%3],
		Hash:       checker.Hash(strconv.AppendInt(nil, int64(n), 10)),
	}
}

// copyOf is a message that carries e, without its offset.
func copyOf(e checker.Committed, record int, token int64) checker.Delivered {
	return checker.Delivered{
		Topic:      e.RecordType + ".events",
		Partition:  int32(record % partitions),
		RecordType: e.RecordType,
		RecordKey:  e.RecordKey,
		EventID:    e.EventID,
		Type:       e.Type,
		Hash:       e.Hash,
		Position:   e.Position,
		Token:      token,
		Epoch:      "7/1",
	}
}

// number gives the messages their offsets, in the order in which they stand.
func (h history) number() {
	var next [partitions]int64
	for i := range h.delivered {
		d := &h.delivered[i]
		d.Offset = next[d.Partition]
		next[d.Partition] += 2 // a broker's markers take offsets too
	}
}

// straight is a run without a single copy too many: events of records in turn.
func straight(events, records int) history {
	h := history{
		committed: make([]checker.Committed, events),
		delivered: make([]checker.Delivered, events),
	}
	for n := range events {
		h.committed[n] = event(n, n%records)
		h.delivered[n] = copyOf(h.committed[n], n%records, int64(n%records)+1)
	}
	h.number()
	return h
}

// repeated puts runs of copies that come again behind their first ones.
func (h history) repeated(random *rand.Rand, runs, records int) history {
	out := history{committed: h.committed}
	every := len(h.delivered) / (runs + 1)
	for i, d := range h.delivered {
		out.delivered = append(out.delivered, d)
		if i%every != every-1 {
			continue
		}
		// the record of d again, from a few of its events back up to d
		for back := random.IntN(4) * records; back >= 0; back -= records {
			if i-back >= 0 {
				late := h.delivered[i-back]
				late.Token = -1
				out.delivered = append(out.delivered, late)
			}
		}
	}
	out.number()
	return out
}
