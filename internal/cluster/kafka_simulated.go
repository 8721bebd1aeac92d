package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

// StartSimulatedKafka starts franz-go's kfake in this process. Topics must be created, as on the real one.
func StartSimulatedKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cluster: start simulated Kafka: %w", err)
	}
	k := &Kafka{Simulated: true, options: o, removeDir: func() {}, ClusterID: "baton-simulated"}
	var err error
	k.simulator, err = kfake.NewCluster(kfake.NumBrokers(max(o.Brokers, 1)), kfake.ClusterID(k.ClusterID))
	if err != nil {
		return nil, fmt.Errorf("cluster: start simulated Kafka: %w", err)
	}
	o.Log.printf("simulated Kafka (kfake, in this process) on %s", strings.Join(k.Addrs(), ", "))
	return k, nil
}

// StartKafkaMode starts a real or a simulated Kafka, as the value of the variable KAFKA says: real, sim, or "" for a
// real one where that is possible.
func StartKafkaMode(ctx context.Context, mode string, o KafkaOptions) (*Kafka, error) {
	switch mode {
	case "real":
		return StartKafka(ctx, o)
	case "sim":
		return StartSimulatedKafka(ctx, o)
	case "":
		ok, why := KafkaAvailable()
		if ok {
			return StartKafka(ctx, o)
		}
		o.Log.printf("no real Kafka here: %s; %s", why, kafkaCure)
		return StartSimulatedKafka(ctx, o)
	}
	return nil, fmt.Errorf("cluster: start Kafka: KAFKA=%s, want real, sim or nothing", mode)
}
