package checker

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// ExamplesMax is how many findings of each kind a report keeps.
const ExamplesMax = 10

// Kind is what a finding is about.
type Kind string

// The kinds. Each has a count in the report.
const (
	// Lost: committed, not skipped, in no partition.
	Lost Kind = "lost"
	// Phantom: in a partition and never committed, or not with this id, type and payload.
	Phantom Kind = "phantom"
	// Order: a copy higher than all before it, though a lower event of its record had not come.
	Order Kind = "order break"
	// Moved: the record is in a second partition. It is counted once, and its order is not judged further.
	Moved Kind = "moved"
	// Misread: offsets did not ascend. Whoever read the partition is to blame, and the verdict is void.
	Misread Kind = "misread"
)

// Report is the verdict on a run.
type Report struct {
	Records, Committed, Delivered int

	Lost, Phantom, Order, Moved, Misread int // findings, none of which may be

	Skipped    int // committed events given up on purpose
	Duplicates int // copies of events that had come before
	Overlaps   int // times a claim's copies came after those of a claim that had followed it

	Findings []Finding // the first ExamplesMax of each kind
}

// Finding is one thing that must not be.
type Finding struct {
	Kind       Kind
	RecordType string
	RecordKey  string
	EventID    uuid.UUID
	Position   int64
	Token      int64
	Topic      string // "" where no message is to blame
	Partition  int32
	Offset     int64 // -1 where no message is to blame
	Reason     string
}

// OK reports that nothing was found.
func (r Report) OK() bool { return r.Lost+r.Phantom+r.Order+r.Moved+r.Misread == 0 }

// String is the verdict in two lines, and a line for each finding.
func (r Report) String() string {
	var b strings.Builder
	verdict := "OK"
	if !r.OK() {
		verdict = "VIOLATED"
	}
	fmt.Fprintf(&b, "%s: %d committed, %d delivered, %d records\n", verdict, r.Committed, r.Delivered, r.Records)
	fmt.Fprintf(&b, "lost %d, phantom %d, order breaks %d, moved %d", r.Lost, r.Phantom, r.Order, r.Moved)
	if r.Misread > 0 {
		fmt.Fprintf(&b, ", misread %d", r.Misread)
	}
	fmt.Fprintf(&b, "; skipped %d, duplicates %d, overlaps %d", r.Skipped, r.Duplicates, r.Overlaps)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n  %s", f)
	}
	return b.String()
}

// String is the finding in one line.
func (f Finding) String() string {
	where := ""
	if f.Offset >= 0 {
		where = fmt.Sprintf(" at %s/%d offset %d, token %d", f.Topic, f.Partition, f.Offset, f.Token)
	}
	return fmt.Sprintf("%s: %s/%s position %d, event %s%s: %s",
		f.Kind, f.RecordType, f.RecordKey, f.Position, f.EventID, where, f.Reason)
}
