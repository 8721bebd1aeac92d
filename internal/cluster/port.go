package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Free ports are taken from below the range that systems give to outgoing connections (32768 and up), so that
// nobody takes a server's port by chance while it restarts.
const (
	portMin = 20000
	portMax = 32000
)

// FreePort returns a TCP port of 127.0.0.1 on which nobody listens.
func FreePort() (int, error) {
	ports, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// freePorts holds each port until it has all n, so that they differ.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	var last error
	for range 100 * n {
		port := portMin + rand.IntN(portMax-portMin)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			last = err
			continue
		}
		defer l.Close()
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("cluster: find free port from %d to %d: %w", portMin, portMax, last)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
