// Package cluster runs real PostgreSQL, Kafka and PgBouncer servers as child processes, and TCP proxies that
// break on request, for tests, the demo and benchmarks.
//
// It promises that a server that it returns is its own and answers, that it listens on 127.0.0.1 alone, that
// no server outlives this process on Linux, not even when it is killed by SIGKILL, and that programs which share
// one cache folder do not break it for each other. Callers decide when a server stops; a context bounds only the
// call that it is given to, never a server's life.
//
// It does not promise security (PostgreSQL trusts every local user) or that data outlives a server, unless its
// folder was named by the caller. Where a system has no signal for a parent's death (all but Linux), Stop must run.
package cluster

// Log receives one line for every download, installation and start. A nil Log is silent.
type Log func(format string, args ...any)

func (l Log) printf(format string, args ...any) {
	if l != nil {
		l(format, args...)
	}
}
