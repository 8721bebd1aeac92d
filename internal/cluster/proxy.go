package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy passes TCP connections on, in this process, until it is told to break them.
type Proxy struct {
	addr string

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
	cut   bool
	toxic bool
}

const halfOpen = "half-open" // the toxic's name

// StartProxy puts a proxy on a free port in front of an address.
func StartProxy(ctx context.Context, upstream string) (*Proxy, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	return startProxyOn(ctx, loopback(port), upstream)
}

func startProxyOn(ctx context.Context, addr, upstream string) (*Proxy, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cluster: start proxy: %w", err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{addr: addr, proxy: toxiproxy.NewProxy(server, upstream, addr, upstream)}
	if err := p.proxy.Start(); err != nil {
		return nil, fmt.Errorf("cluster: start proxy before %s: %w", upstream, err)
	}
	return p, nil
}

// Proxy puts a proxy on broker i's outer port. The cluster must have been started with Proxied; clients that start
// from the proxy's address stay behind the proxies.
func (k *Kafka) Proxy(ctx context.Context, i int) (*Proxy, error) {
	if _, _, err := k.process(i); err != nil {
		return nil, err
	}
	if !k.options.Proxied {
		return nil, fmt.Errorf("cluster: start proxy: broker %d has no proxied listener", i)
	}
	return startProxyOn(ctx, k.ProxyOuter(i), k.ProxyInner(i))
}

// ProxyInner is where broker i's proxied listener is.
func (k *Kafka) ProxyInner(i int) string { return loopback(k.brokers[i].ports.inner) }

// ProxyOuter is where broker i sends the clients of its proxied listener.
func (k *Kafka) ProxyOuter(i int) string { return loopback(k.brokers[i].ports.outer) }

// Addr is the proxy's own address.
func (p *Proxy) Addr() string { return p.addr }

// Cut breaks all connections, and refuses new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.proxy.Stop()
		p.cut = true
	}
}

// HalfOpen lets requests through and loses the answers until Heal, which closes the connections that lost any.
func (p *Proxy) HalfOpen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.toxic {
		return nil
	}
	const toxic = `{"name":"` + halfOpen + `","type":"timeout","stream":"downstream",` +
		`"toxicity":1,"attributes":{"timeout":0}}`
	if _, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		return fmt.Errorf("cluster: half-open proxy: %w", err)
	}
	p.toxic = true
	return nil
}

// Heal ends Cut and HalfOpen.
func (p *Proxy) Heal(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.toxic {
		if err := p.proxy.Toxics.RemoveToxic(ctx, halfOpen); err != nil {
			return fmt.Errorf("cluster: heal proxy: %w", err)
		}
		p.toxic = false
	}
	if p.cut {
		if err := p.proxy.Start(); err != nil {
			return fmt.Errorf("cluster: heal proxy: %w", err)
		}
		p.cut = false
	}
	return nil
}

// Stop closes the proxy and its connections. It may be called twice.
func (p *Proxy) Stop() { p.Cut() }

// Frozen is a server that accepts every connection and never says a word.
type Frozen struct {
	listener net.Listener
	done     chan struct{}

	mu    sync.Mutex
	conns []net.Conn
}

// StartFrozen starts one on a free port.
func StartFrozen() (*Frozen, error) {
	l, err := net.Listen("tcp", loopback(0))
	if err != nil {
		return nil, fmt.Errorf("cluster: start frozen server: %w", err)
	}
	f := &Frozen{listener: l, done: make(chan struct{})}
	go f.accept()
	return f, nil
}

func (f *Frozen) accept() {
	defer close(f.done)
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, conn)
		f.mu.Unlock()
	}
}

// Addr is the server's host and port.
func (f *Frozen) Addr() string { return f.listener.Addr().String() }

// Stop closes the server and its connections. It may be called twice.
func (f *Frozen) Stop() {
	f.listener.Close()
	<-f.done
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		conn.Close()
	}
	f.conns = nil
}
