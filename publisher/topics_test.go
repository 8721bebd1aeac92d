package publisher

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/batonrelay/baton/internal/cluster/clustertest"
)

func TestEnsureCreatesWhatIsMissingAndWarnsOfWhatIsDangerous(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 3, nil)
	spec := TopicSpec{Name: topic, Partitions: 3, ReplicationFactor: 1}
	other := TopicSpec{Name: topic + ".other", Partitions: 2, ReplicationFactor: 1, Config: map[string]string{
		"cleanup.policy": "compact", "unclean.leader.election.enable": "true", "max.message.bytes": "5000",
	}}
	got, err := Ensure(t.Context(), c, []TopicSpec{other, spec})
	if err != nil {
		t.Fatal(err)
	}
	want := []TopicReport{
		{Name: topic, Partitions: 3, ReplicationFactor: 1, MinInSyncReplicas: 1,
			CleanupPolicy: "delete", MaxMessageBytes: 1048588},
		{Name: topic + ".other", Created: true, Partitions: 2, ReplicationFactor: 1, MinInSyncReplicas: 1,
			UncleanElection: true, CleanupPolicy: "compact", MaxMessageBytes: 5000},
	}
	wantWarnings := [][]string{
		{"replication factor", "min.insync.replicas"},
		{"replication factor", "min.insync.replicas", "unclean.leader", "brings a removed record back", "max.message.bytes"},
	}
	for i := range got {
		if len(got[i].Warnings) != len(wantWarnings[i]) {
			t.Fatalf("topic %d warnings = %q, want %d", i, got[i].Warnings, len(wantWarnings[i]))
		}
		for k, part := range wantWarnings[i] {
			if !strings.Contains(got[i].Warnings[k], part) {
				t.Errorf("topic %d warning %d = %q, want %q in it", i, k, got[i].Warnings[k], part)
			}
		}
		got[i].Warnings = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports differ (-want +got):\n%s", diff)
	}
}

func TestEnsureLeavesAnExistingTopicAndSaysWhatDiffers(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 3, nil)
	got, err := Ensure(t.Context(), c, []TopicSpec{{Name: topic, Partitions: 6, ReplicationFactor: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Created || got[0].Partitions != 3 {
		t.Errorf("report = %+v, want the topic as it was", got[0])
	}
	if text := strings.Join(got[0].Warnings, "\n"); !strings.Contains(text, "3 partitions, not 6") {
		t.Errorf("warnings = %q, want the partition count named", text)
	}
}

func TestCheckNamesMissingTopicsAndCreatesNone(t *testing.T) {
	c := config(clustertest.Kafka(t).Addrs())
	topic := newTopic(t, &c, 1, nil)
	for range 2 {
		got, err := Check(t.Context(), c, []string{topic + ".b", topic, topic + ".a"})
		var missing *MissingError
		if !errors.As(err, &missing) {
			t.Fatalf("Check error = %v, want a *MissingError", err)
		}
		if diff := cmp.Diff([]string{topic + ".a", topic + ".b"}, missing.Topics); diff != "" {
			t.Errorf("missing (-want +got):\n%s", diff)
		}
		if !strings.Contains(err.Error(), "baton topics ensure") {
			t.Errorf("error = %q, want the cure", err)
		}
		if len(got) != 1 || got[0].Name != topic {
			t.Errorf("reports = %+v, want the one that exists", got)
		}
	}
}

func TestClusterIDIsTheClusters(t *testing.T) {
	k := clustertest.Kafka(t)
	got, err := ClusterID(t.Context(), config(k.Addrs()))
	if err != nil || got == "" || (k.ClusterID != "" && got != k.ClusterID) {
		t.Errorf("ClusterID = %q, %v, want %q", got, err, k.ClusterID)
	}
}

func TestAdministrationEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = Check(ctx, config([]string{silent.Addr().String()}), []string{"orders"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Check error = %v, want the deadline", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Check took %v with a deadline of 200 ms", took)
	}
}
