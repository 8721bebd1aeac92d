package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/batonrelay/baton/internal/config"
	"github.com/batonrelay/baton/internal/database"
	"github.com/batonrelay/baton/outbox"
)

// operatorTimeout bounds an operator's command.
const operatorTimeout = 30 * time.Second

// withOperator connects as an operator does.
func withOperator(cmd *cobra.Command, do func(context.Context, *outbox.Operator) error) error {
	c, err := load(config.Database)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), operatorTimeout)
	defer cancel()
	pool, _, err := database.Open(ctx, database.Options{
		URL: string(c.DatabaseURL), Pooler: c.Pooler, Application: "baton " + cmd.Name(), Connections: 2,
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	o, err := outbox.NewOperator(pool, c.Schema)
	if err != nil {
		return err
	}
	return database.Explain(do(ctx, o))
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What waits, who works on it, and what is stuck", Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withOperator(cmd, func(ctx context.Context, o *outbox.Operator) error {
				s, err := o.Status(ctx)
				if err != nil {
					return err
				}
				return show(cmd, s, func(w io.Writer) { printStatus(w, s, time.Now()) })
			})
		},
	}
}

// printStatus writes for people: how many, who, what is stuck, and what to do about it.
func printStatus(w io.Writer, s outbox.Status, now time.Time) {
	printCounts(w, s)
	fmt.Fprintln(w)
	if len(s.Instances) == 0 {
		fmt.Fprintln(w, "no relay is running: baton relay")
	} else {
		row(w, "RELAY", "LEASES", "UP", "SEEN", "POOLER", "VERSION")
		for _, i := range s.Instances {
			row(w, cell(i.Name), count(i.Leases), age(now.Sub(i.StartedAt)), age(now.Sub(i.SeenAt))+" ago", i.Pooler, i.Version)
		}
	}
	if len(s.ParkedRecords) > 0 {
		fmt.Fprintln(w)
		printParked(w, s, now)
	}
}

func printCounts(w io.Writer, s outbox.Status) {
	if s.Deferred+s.Leased+s.BackingOff+s.Parked == 0 {
		fmt.Fprintln(w, "the outbox is empty: everything that was committed is published")
		return
	}
	events := count(s.Events)
	if s.EventsEstimated {
		events = "≈" + events
	}
	oldest := time.Duration(s.OldestSeconds * float64(time.Second))
	lines := [][3]string{
		{"deferred", count(s.Deferred), "records are due"},
		{"leased", count(s.Leased), "records are being published"},
		{"backing off", count(s.BackingOff), "records wait after a failure"},
		{"parked", count(s.Parked), "records wait for an operator"},
		{"events", events, "wait in all of them"},
		{"oldest", age(oldest), "is the age of the oldest that waits for a relay"},
	}
	if s.Stale > 0 {
		lines[0][2] += fmt.Sprintf(", %s of them after a lease that ran out", count(s.Stale))
	}
	width := 0
	for _, l := range lines {
		width = max(width, utf8.RuneCountInString(l[1]))
	}
	for _, l := range lines {
		fmt.Fprintf(w, "%-11s  %*s  %s\n", l[0], width, l[1], l[2])
	}
}

func printParked(w io.Writer, s outbox.Status, now time.Time) {
	row(w, "PARKED", "KEY", "EVENT", "POSITION", "WRITTEN", "ATTEMPTS")
	for _, p := range s.ParkedRecords {
		event, position, written := "none waits", "", ""
		if p.Since != nil {
			event, position, written = cell(p.Type), fmt.Sprint(p.Position), age(now.Sub(*p.Since))+" ago"
		}
		row(w, p.RecordType, cell(p.RecordKey), event, position, written, p.Attempts)
	}
	if more := s.Parked - int64(len(s.ParkedRecords)); more > 0 {
		fmt.Fprintf(w, "and %s more\n", count(more))
	}
	fmt.Fprintln(w)
	for _, p := range s.ParkedRecords {
		fmt.Fprintf(w, "%s %s: %s\n", p.RecordType, cell(p.RecordKey), cell(p.LastError))
	}
	first := s.ParkedRecords[0]
	record := first.RecordType + " " + shellWord(first.RecordKey)
	fmt.Fprintf(w, "\nto go on with it, once the cause is mended:   baton unpark %s --reason …\n"+
		"to give its next event up for ever:           baton skip %[1]s --reason …\n", record)
}

// count puts commas between thousands.
func count(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// age is a duration as people say it.
func age(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// cell is one line of text that a terminal may see: keys and errors are not ours.
func cell(s string) string {
	const most = 600 // an error says at its end what to do
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
	if runes := []rune(clean); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return clean
}

// shellWord quotes what a shell would not take as one word.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.:/@", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		// bash's way to write what cannot be printed
		return "$'" + strings.ReplaceAll(strings.Trim(strconv.Quote(s), `"`), "'", `\'`) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
