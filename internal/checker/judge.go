package checker

import (
	"cmp"
	"fmt"
	"slices"
)

// judge is the state of one Judge.
type judge struct {
	*Checker
	report Report
	// chain has the committed events of all records, record by record, each in order of position.
	// Record r's are chain[first[r]:first[r+1]].
	chain []committed
	first []int32
	seen  []bool // by place in chain: a copy is in the log

	read    []int64 // by partition: the last offset
	places  []place // by record
	highest map[recordEpoch]int32
	tokens  map[recordToken]struct{} // of claims that another one of the record followed
}

type (
	recordEpoch struct{ record, epoch int32 }
	recordToken struct {
		record int32
		token  int64
	}
	// place is where a record stands in the log so far.
	place struct {
		known, moved     bool
		partition, epoch int32
		high             int32 // place in chain of the highest event seen in epoch, or none
		token            int64
	}
)

const none = int32(-1)

// Judge compares. It may be called again after more was told.
func (c *Checker) Judge() Report {
	j := judge{
		Checker: c,
		seen:    make([]bool, len(c.committed)),
		read:    slices.Repeat([]int64{-1}, len(c.partitions.values)),
		places:  make([]place, len(c.records.values)),
		highest: map[recordEpoch]int32{},
		tokens:  map[recordToken]struct{}{},
	}
	j.report.Committed, j.report.Delivered, j.report.Records = len(c.committed), len(c.delivered), len(c.records.values)
	j.link()
	for i := range c.delivered {
		j.message(&c.delivered[i])
	}
	j.loss()
	return j.report
}

// link builds the chains: a counting sort by record, then by position where they came otherwise.
func (j *judge) link() {
	j.first = make([]int32, len(j.records.values)+1)
	for i := range j.committed {
		j.first[j.committed[i].record+1]++
	}
	for r := range j.records.values {
		j.first[r+1] += j.first[r]
	}
	next := slices.Clone(j.first)
	j.chain = make([]committed, len(j.committed))
	for i := range j.committed {
		r := j.committed[i].record
		j.chain[next[r]] = j.committed[i]
		next[r]++
	}
	byPosition := func(a, b committed) int { return cmp.Compare(a.position, b.position) }
	for r := range j.records.values {
		if events := j.chain[j.first[r]:j.first[r+1]]; !slices.IsSortedFunc(events, byPosition) {
			slices.SortFunc(events, byPosition)
		}
	}
}

func (j *judge) message(d *delivered) {
	if last := j.read[d.partition]; d.offset <= last {
		j.blame(&j.report.Misread, Misread, d, fmt.Sprintf("read after offset %d", last))
	}
	j.read[d.partition] = d.offset

	p := &j.places[d.record]
	j.follow(p, d)
	at := j.find(d, p.high)
	if at == none {
		j.blame(&j.report.Phantom, Phantom, d, "no such position was committed for the record")
		return
	}
	if what := j.altered(&j.chain[at].fact, &d.fact); what != "" {
		j.blame(&j.report.Phantom, Phantom, d, what+" is not the committed one")
	}
	// the order of two partitions is nobody's promise: a record that moved was blamed for that
	if !p.moved && at > p.high {
		j.order(p, d, at)
	}
	if j.seen[at] {
		j.report.Duplicates++
	}
	j.seen[at] = true
	// also after a finding: one gap is one finding
	p.high = max(p.high, at)
}

// follow keeps the record's partition, token and epoch.
func (j *judge) follow(p *place, d *delivered) {
	if !p.known {
		*p = place{known: true, partition: d.partition, epoch: d.epoch, token: d.token, high: none}
		return
	}
	if d.partition != p.partition && !p.moved {
		p.moved = true
		was := j.partitions.values[p.partition]
		j.blame(&j.report.Moved, Moved, d, fmt.Sprintf("was in %s/%d before", was.topic, was.number))
	}
	if d.token != p.token {
		if _, again := j.tokens[recordToken{d.record, d.token}]; again {
			j.report.Overlaps++
		}
		j.tokens[recordToken{d.record, p.token}] = struct{}{}
		p.token = d.token
	}
	if d.epoch != p.epoch {
		j.highest[recordEpoch{d.record, p.epoch}] = p.high
		high, ok := j.highest[recordEpoch{d.record, d.epoch}]
		if !ok {
			high = none
		}
		p.epoch, p.high = d.epoch, high
	}
}

// find returns the place in chain of the record's event with d's position, or none.
func (j *judge) find(d *delivered, high int32) int32 {
	low, end := j.first[d.record], j.first[d.record+1]
	if next := max(high+1, low); next < end && j.chain[next].position == d.position {
		return next // the usual case: the next first copy
	}
	byPosition := func(e committed, position int64) int { return cmp.Compare(e.position, position) }
	at, ok := slices.BinarySearchFunc(j.chain[low:end], d.position, byPosition)
	if !ok {
		return none
	}
	return low + int32(at)
}

// altered names what a copy does not share with the committed event.
func (j *judge) altered(want, got *fact) string {
	switch {
	case got.id != want.id:
		return "event id"
	case got.kind != want.kind:
		return "type"
	case got.hash != want.hash:
		return "payload"
	}
	return ""
}

// order looks at what a copy higher than all before it leaves out. That may only be skipped events,
// one of which the copy names. An epoch's first copy may also leave out what other epochs delivered.
func (j *judge) order(p *place, d *delivered, at int32) {
	from, fresh := p.high+1, false
	if p.high == none {
		from, fresh = j.first[d.record], true
	}
	missing, named := none, false
	for i := from; i < at; i++ {
		e := &j.chain[i]
		switch {
		case fresh && j.seen[i]:
		case !e.skipped:
			j.blame(&j.report.Order, Order, d, fmt.Sprintf("follows no copy of position %d", e.position))
			return
		default:
			missing, named = i, named || e.position == d.gap
		}
	}
	if missing != none && !named {
		skipped := j.chain[missing].position
		j.blame(&j.report.Order, Order, d, fmt.Sprintf("does not say that position %d was skipped", skipped))
	}
}

// loss is a difference of sets: it does not hang on the order.
func (j *judge) loss() {
	for i := range j.chain {
		e := &j.chain[i]
		switch {
		case e.skipped:
			j.report.Skipped++
		case !j.seen[i]:
			j.blame(&j.report.Lost, Lost, &delivered{fact: e.fact, record: e.record, position: e.position, partition: none},
				"was committed, and no partition holds it")
		}
	}
}

// blame counts a finding, and keeps the first few of its kind.
func (j *judge) blame(count *int, kind Kind, d *delivered, reason string) {
	*count++
	if *count > ExamplesMax {
		return
	}
	name := j.records.values[d.record]
	f := Finding{
		Kind: kind, RecordType: name.kind, RecordKey: name.key, EventID: d.id,
		Position: d.position, Token: d.token, Offset: -1, Reason: reason,
	}
	if d.partition != none {
		at := j.partitions.values[d.partition]
		f.Topic, f.Partition, f.Offset = at.topic, at.number, d.offset
	}
	j.report.Findings = append(j.report.Findings, f)
}
