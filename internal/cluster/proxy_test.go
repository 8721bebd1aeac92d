package cluster

import (
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echoServer answers every byte with itself.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", loopback(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// ping sends a byte and reads one.
func ping(conn net.Conn, patience time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestProxyCutsAndHeals(t *testing.T) {
	p, err := StartProxy(t.Context(), echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	conn := dial(t, p.Addr())
	if err := ping(conn, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	p.Cut()
	if err := ping(conn, 5*time.Second); err == nil || os.IsTimeout(err) {
		t.Errorf("ping over a cut connection: %v, want it closed", err)
	}
	checkRefused(t, p.Addr())
	if err := p.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ping(dial(t, p.Addr()), 5*time.Second); err != nil {
		t.Errorf("ping after Heal: %v", err)
	}
}

func TestHalfOpenProxyLosesAnswers(t *testing.T) {
	p, err := StartProxy(t.Context(), echoServer(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	conn := dial(t, p.Addr())
	if err := p.HalfOpen(); err != nil {
		t.Fatal(err)
	}
	if err := ping(conn, 300*time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("ping over a half-open connection: %v, want silence", err)
	}
	if err := p.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ping(dial(t, p.Addr()), 5*time.Second); err != nil {
		t.Errorf("ping after Heal: %v", err)
	}
}

func TestFrozenServerAcceptsAndIsSilent(t *testing.T) {
	f, err := StartFrozen()
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, f.Addr())
	if err := ping(conn, 200*time.Millisecond); !os.IsTimeout(err) {
		t.Errorf("ping: %v, want silence", err)
	}
	f.Stop()
	f.Stop()
	if err := ping(conn, 5*time.Second); err == nil || os.IsTimeout(err) {
		t.Errorf("ping after Stop: %v, want it closed", err)
	}
}

func TestKafkaClientsStayBehindTheProxy(t *testing.T) {
	k := startRealKafka(t, KafkaOptions{Proxied: true})
	createTopic(t, k.Addrs(), "proxied", 1)
	p, err := k.Proxy(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	produce(t, []string{p.Addr()}, "proxied", "through")
	if got, want := firstValue(t, k.Addrs(), "proxied"), "through"; got != want {
		t.Errorf("first record, read directly = %q, want %q", got, want)
	}
	config := saramaConfig()
	config.Metadata.Retry.Max, config.Producer.Retry.Max = 0, 0
	client := newClient(t, []string{p.Addr()}, config)
	leader, err := client.Leader("proxied", 0)
	if err != nil {
		t.Fatal(err)
	}
	if leader.Addr() != p.Addr() {
		t.Errorf("the partition's leader is at %s, want the proxy, %s", leader.Addr(), p.Addr())
	}
}
