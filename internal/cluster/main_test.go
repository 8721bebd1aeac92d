package cluster

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// parentDir, when set, makes this test binary a program that starts servers in that folder and waits to be killed.
const parentDir = "BATON_CLUSTER_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentDir); dir != "" {
		if err := beParent(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {} // until killed
	}
	// sarama's metrics keep one ticker for the whole process
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// beParent prints one line for each of its servers: address, process id.
func beParent(dir string) error {
	ctx := context.Background()
	p, err := StartPostgres(ctx, PostgresOptions{Dir: dir + "/postgres"})
	if err != nil {
		return err
	}
	fmt.Println(p.Addr(), p.PID())
	b, err := StartPgBouncer(ctx, p.URL(), nil)
	if err != nil {
		return err
	}
	fmt.Println(b.Addr(), b.process.PID())
	if ok, _ := KafkaAvailable(); ok {
		k, err := StartKafka(ctx, KafkaOptions{Dir: dir + "/kafka"})
		if err != nil {
			return err
		}
		fmt.Println(k.Addrs()[0], k.PID(0))
	}
	fmt.Println("ready")
	return nil
}
