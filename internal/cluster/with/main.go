// Command with runs a command beside a PostgreSQL, and a Kafka if asked, that exist as long as it runs:
//
//	go run ./internal/cluster/with [-kafka] [-brokers N] [-postgres VERSION] -- COMMAND ARGS…
//
// The command finds them in BATON_TEST_POSTGRES and BATON_TEST_KAFKA; a server that is named there already is used and
// not started. Its exit status is the command's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/batonrelay/baton/internal/cluster"
)

func main() {
	kafka := flag.Bool("kafka", false, "start a Kafka too; KAFKA=real|sim chooses which")
	brokers := flag.Int("brokers", 1, "how many brokers: 1 or 3")
	version := flag.String("postgres", "", "PostgreSQL's major version; empty: the installed one")
	flag.Parse()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	s := servers{postgres: cluster.PostgresOptions{Version: *version, Log: log}}
	if *kafka {
		s.kafka = &cluster.KafkaOptions{Brokers: *brokers, Log: log}
	}
	code, err := s.run(context.Background(), signals, flag.Args())
	if err != nil {
		log("with: %v", err)
	}
	os.Exit(code)
}

func log(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

type servers struct {
	postgres cluster.PostgresOptions
	kafka    *cluster.KafkaOptions // nil: none
}

// run returns the command's exit status; 1 with an error when it has none.
func (s servers) run(ctx context.Context, signals <-chan os.Signal, command []string) (int, error) {
	if len(command) == 0 {
		return 2, errors.New("no command after --")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	child := make(chan *cluster.Process, 1)
	go forward(ctx, cancel, signals, child)
	env, stop, err := s.start(ctx)
	defer stop()
	if err != nil {
		return 1, err
	}
	p, err := cluster.StartProcess(ctx, cluster.ProcessOptions{
		Path: command[0], Args: command[1:], Env: env, Output: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		return 1, err
	}
	child <- p
	<-p.Done()
	if code := p.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, p.Err()
}

// forward gives signals to the command, which is in a group of its own; before it runs, they end the start.
func forward(ctx context.Context, cancel func(), signals <-chan os.Signal, child <-chan *cluster.Process) {
	var p *cluster.Process
	for {
		select {
		case <-ctx.Done():
			return
		case p = <-child:
		case sig := <-signals:
			if p == nil {
				cancel()
				return
			}
			_ = p.SignalGroup(sig.(syscall.Signal)) // has ended: then run returns by itself
		}
	}
}

// start starts what is missing and returns the command's environment. stop is never nil.
func (s servers) start(ctx context.Context) (env []string, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	env = os.Environ()
	if os.Getenv("BATON_TEST_POSTGRES") == "" {
		p, err := cluster.StartPostgres(ctx, s.postgres)
		if err != nil {
			return nil, stop, err
		}
		stops = append(stops, p.Stop)
		env = append(env, "BATON_TEST_POSTGRES="+p.URL())
	}
	if s.kafka != nil && os.Getenv("BATON_TEST_KAFKA") == "" {
		k, err := cluster.StartKafkaMode(ctx, os.Getenv("KAFKA"), *s.kafka)
		if err != nil {
			return nil, stop, err
		}
		stops = append(stops, k.Stop)
		env = append(env, "BATON_TEST_KAFKA="+strings.Join(k.Addrs(), ","))
		if k.Simulated {
			env = append(env, "BATON_TEST_KAFKA_SIMULATED=1")
		}
	}
	return env, stop, nil
}
