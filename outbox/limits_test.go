package outbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/batonrelay/baton/outbox"
)

// with is a valid event, changed.
func with(change func(*outbox.Event)) outbox.Event {
	e := event("a")
	change(&e)
	return e
}

func recordType(s string) outbox.Event { return with(func(e *outbox.Event) { e.Record.Type = s }) }
func recordKey(s string) outbox.Event  { return with(func(e *outbox.Event) { e.Record.Key = s }) }
func eventType(s string) outbox.Event  { return with(func(e *outbox.Event) { e.Type = s }) }
func payload(b []byte) outbox.Event    { return with(func(e *outbox.Event) { e.Payload = b }) }
func headers(h map[string]string) outbox.Event {
	return with(func(e *outbox.Event) { e.Headers = h })
}

func headersOf(n int, value string) map[string]string {
	h := map[string]string{}
	for i := range n {
		h[fmt.Sprint("h", i)] = value
	}
	return h
}

// headersOfBytes are one header whose JSON has so many bytes in the database: {"h": "xxx"}.
func headersOfBytes(n int) map[string]string {
	return map[string]string{"h": strings.Repeat("x", n-len(`{"h": ""}`))}
}

var limitCases = []struct {
	name  string
	field string // "": allowed
	event outbox.Event
}{
	{"longest record type", "", recordType(strings.Repeat("t", outbox.RecordTypeBytesMax))},
	{"record type too long", "record type", recordType(strings.Repeat("t", outbox.RecordTypeBytesMax+1))},
	{"no record type", "record type", recordType("")},
	{"every kind of letter", "", recordType("azAZ09._-")},
	{"space in record type", "record type", recordType("shop order")},
	{"umlaut in record type", "record type", recordType("Bücher")},
	{"line break after record type", "record type", recordType("shop\n")},
	{"two lines of record type", "record type", recordType("a b\nshop")},

	{"longest record key", "", recordKey(strings.Repeat("k", outbox.RecordKeyBytesMax))},
	{"longest record key, in bytes", "", recordKey(strings.Repeat("é", outbox.RecordKeyBytesMax/2))},
	{"record key too long", "record key", recordKey(strings.Repeat("k", outbox.RecordKeyBytesMax+1))},
	{"record key too long, in bytes", "record key", recordKey(strings.Repeat("é", outbox.RecordKeyBytesMax/2+1))},
	{"no record key", "record key", recordKey("")},

	{"longest type", "", eventType(strings.Repeat("t", outbox.TypeBytesMax))},
	{"type too long", "type", eventType(strings.Repeat("t", outbox.TypeBytesMax+1))},
	{"no type", "type", eventType("")},

	{"largest payload", "", payload(make([]byte, outbox.PayloadBytesMax))},
	{"payload too large", "payload", payload(make([]byte, outbox.PayloadBytesMax+1))},
	{"empty payload", "", payload([]byte{})},
	{"no payload", "", payload(nil)},
	{"payload that is no text", "", payload([]byte{0, 0xff})},

	{"most headers", "", headers(headersOf(outbox.HeadersMax, ""))},
	{"too many headers", "headers", headers(headersOf(outbox.HeadersMax+1, ""))},
	{"largest header", "", headers(headersOfBytes(outbox.HeadersBytesMax))},
	{"header too large", "headers", headers(headersOfBytes(outbox.HeadersBytesMax + 1))},
	{"header without a name", "headers", headers(map[string]string{"": "x"})},
	{"a header of CloudEvents", "headers", headers(map[string]string{"ce_id": "x"})},
	{"a header of the relay, in capitals", "headers", headers(map[string]string{"BATON_token": "x"})},
	{"names that only look like those", "", headers(map[string]string{"ce": "", "baton": "", "x_ce_": ""})},
	{"header without a value", "", headers(map[string]string{"x": ""})},
}

// TestGoAndSQLRefuseTheSameField holds the two sets of limits together, at each bound.
func TestGoAndSQLRefuseTheSameField(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	conn := connect(t, d.url)
	for _, c := range limitCases {
		t.Run(c.name, func(t *testing.T) {
			tx := begin(t, conn, pgx.ReadCommitted)
			defer rollback(t, tx)
			_, err := outbox.Add(t.Context(), tx, event("fine"), c.event)
			if got := fieldOf(t, err); got != c.field {
				t.Errorf("Go refused %q (%v), want %q", got, err, c.field)
			}
			if err := addInSQL(t, tx, event("fine"), c.event); sqlFieldOf(t, err) != c.field {
				t.Errorf("SQL refused %q (%v), want %q", sqlFieldOf(t, err), err, c.field)
			}
		})
	}
}

// fieldOf is the field that Add refused of event 1.
func fieldOf(t *testing.T, err error) string {
	t.Helper()
	var field *outbox.FieldError
	if err == nil {
		return ""
	}
	if !errors.As(err, &field) || field.Index != 1 {
		t.Fatalf("error = %v, want a FieldError of event 1", err)
	}
	return field.Field
}

func sqlFieldOf(t *testing.T, err error) string {
	t.Helper()
	var pg *pgconn.PgError
	if err == nil {
		return ""
	}
	if !errors.As(err, &pg) || pg.Code != "22023" || pg.Detail != "1" {
		t.Fatalf("error = %v, want 22023 with the event's index 1 as its detail", err)
	}
	return pg.ColumnName
}

// addInSQL goes around Go's checks.
func addInSQL(t *testing.T, tx pgx.Tx, list ...outbox.Event) error {
	t.Helper()
	var types, keys, names []string
	var payloads [][]byte
	var texts []*string
	for _, e := range list {
		types, keys = append(types, e.Record.Type), append(keys, e.Record.Key)
		names, payloads = append(names, e.Type), append(payloads, e.Payload)
		texts = append(texts, nil)
		if e.Headers != nil {
			b, err := json.Marshal(e.Headers)
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			texts[len(texts)-1] = &text
		}
	}
	const sql = "select baton.add($1, $2, $3, $4, $5::text[]::jsonb[], null)"
	_, err := tx.Exec(t.Context(), sql, types, keys, names, payloads, texts)
	return err
}

// TestHeadersAreMeasuredAsTheDatabaseDoes: JSON can be written in many ways, and the bound is on one of them.
func TestHeadersAreMeasuredAsTheDatabaseDoes(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for name, value := range map[string]string{
		"plain": "x", "quotes": `"\`, "breaks": "\n\r\t\b\f", "controls": "\x01\x1f\x7f",
		"html": "<&>", "letters": "é\u2028",
	} {
		for _, n := range []int{1, 17, outbox.HeadersMax} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				all := headersOf(n, value)
				size := one[int](d, "select octet_length($1::jsonb::text)", all)
				all["h0"] += strings.Repeat("x", outbox.HeadersBytesMax-size)
				for _, more := range []string{"", "x"} {
					h := maps.Clone(all)
					h["h0"] += more
					wrong := more != ""
					tx, err := d.admin.Begin(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					e := headers(h)
					if _, err := outbox.Add(t.Context(), tx, e); (err != nil) != wrong {
						t.Errorf("Go: %d bytes: error = %v", size, err)
					}
					if err := addInSQL(t, tx, e); (err != nil) != wrong {
						t.Errorf("SQL: %d bytes: error = %v", size, err)
					}
					rollback(t, tx)
				}
			})
		}
	}
}

// TestGoRefusesTextThatPostgreSQLCannotHold: there the parameter itself would be refused, and the transaction with it.
func TestGoRefusesTextThatPostgreSQLCannotHold(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	tx := begin(t, connect(t, d.url), pgx.ReadCommitted)
	for _, bad := range []string{"a\x00b", "a\xffb", "\xed\xa0\x80"} { // NUL, no UTF-8, half of a surrogate pair
		for field, e := range map[string]outbox.Event{
			"record type": recordType(bad),
			"record key":  recordKey(bad),
			"type":        eventType(bad),
			"headers":     headers(map[string]string{"x": bad}),
		} {
			_, err := outbox.Add(t.Context(), tx, event("fine"), e)
			if got := fieldOf(t, err); got != field {
				t.Errorf("%q: Go refused %q, want %q", bad, got, field)
			}
		}
		name := headers(map[string]string{bad: "x"})
		if _, err := outbox.Add(t.Context(), tx, event("fine"), name); fieldOf(t, err) != "headers" {
			t.Errorf("%q as a header's name: error = %v", bad, err)
		}
	}
	addTx(t, tx, "after") // nothing was sent: the transaction goes on
	commit(t, tx)
	if got := d.events(); got != 1 {
		t.Errorf("events = %d, want 1", got)
	}
}

func TestSQLRefusesWhatOnlySQLCanSay(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	for sql, want := range map[string]string{
		`select baton.add(null, 'k', 'T', 'x')`:                                                              "record type",
		`select baton.add('t', null, 'T', 'x')`:                                                              "record key",
		`select baton.add('t', 'k', null, 'x')`:                                                              "type",
		`select baton.add('t', 'k', 'T', 'x', '[]')`:                                                         "headers",
		`select baton.add('t', 'k', 'T', 'x', '{"a": 1}')`:                                                   "headers",
		`select baton.add('t', 'k', 'T', 'x', '{"a": null}')`:                                                "headers",
		`insert into baton.outbox (aggregatetype, aggregateid, type) values ('t t', 'k', 'T')`:               "record type",
		`select baton.add(array['t'], array['k', 'l'], array['T'], array[null]::bytea[])`:                    "",
		`select baton.add(array['t'], array['k'], array['T'], array[null]::bytea[], array[]::jsonb[], null)`: "",
	} {
		_, err := d.admin.Exec(t.Context(), sql)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "22023" || pg.ColumnName != want {
			t.Errorf("%s: error = %v, want 22023 of %q", sql, err, want)
		}
	}
	if got := d.events(); got != 0 {
		t.Errorf("events = %d, want 0", got)
	}
}

func TestGatesOfATransactionAreCountedExactly(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	var keys []string
	for i := range 257 {
		keys = append(keys, fmt.Sprint(i))
	}
	conn := connect(t, d.url)
	const gatesSQL = "select count(*) from pg_locks where locktype = 'advisory' and pid = $1"
	for _, level := range isolationLevels {
		earlier := begin(t, conn, level) // counts for itself
		addTx(t, earlier, "earlier")
		commit(t, earlier)
		tx := begin(t, conn, level)
		addTx(t, tx, keys[:200]...)
		addTx(t, tx, append(keys[:100:100], keys[:100]...)...) // held already
		gone := savepoint(t, tx)
		addTx(t, gone, keys[150:256]...)
		refused(t, gone, keys[256])
		rollback(t, gone) // gives back what it took, and the error's transaction goes on
		kept := savepoint(t, tx)
		addTx(t, kept, append(keys[150:200:200], keys[201:257]...)...)
		commit(t, kept)
		addTx(t, tx, keys[0], keys[256])
		refused(t, tx, keys[200])
		rollback(t, tx)
		if got := one[int](d, gatesSQL, conn.PgConn().PID()); got != 0 {
			t.Errorf("gates held after the rollback = %d, want 0", got)
		}
		tx = begin(t, conn, level)
		addTx(t, tx, keys[:256]...)
		if got := one[int](d, gatesSQL, conn.PgConn().PID()); got != 256 {
			t.Errorf("gates held = %d, want 256", got)
		}
		rollback(t, tx)
		tx = begin(t, conn, level) // in one call
		refused(t, tx, keys...)
		rollback(t, tx)
	}
}

func refused(t *testing.T, tx pgx.Tx, keys ...string) {
	t.Helper()
	_, err := outbox.Add(t.Context(), tx, events(keys...)...)
	if !errors.Is(err, outbox.ErrTooManyGates) || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("Add error = %v, want %v with the limit", err, outbox.ErrTooManyGates)
	}
}

func TestLimitsMaySetOtherwise(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	tx := begin(t, connect(t, d.url), pgx.ReadCommitted)
	execTx(t, tx, "set local baton_limits.gates = 2; set local baton_limits.payload_bytes = 10")
	addTx(t, tx, "a", "b", "a")
	inner := savepoint(t, tx)
	if _, err := outbox.Add(t.Context(), inner, event("c")); !errors.Is(err, outbox.ErrTooManyGates) {
		t.Errorf("third record: error = %v, want %v", err, outbox.ErrTooManyGates)
	}
	rollback(t, inner)
	inner = savepoint(t, tx)
	_, err := outbox.Add(t.Context(), inner, event("a"), payload(make([]byte, 11)))
	if got := fieldOf(t, err); got != "payload" || !strings.Contains(err.Error(), "at most 10") {
		t.Errorf("11 bytes: error = %v, want the payload's limit of 10", err)
	}
	rollback(t, inner)
	if _, err := outbox.Add(t.Context(), tx, payload(make([]byte, 10))); err != nil {
		t.Errorf("10 bytes: %v", err)
	}
	commit(t, tx)
}
