package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/batonrelay/baton/internal/trial"
)

// judge reads the topics to their ends and prints the verdict.
func (d *demo) judge(ctx context.Context) error {
	start := time.Now()
	v, err := trial.Judge(ctx, d.pool, d.kafka, d.journal)
	if err != nil {
		return err
	}
	d.took = append(d.took, phase{"read back", time.Since(start)})
	d.print.text("")
	mark, verdict := d.print.good, d.print.paint(bold, "the promise held")
	if !v.OK() {
		mark, verdict = d.print.bad, d.print.paint(bold, "THE PROMISE DID NOT HOLD")
	}
	mark("%s  (%s, seed %d)", verdict, d.kafkaName(), d.opts.Seed)
	for _, n := range []struct {
		name  string
		value int
		what  string
	}{
		{"committed", v.Committed, fmt.Sprintf("events of %d records", v.Records)},
		{"delivered", v.Delivered - v.Duplicates, "of them, read back from " + d.kafkaName()},
		{"lost", v.Lost, ""},
		{"from rolled-back", v.FromRolledBack,
			fmt.Sprintf("of %d events in transactions that were rolled back", d.journal.RolledBack())},
		{"phantoms", v.Phantom, ""},
		{"order breaks", v.Order + v.Moved, ""},
		{"duplicates", v.Duplicates, "copies that a consumer drops by their position"},
	} {
		line := fmt.Sprintf("  %-17s %7d", n.name, n.value)
		if n.what != "" {
			line += "   " + d.print.paint(dim, n.what)
		}
		d.print.text("%s", line)
	}
	took := fmt.Sprintf("until others had the killed relay's records, lease %d s", leaseSeconds)
	d.print.text("  %-17s %6.1fs   %s", "takeover", d.takeover.Seconds(), d.print.paint(dim, took))
	for _, f := range v.Findings {
		d.print.bad("%s", f)
	}
	d.print.note("%s", d.times())
	if !v.OK() {
		return ErrBroken
	}
	return nil
}

// times is one line: seconds per phase.
func (d *demo) times() string {
	var b strings.Builder
	b.WriteString("seconds:")
	for _, p := range d.took {
		fmt.Fprintf(&b, "  %s %.1f", p.name, p.time.Seconds())
	}
	return b.String()
}
