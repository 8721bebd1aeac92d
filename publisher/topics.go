package publisher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/sethvargo/go-retry"
)

// TopicSpec is a topic that should exist.
type TopicSpec struct {
	Name              string
	Partitions        int32             // at least 1
	ReplicationFactor int16             // -1: the broker's default
	Config            map[string]string // as in min.insync.replicas=2
}

// TopicReport is what a topic is like, and what is dangerous about it.
type TopicReport struct {
	Name              string
	Created           bool // by this call
	Partitions        int32
	ReplicationFactor int16
	MinInSyncReplicas int
	UncleanElection   bool
	CleanupPolicy     string
	MaxMessageBytes   int
	Warnings          []string
}

// MissingError names the topics that do not exist.
type MissingError struct{ Topics []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("publisher: topics do not exist: %s: run: baton topics ensure", strings.Join(e.Topics, ", "))
}

// Ensure creates the topics that do not exist and reports on all of them. It changes none that exists: another
// partition count would move records to other partitions in the middle of their lives.
func Ensure(ctx context.Context, c Config, specs []TopicSpec) ([]TopicReport, error) {
	var reports []TopicReport
	err := administer(ctx, c, func(admin sarama.ClusterAdmin) error {
		var names, created []string
		for _, spec := range specs {
			names = append(names, spec.Name)
			switch err := create(admin, spec); {
			case err == nil:
				created = append(created, spec.Name)
			case !errors.Is(err, sarama.ErrTopicAlreadyExists):
				return fmt.Errorf("publisher: create topic %s: %w", spec.Name, err)
			}
		}
		var err error
		reports, err = describeNew(ctx, admin, c, names)
		for i := range reports {
			reports[i].Created = slices.Contains(created, reports[i].Name)
			reports[i].compare(specs[slices.Index(names, reports[i].Name)])
		}
		return err
	})
	return reports, err
}

// Check reports on topics. A *MissingError names those that do not exist; the others' reports are there all the same.
func Check(ctx context.Context, c Config, topics []string) ([]TopicReport, error) {
	var reports []TopicReport
	err := administer(ctx, c, func(admin sarama.ClusterAdmin) (err error) {
		reports, err = describe(admin, c, topics)
		return err
	})
	return reports, err
}

// ClusterID returns Kafka's own name for the cluster.
func ClusterID(ctx context.Context, c Config) (string, error) {
	var id string
	err := administer(ctx, c, func(admin sarama.ClusterAdmin) error {
		broker, err := admin.Controller()
		if err != nil {
			return fmt.Errorf("publisher: cluster id: %w", err)
		}
		answer, err := broker.DescribeCluster(sarama.NewDescribeClusterRequest(sarama.MaxVersion))
		if err != nil {
			return fmt.Errorf("publisher: cluster id: %w", err)
		}
		id = answer.ClusterID
		return nil
	})
	return id, err
}

// administer runs do with an admin client whose connections are cut when ctx ends: no call of it waits longer.
func administer(ctx context.Context, c Config, do func(sarama.ClusterAdmin) error) error {
	if err := c.Validate(); err != nil {
		return err
	}
	conns := newConns(ctx, c)
	defer conns.cut()
	stop := context.AfterFunc(ctx, conns.cut)
	defer stop()
	config := c.client(conns)
	config.Metadata.Full = true // else the admin client cannot learn who the controller is
	admin, err := sarama.NewClusterAdmin(c.Brokers, config)
	if err == nil {
		err = do(admin)
		_ = admin.Close()
	} else {
		err = fmt.Errorf("publisher: connect to %s: %w", strings.Join(c.Brokers, ", "), err)
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return err
}

func create(admin sarama.ClusterAdmin, spec TopicSpec) error {
	if err := checkTopic(spec.Name); err != nil {
		return err
	}
	entries := map[string]*string{}
	for name, value := range spec.Config {
		entries[name] = &value
	}
	return admin.CreateTopic(spec.Name, &sarama.TopicDetail{
		NumPartitions: spec.Partitions, ReplicationFactor: spec.ReplicationFactor, ConfigEntries: entries,
	}, false)
}

// describeNew waits until the broker that answers has heard of the topics.
func describeNew(ctx context.Context, admin sarama.ClusterAdmin, c Config, topics []string) ([]TopicReport, error) {
	b := retry.WithCappedDuration(200*time.Millisecond, retry.NewExponential(10*time.Millisecond))
	b = retry.WithMaxDuration(c.SendTimeout, b)
	var reports []TopicReport
	err := retry.Do(ctx, b, func(context.Context) (err error) {
		reports, err = describe(admin, c, topics)
		if missing := (*MissingError)(nil); errors.As(err, &missing) || errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			return retry.RetryableError(err)
		}
		return err
	})
	return reports, err
}

func describe(admin sarama.ClusterAdmin, c Config, topics []string) ([]TopicReport, error) {
	if len(topics) == 0 {
		return nil, nil // asking for none would answer with all
	}
	found, err := admin.DescribeTopics(topics)
	if err != nil {
		return nil, fmt.Errorf("publisher: describe topics: %w", err)
	}
	var reports []TopicReport
	missing := &MissingError{}
	for _, topic := range found {
		switch topic.Err {
		case sarama.ErrNoError, sarama.ErrLeaderNotAvailable:
			reports = append(reports, newReport(topic))
		case sarama.ErrUnknownTopicOrPartition:
			missing.Topics = append(missing.Topics, topic.Name)
		default:
			return nil, fmt.Errorf("publisher: describe topic %s: %w", topic.Name, topic.Err)
		}
	}
	slices.SortFunc(reports, func(a, b TopicReport) int { return strings.Compare(a.Name, b.Name) })
	if err := configure(admin, reports); err != nil {
		return nil, err
	}
	for i := range reports {
		reports[i].judge(c)
	}
	if len(missing.Topics) > 0 {
		slices.Sort(missing.Topics)
		return reports, missing
	}
	return reports, nil
}

func newReport(topic *sarama.TopicMetadata) TopicReport {
	r := TopicReport{Name: topic.Name, Partitions: int32(len(topic.Partitions))}
	for _, partition := range topic.Partitions {
		if n := int16(len(partition.Replicas)); r.ReplicationFactor == 0 || n < r.ReplicationFactor {
			r.ReplicationFactor = n // the least protected partition counts
		}
	}
	return r
}

// configure reads the topics' settings, in one question.
func configure(admin sarama.ClusterAdmin, reports []TopicReport) error {
	topics := make([]*sarama.ConfigResource, len(reports))
	for i, r := range reports {
		topics[i] = &sarama.ConfigResource{Type: sarama.TopicResource, Name: r.Name, ConfigNames: []string{
			"min.insync.replicas", "unclean.leader.election.enable", "cleanup.policy", "max.message.bytes",
		}}
	}
	results, err := admin.DescribeConfigs(topics, sarama.DescribeConfigsOptions{})
	if err != nil {
		return fmt.Errorf("publisher: describe settings of %d topics: %w", len(topics), err)
	}
	for _, result := range results {
		if result.ErrorCode != sarama.ErrNoError {
			return fmt.Errorf("publisher: describe settings of topic %s: %w", result.Name, result.ErrorCode)
		}
		i := slices.IndexFunc(reports, func(r TopicReport) bool { return r.Name == result.Name })
		if err := reports[i].set(result.Configs); err != nil {
			return err
		}
	}
	return nil
}

func (r *TopicReport) set(entries []sarama.ConfigEntry) (err error) {
	for _, entry := range entries {
		switch entry.Name {
		case "min.insync.replicas":
			r.MinInSyncReplicas, err = strconv.Atoi(entry.Value)
		case "unclean.leader.election.enable":
			r.UncleanElection, err = strconv.ParseBool(entry.Value)
		case "cleanup.policy":
			r.CleanupPolicy = entry.Value
		case "max.message.bytes":
			r.MaxMessageBytes, err = strconv.Atoi(entry.Value)
		}
		if err != nil {
			return fmt.Errorf("publisher: setting %s of topic %s: %w", entry.Name, r.Name, err)
		}
	}
	return nil
}

func (r *TopicReport) judge(c Config) {
	if r.ReplicationFactor < 3 {
		r.warn("replication factor is %d, below 3: the loss of a broker can lose events", r.ReplicationFactor)
	}
	if r.MinInSyncReplicas < 2 {
		r.warn("min.insync.replicas is %d, below 2: one disk is enough for an acknowledgement", r.MinInSyncReplicas)
	}
	if r.UncleanElection {
		r.warn("unclean.leader.election.enable is true: a replica that lacks acknowledged events may become leader")
	}
	if strings.Contains(r.CleanupPolicy, "compact") {
		r.warn("cleanup.policy is %s: a late copy of an event after its tombstone brings a removed record back",
			r.CleanupPolicy)
	}
	if most := c.MaxMessageBytes + batchBytes; r.MaxMessageBytes > 0 && r.MaxMessageBytes < most {
		r.warn("max.message.bytes is %d: batches of up to %d will be refused and sent again one by one",
			r.MaxMessageBytes, most)
	}
}

// compare says where an existing topic is not what was asked for.
func (r *TopicReport) compare(spec TopicSpec) {
	if r.Partitions != spec.Partitions {
		r.warn("it has %d partitions, not %d: left as it is", r.Partitions, spec.Partitions)
	}
	if spec.ReplicationFactor > 0 && r.ReplicationFactor != spec.ReplicationFactor {
		r.warn("replication factor is %d, not %d: left as it is", r.ReplicationFactor, spec.ReplicationFactor)
	}
}

func (r *TopicReport) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}
