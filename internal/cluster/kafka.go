package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"
	"golang.org/x/sync/errgroup"
)

const (
	kafkaStartMax = 90 * time.Second // three brokers on a busy machine took 16 s
	kafkaStopMax  = 10 * time.Second
)

// errSimulated answers whoever would do to a simulated Kafka what only a process can suffer.
var errSimulated = errors.New("cluster: a simulated Kafka has no process to stop, kill or pause")

// KafkaOptions say which cluster to start. The zero value is one broker.
type KafkaOptions struct {
	Brokers  int               // 1 (also for 0) or 3
	Settings map[string]string // server.properties, over kafkaDefaults
	Dir      string            // kept after Stop, and its data used again; "": temporary
	Proxied  bool              // a second listener that tells clients to come through ProxyOuter
	JVM      []string          // more flags for Java, such as -XX:TieredStopAtLevel=4 where speed is measured
	Log      Log
}

// Kafka is a running cluster, or a simulated one, or another process's. Brokers count from 0.
type Kafka struct {
	ClusterID string
	Simulated bool // franz-go's kfake: it speaks Kafka's protocol, and nothing about it proves a durable broker

	options   KafkaOptions
	java      kafkaJava
	dir       string
	removeDir func()
	brokers   []*broker
	simulator *kfake.Cluster
	attached  []string
}

type broker struct {
	dir   string
	ports kafkaPorts

	mu      sync.Mutex
	process *Process
}

func (b *broker) data() string { return filepath.Join(b.dir, "data") }

func (b *broker) current() *Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.process
}

// StartKafka starts a real cluster and returns when every broker knows all the others.
func StartKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	java, err := installKafka(ctx, o.Log)
	if err != nil {
		return nil, err
	}
	k, err := startBrokers(ctx, o, java)
	if err != nil {
		return nil, err
	}
	o.Log.printf("Kafka %s, %d broker(s) on %s", kafkaVersion, len(k.brokers), strings.Join(k.Addrs(), ", "))
	return k, nil
}

// AttachKafka stands for a cluster that another process started and will stop.
func AttachKafka(addrs []string, simulated bool) *Kafka {
	return &Kafka{attached: addrs, Simulated: simulated, removeDir: func() {}}
}

func startBrokers(ctx context.Context, o KafkaOptions, java kafkaJava) (*Kafka, error) {
	o.Brokers = max(o.Brokers, 1)
	if o.Brokers != 1 && o.Brokers != 3 {
		return nil, fmt.Errorf("cluster: start Kafka: %d brokers, want 1 or 3", o.Brokers)
	}
	k := &Kafka{options: o, java: java}
	var err error
	if k.dir, k.removeDir, err = workDir(o.Dir, "baton-kafka-", nil); err != nil {
		return nil, err
	}
	for i := range o.Brokers {
		k.brokers = append(k.brokers, &broker{dir: filepath.Join(k.dir, fmt.Sprintf("broker-%d", i+1))})
	}
	for range portTriesMax {
		if err = k.startAll(ctx); err == nil || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
		k.killAll()
	}
	if err != nil {
		k.Stop()
		return nil, err
	}
	return k, nil
}

// startAll takes new ports and starts all brokers at once, since each waits for the others.
func (k *Kafka) startAll(ctx context.Context) error {
	ports, err := freePorts(4 * len(k.brokers))
	if err != nil {
		return err
	}
	for i, b := range k.brokers {
		b.ports = kafkaPorts{ports[4*i], ports[4*i+1], ports[4*i+2], ports[4*i+3]}
	}
	if err := k.chooseClusterID(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range k.brokers {
		group.Go(func() error {
			if err := k.prepare(ctx, i); err != nil {
				return err
			}
			return k.start(ctx, i, len(k.brokers))
		})
	}
	return group.Wait()
}

// chooseClusterID finds the id in the first broker's data, or draws one.
func (k *Kafka) chooseClusterID() error {
	b, err := os.ReadFile(filepath.Join(k.brokers[0].data(), "meta.properties"))
	if errors.Is(err, os.ErrNotExist) {
		if k.ClusterID == "" {
			var id [16]byte
			_, _ = rand.Read(id[:]) // never returns an error
			id[0] &= 0x7f           // a leading '-' would be an option to the storage tool
			k.ClusterID = base64.RawURLEncoding.EncodeToString(id[:])
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("cluster: read Kafka's data folder: %w", err)
	}
	m := regexp.MustCompile(`(?m)^cluster\.id=(\S+)`).FindSubmatch(b)
	if m == nil {
		return fmt.Errorf("cluster: read Kafka's data folder: no cluster.id in %s", k.brokers[0].data())
	}
	k.ClusterID = string(m[1])
	return nil
}

// prepare writes the broker's configuration, and formats its data folder unless that is done.
func (k *Kafka) prepare(ctx context.Context, i int) error {
	b := k.brokers[i]
	if err := os.MkdirAll(b.data(), 0o755); err != nil {
		return fmt.Errorf("cluster: prepare Kafka: %w", err)
	}
	for name, text := range map[string]string{"server.properties": k.properties(i + 1), "log4j2.properties": log4j2} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("cluster: prepare Kafka: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.data(), "meta.properties")); err == nil {
		return nil
	}
	o, err := k.command(b, nil, "kafka.tools.StorageTool", "format", "-t", k.ClusterID, "-c", "server.properties")
	if err != nil {
		return err
	}
	o.Output = &tailWriter{}
	return runToEnd(ctx, o)
}

// command runs one of Kafka's classes in the broker's folder.
func (k *Kafka) command(b *broker, flags []string, class string, args ...string) (ProcessOptions, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return ProcessOptions{}, fmt.Errorf("cluster: find Java: %w", err)
	}
	line := append([]string{}, k.java...)
	line = append(line, "-Dlog4j2.configurationFile=log4j2.properties")
	line = append(append(append(line, flags...), class), args...)
	return ProcessOptions{Path: java, Args: line, Dir: b.dir}, nil
}

// process returns broker i and its process.
func (k *Kafka) process(i int) (*broker, *Process, error) {
	if k.Simulated {
		return nil, nil, errSimulated
	}
	if k.attached != nil {
		return nil, nil, errAttached
	}
	if i < 0 || i >= len(k.brokers) {
		return nil, nil, fmt.Errorf("cluster: no broker %d of %d", i, len(k.brokers))
	}
	b := k.brokers[i]
	return b, b.current(), nil
}

// Start starts broker i, which must not be running, on its ports and data, and returns when it is registered. That
// needs a majority of the brokers alive, or about to be.
func (k *Kafka) Start(ctx context.Context, i int) error { return k.start(ctx, i, 1) }

// start waits until broker i knows brokersMin brokers, itself among them.
func (k *Kafka) start(ctx context.Context, i, brokersMin int) error {
	b, old, err := k.process(i)
	if err != nil {
		return err
	}
	if old != nil && old.Alive() {
		return fmt.Errorf("cluster: start broker %d: it runs as pid %d", i, old.PID())
	}
	o, err := k.command(b, k.options.JVM, "kafka.Kafka", "server.properties")
	if err != nil {
		return err
	}
	o.LogPath = filepath.Join(b.dir, "kafka.log")
	process, err := StartProcess(ctx, o)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.process = process
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, kafkaStartMax)
	defer cancel()
	err = process.ready(ctx, 20*time.Millisecond, func(context.Context) error { return k.answers(i, brokersMin) })
	if err != nil {
		process.Kill()
	}
	return err
}

// answers asks broker i who it is: another Kafka on its port has another cluster id.
func (k *Kafka) answers(i, brokersMin int) error {
	config := sarama.NewConfig()
	config.Net.DialTimeout, config.Net.ReadTimeout = time.Second, 5*time.Second
	b := sarama.NewBroker(loopback(k.brokers[i].ports.client))
	if err := b.Open(config); err != nil {
		return err
	}
	defer b.Close()
	metadata, err := b.GetMetadata(sarama.NewMetadataRequest(sarama.V3_6_0_0, nil))
	if err != nil {
		return err
	}
	if metadata.ClusterID == nil || *metadata.ClusterID != k.ClusterID {
		return fmt.Errorf("cluster: another Kafka answers on %s", b.Addr())
	}
	self := slices.ContainsFunc(metadata.Brokers, func(b *sarama.Broker) bool { return b.ID() == int32(i+1) })
	if !self || len(metadata.Brokers) < brokersMin {
		return fmt.Errorf("cluster: broker %d knows %d brokers, itself: %t", i, len(metadata.Brokers), self)
	}
	return nil
}

// Restart stops broker i, or kills it by SIGKILL, and starts it again.
func (k *Kafka) Restart(ctx context.Context, i int, kill bool) error {
	_, process, err := k.process(i)
	if err != nil {
		return err
	}
	if kill {
		process.Kill()
	} else {
		process.stop(kafkaStopMax, syscall.SIGTERM)
	}
	return k.Start(ctx, i)
}

// Kill ends broker i by SIGKILL.
func (k *Kafka) Kill(i int) error {
	_, process, err := k.process(i)
	if err == nil {
		process.Kill()
	}
	return err
}

// Pause freezes broker i: its connections stay open and silent.
func (k *Kafka) Pause(i int) error { return k.signal(i, syscall.SIGSTOP) }

// Resume ends a Pause.
func (k *Kafka) Resume(i int) error { return k.signal(i, syscall.SIGCONT) }

func (k *Kafka) signal(i int, sig syscall.Signal) error {
	_, process, err := k.process(i)
	if err != nil {
		return err
	}
	return process.Signal(sig)
}

// Addrs are the addresses to give to a client as bootstrap.
func (k *Kafka) Addrs() []string {
	if k.simulator != nil {
		return k.simulator.ListenAddrs()
	}
	addrs := append([]string{}, k.attached...)
	for _, b := range k.brokers {
		addrs = append(addrs, loopback(b.ports.client))
	}
	return addrs
}

// PID is broker i's process id; 0 when it has none here.
func (k *Kafka) PID(i int) int {
	if _, process, err := k.process(i); err == nil {
		return process.PID()
	}
	return 0
}

// killAll ends every broker at once. It is safe for the data, and brokers that lost their majority would
// take half a minute to stop by themselves.
func (k *Kafka) killAll() {
	for _, b := range k.brokers {
		if process := b.current(); process != nil {
			process.Kill()
		}
	}
}

// Stop ends all brokers and removes their folder, unless the caller had named it. It may be called twice, and leaves
// another process's cluster alone.
func (k *Kafka) Stop() {
	if k.simulator != nil {
		k.simulator.Close()
	}
	k.killAll()
	k.removeDir()
}
