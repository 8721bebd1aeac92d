package storm

import (
	"testing"
)

// The known-wrong forms of the claim and the ack. Each is planted in the statement or the function of one test's
// database: if the storm did not find them, its silence about the right forms would prove nothing.

// byCtid claims by ctid, and reads the events of what it saw rather than of what it took.
var byCtid = []string{
	"select id, token is not null as stale",
	"select ctid as tid, id, next_position, ready_at, attempts, claims, token is not null as stale",
	"where r.id = any (array(select id from due))",
	"where r.ctid = any (array(select tid from due))",
	"from taken t cross join share", "from due t cross join share",
}

const ackFunction = "baton.ack(bigint[], bigint[], bigint[], boolean)"

// gateWithLook takes the gate in the statement that looks for newer events.
var gateWithLook = []string{
	"from seen where pg_try_advisory_xact_lock(i)", "from seen",
	"from unnest(free_ids, free_lasts, free_tokens) a(i, l, t)\n     where not exists",
	"from unnest(free_ids, free_lasts, free_tokens) a(i, l, t)\n     where pg_try_advisory_xact_lock(i) and not exists",
}

// noGate takes none.
var noGate = []string{"from seen where pg_try_advisory_xact_lock(i)", "from seen"}

// roundsMax bounds how often a storm is tried against a wrong form.
const roundsMax = 10

// catches runs storms until one finds the bug.
func catches(t *testing.T, cfg Config, found func(Report) bool) {
	t.Helper()
	for range roundsMax {
		r := blow(t, cfg)
		if cfg.Plant != nil && !cfg.Plant.Planted() {
			t.Fatal("the wrong form was not planted")
		}
		if found(r) {
			return
		}
		exec(t, connectTo(t, cfg.URL), `truncate baton.event, baton.record`)
		cfg.Seed++
	}
	t.Errorf("%d storms did not find the wrong form", roundsMax)
}

func TestStormCatchesAClaimByCtid(t *testing.T) {
	cfg := config(t, newDB(t))
	cfg.Plant = NewPlant(byCtid)
	cfg.Until = func(r Report) bool { return r.Unleased > 0 }
	catches(t, cfg, func(r Report) bool { return r.Unleased > 0 })
}

func TestStormCatchesAnAckWithGateAndLookInOneStatement(t *testing.T) {
	url := newDB(t)
	replaceFunction(t, url, ackFunction, gateWithLook...)
	cfg := config(t, url)
	cfg.Claims = 15_000
	catches(t, cfg, func(r Report) bool { return r.Stranded > 0 })
}

func TestStormCatchesAnAckWithoutGate(t *testing.T) {
	url := newDB(t)
	replaceFunction(t, url, ackFunction, noGate...)
	cfg := config(t, url)
	cfg.Claims = 5_000
	catches(t, cfg, func(r Report) bool { return r.Stranded > 0 })
}

// The judge must see each of the other breaches too.

func TestStormCatchesAnAddWithoutGates(t *testing.T) {
	url := newDB(t)
	replaceFunction(t, url, "baton.take_gates(bigint[])", "pg_advisory_xact_lock(g)", "1")
	cfg := config(t, url)
	cfg.Until = func(r Report) bool { return r.GateShared > 0 && r.OutOfOrder > 0 }
	catches(t, cfg, cfg.Until)
}

func TestStormCatchesAnAddThatFailsUnderRepeatableRead(t *testing.T) {
	url := newDB(t)
	replaceFunction(t, url, "baton.add(text[], text[], text[], bytea[], jsonb[], uuid[])",
		"if current_setting('transaction_isolation') = 'read committed' then", "if true then")
	cfg := config(t, url)
	cfg.Until = func(r Report) bool { return r.Serialization > 0 }
	catches(t, cfg, cfg.Until)
}

func TestStormCatchesAClaimOfLiveLeases(t *testing.T) {
	cfg := config(t, newDB(t))
	cfg.Plant = NewPlant([]string{"and locked_until <= (select clock_timestamp())", ""})
	cfg.Until = func(r Report) bool { return r.Double > 0 && r.Unleased > 0 }
	catches(t, cfg, cfg.Until)
}

func TestStormCatchesAnAckWithoutToken(t *testing.T) {
	url := newDB(t)
	replaceFunction(t, url, ackFunction,
		"r.id # r.token = any (free_marks)", "true", "r.id # r.token = any (marks)", "true",
		"array_position(marks, r.id # r.token)", "array_position(ids, r.id)")
	cfg := config(t, url)
	cfg.Until = func(r Report) bool { return r.Unleased > 0 }
	catches(t, cfg, cfg.Until)
}
