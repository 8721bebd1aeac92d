package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/batonrelay/baton/internal/cluster"
	"github.com/batonrelay/baton/internal/cluster/clustertest"
	"github.com/batonrelay/baton/outbox"
)

// running is a relay as a process of its own.
type running struct {
	*cluster.Process
	t   *testing.T
	log *logged
	ops string // where its ops server listens
}

// logged is what a relay prints, a JSON object a line.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// lines with that message.
func (l *logged) lines(message string) (found []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.text.Bytes()) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil && fields["msg"] == message {
			found = append(found, fields)
		}
	}
	return found
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

const (
	leasedSQL = "select count(*) from baton.record where token is not null"
	parkedSQL = "select count(*) from baton.record where ready_at = 'infinity'"
)

// relay starts a relay and waits for its ops server.
func (e environment) relay(t *testing.T) *running {
	t.Helper()
	r := &running{t: t, log: &logged{}}
	var err error
	r.Process, err = cluster.StartProcess(t.Context(),
		cluster.ProcessOptions{Path: binary, Args: []string{"relay"}, Env: e.list(), Output: r.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			t.Logf("relay's log:\n%s", r.log)
		}
	})
	eventually(t, "the ops server's address", r.Process, func() bool {
		lines := r.log.lines("ops server")
		if len(lines) > 0 {
			r.ops, _ = lines[0]["addr"].(string)
		}
		return r.ops != ""
	})
	return r
}

// get asks the ops server.
func (r *running) get(path string) (status int, body string) {
	r.t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.ops + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// becomes waits until readiness has that status and says all of texts.
func (r *running) becomes(status int, texts ...string) {
	r.t.Helper()
	var got int
	var body string
	defer func() {
		if r.t.Failed() {
			r.t.Logf("readiness was %d:\n%s", got, body)
		}
	}()
	eventually(r.t, "readiness: "+strings.Join(texts, ", "), r.Process, func() bool {
		got, body = r.get("/readyz?verbose")
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return false
			}
		}
		return got == status
	})
}

// ends waits for the exit code.
func (r *running) ends(code int) {
	r.t.Helper()
	eventually(r.t, "the relay's end", r.Process, func() bool { return !r.Alive() })
	if got := r.ExitCode(); got != code {
		r.t.Errorf("exit code = %d, want %d", got, code)
	}
}

func (r *running) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

func TestRelayPublishesAndDrainsOnSIGTERM(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	d.add(500)
	r := d.relay(t)
	r.becomes(http.StatusOK, "[+]postgres ok", "[+]kafka ok")
	eventually(t, "an empty outbox", r.Process, func() bool { return d.count("select count(*) from baton.record") == 0 })
	_, metrics := r.get("/metrics")
	if !strings.Contains(metrics, "\nbaton_events_published_total 500\n") ||
		!strings.Contains(metrics, "\ngo_goroutines ") {
		t.Errorf("metrics do not count 500 events, or not Go's own:\n%s", metrics)
	}
	if status, body := r.get("/livez"); status != http.StatusOK {
		t.Errorf("/livez = %d %s", status, body)
	}
	if n := d.count("select count(*) from baton.instance where name = 'relay-1' and pooler = 'none'"); n != 1 {
		t.Errorf("instances = %d, want 1", n)
	}
	d.add(2000)
	r.signal(syscall.SIGTERM)
	r.ends(0)
	if n := d.count("select count(*) from baton.record where token is not null"); n != 0 {
		t.Errorf("leases left = %d, want none", n)
	}
	if n := d.count("select count(*) from baton.instance"); n != 0 {
		t.Errorf("instances left on the list = %d, want none", n)
	}
	if n := d.count("select partitions from baton.topic where name = $1", d.topic); n != 2 {
		t.Errorf("accepted partitions = %d, want the topic's 2", n)
	}
}

// hold makes a relay's acknowledgements take longer than it may drain. Claims pass.
func (d *outboxDB) hold() {
	d.exec(`create function public.hold() returns trigger language plpgsql
	        as $$ begin perform pg_sleep(60); return null; end $$`)
	d.exec(`create trigger hold before update or delete on baton.record
	        for each row when (old.token is not null) execute function public.hold()`)
}

func TestDrainThatIsCutOffEndsWithAnError(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	d.hold()
	d.add(5)
	r := d.with(environment{"BATON_DRAIN": "500ms"}).relay(t)
	eventually(t, "leases in hand", r.Process, func() bool { return d.count(leasedSQL) == 5 })
	r.signal(syscall.SIGTERM)
	r.becomes(http.StatusServiceUnavailable, "[-]relay: draining")
	r.ends(1)
	if !strings.Contains(r.log.String(), "leases in hand") {
		t.Error("the log does not say that leases were left")
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	d.hold()
	d.add(5)
	r := d.with(environment{"BATON_DRAIN": "1h"}).relay(t)
	eventually(t, "leases in hand", r.Process, func() bool { return d.count(leasedSQL) == 5 })
	r.signal(syscall.SIGTERM)
	r.becomes(http.StatusServiceUnavailable, "[-]relay: draining")
	if status, _ := r.get("/livez"); status != http.StatusOK {
		t.Errorf("/livez while draining = %d, want 200", status)
	}
	start := time.Now()
	r.signal(syscall.SIGTERM)
	r.ends(-1) // by the signal
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the second signal took %v", took)
	}
}

func TestRelayWaitsForADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	proxy, err := cluster.StartProxy(t.Context(), clustertest.Postgres(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	proxy.Cut()
	d.add(3)
	url := strings.Replace(d.url, clustertest.Postgres(t).Addr(), proxy.Addr(), 1)
	r := d.with(environment{"DATABASE_URL": url}).relay(t)
	r.becomes(http.StatusServiceUnavailable,
		"[-]postgres: database: "+proxy.Addr()+" does not answer", "[-]kafka: not asked yet")
	if status, _ := r.get("/livez"); status != http.StatusOK {
		t.Errorf("/livez without a database = %d, want 200: it must not be restarted for that", status)
	}
	if err := proxy.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an empty outbox", r.Process, func() bool { return d.count("select count(*) from baton.record") == 0 })
	r.becomes(http.StatusOK)
	r.signal(syscall.SIGTERM)
	r.ends(0)
}

func TestRelayClaimsNothingBeforeKafkaAnswers(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.add(3)
	r := d.with(environment{"BATON_KAFKA_BROKERS": "127.0.0.1:1"}).relay(t)
	r.becomes(http.StatusServiceUnavailable, "[+]postgres ok", "[-]kafka: publisher: connect to 127.0.0.1:1")
	eventually(t, "a heartbeat", r.Process, func() bool { return d.count("select count(*) from baton.instance") == 1 })
	if n := d.count("select count(*) from baton.record where claims > 0 or token is not null"); n != 0 {
		t.Errorf("records claimed = %d, want none", n)
	}
	r.signal(syscall.SIGINT)
	r.ends(0)
}

func TestRelaySaysAtStartWhichTopicIsMissingAndGoesOn(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	d.add(1)
	r := d.with(environment{"BATON_BACKOFF_MAX": "200ms", "BATON_ATTEMPTS_MAX": "1000"}).relay(t)
	eventually(t, "an error about the topic", r.Process, func() bool {
		return len(r.log.lines("topic does not exist: its events wait")) == 1
	})
	line := r.log.lines("topic does not exist: its events wait")[0]
	if line["topic"] != d.topic || line["hint"] != "baton topics ensure "+d.topic {
		t.Errorf("log line = %v, want topic and command", line)
	}
	d.withTopic()
	eventually(t, "an empty outbox", r.Process, func() bool { return d.count("select count(*) from baton.record") == 0 })
}

func TestTopicWithAnotherPartitionCountIsStoppedUntilItIsAccepted(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	d.exec("insert into baton.topic (name, partitions) values ($1, 3)", d.topic)
	d.add(1)
	r := d.with(environment{"BATON_ATTEMPTS_MAX": "1", "BATON_BACKOFF_MAX": "100ms"}).relay(t)
	eventually(t, "an error about the topic", r.Process, func() bool {
		return strings.Contains(r.log.String(), "topic is stopped: its partition count changed")
	})
	eventually(t, "a parked record", r.Process, func() bool { return d.count(parkedSQL) == 1 })
	if s := d.baton(t, "status").want(t, 0).stdout; !strings.Contains(s, "has 2 partitions, accepted are 3") {
		t.Errorf("status does not say why:\n%s", s)
	}
	s := d.baton(t, "topics", "accept", d.topic, "--reason", "all consumed").want(t, 0).stdout
	if !strings.Contains(s, "2 partitions, were 3") {
		t.Errorf("accept does not say what it did: %s", s)
	}
	act := "accept topic " + d.topic + ": 3 to 2 partitions"
	if n := d.count("select count(*) from baton.audit where action = $1", act); n != 1 {
		t.Errorf("audit rows = %d, want 1", n)
	}
	recordType := strings.TrimSuffix(d.topic, ".events")
	// the relay looks at topics every ten seconds, and may park the record again until then
	eventually(t, "an empty outbox", r.Process, func() bool {
		d.baton(t, "unpark", "all", recordType, "--reason", "topic accepted")
		return d.count("select count(*) from baton.record") == 0
	})
	if n := d.count("select count(*) from baton.audit where action = 'unpark all: 1 records' and record_type = $1", recordType); n == 0 {
		t.Error("audit rows = 0, want one for each unpark all that found something")
	}
}

func TestRouteThatIsNotAllowedParksAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	d.exec("select baton.add('shop.secret', '1', 'Created', '{}'::text)")
	d.add(1)
	r := d.with(environment{"BATON_BACKOFF_MIN": "1ms", "BATON_BACKOFF_MAX": "50ms", "BATON_ATTEMPTS_MAX": "2"}).relay(t)
	eventually(t, "a parked record", r.Process, func() bool { return d.count(parkedSQL) == 1 })
	eventually(t, "the other record's end", r.Process, func() bool {
		return d.count("select count(*) from baton.record") == 1
	})
	s := d.baton(t, "status").want(t, 0).stdout
	if !strings.Contains(s, `"shop.secret" is not allowed: add it to BATON_ALLOW`) {
		t.Errorf("status does not say why:\n%s", s)
	}
}

// A role that may do the least, whose transactions are REPEATABLE READ and of which the pooler knows nothing.
func TestRelayRunsWithTheLeastRightsBehindAPooler(t *testing.T) {
	t.Parallel()
	d := newOutbox(t).withTopic()
	name, _ := d.role("")
	d.exec("alter role " + name + " set default_transaction_isolation = 'repeatable read'")
	d.baton(t, "migrate", "grants", "--relay", name, "--apply").want(t, 0)
	pooler := startPooler(t)
	d.add(200)
	poolerURL := strings.Replace(pooler.URL(d.admin.Config().ConnConfig.Database), "postgres@", name+"@", 1)
	r := d.with(environment{"DATABASE_URL": poolerURL, "BATON_RETENTION": "1s"}).relay(t)
	eventually(t, "an empty outbox", r.Process, func() bool { return d.count("select count(*) from baton.record") == 0 })
	eventually(t, "retention", r.Process, func() bool { return d.count("select count(*) from baton.event") == 0 })
	status := d.with(environment{"DATABASE_URL": poolerURL}).baton(t, "status", "-o", "json").want(t, 0)
	s := decode[outbox.Status](t, status)
	if len(s.Instances) != 1 || s.Instances[0].Pooler != "transaction" {
		t.Errorf("instances = %+v, want one that knows of the pooler", s.Instances)
	}
	if lines := r.log.lines("relay runs"); len(lines) != 1 || lines[0]["pooler"] != "transaction" {
		t.Errorf("the log does not say in which mode it runs: %v", lines)
	}
	r.signal(syscall.SIGTERM)
	r.ends(0)
}

func TestOpsServerOnAPortInUseIsAnError(t *testing.T) {
	t.Parallel()
	d := newOutbox(t)
	r := d.relay(t)
	d.with(environment{"BATON_OPS_LISTEN": r.ops}).baton(t, "relay").
		want(t, 1, "BATON_OPS_LISTEN", "address already in use")
}
