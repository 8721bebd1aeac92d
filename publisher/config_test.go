package publisher

import (
	"strings"
	"testing"

	"github.com/IBM/sarama"
)

func TestValidateNamesEveryBadFieldAtOnce(t *testing.T) {
	c := Config{Brokers: []string{"localhost"}, Compression: 99}
	err := c.Validate()
	if err == nil {
		t.Fatal("Validate accepted nonsense")
	}
	for _, field := range []string{
		`Brokers has "localhost"`, "ClientID", "Source", "SendTimeout", "Lease", "MaxMessageBytes", "Compression",
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("error lacks %q:\n%v", field, err)
		}
	}
	if err := DefaultConfig().Validate(); err == nil || !strings.Contains(err.Error(), "Brokers is empty") {
		t.Errorf("Validate of the defaults = %v, want the missing brokers alone", err)
	}
}

func TestSaramaAcceptsBothProducers(t *testing.T) {
	c := config([]string{"localhost:9092"})
	for _, lone := range []bool{false, true} {
		if err := c.producer(newConns(t.Context(), c), lone).Validate(); err != nil {
			t.Errorf("sarama config, lone %t: %v", lone, err)
		}
	}
}

func TestOneRequestInFlightAndAcksFromAll(t *testing.T) {
	c := config([]string{"localhost:9092"})
	s := c.producer(newConns(t.Context(), c), false)
	if s.Net.MaxOpenRequests != 1 || !s.Producer.Idempotent || s.Producer.RequiredAcks != sarama.WaitForAll ||
		s.Metadata.AllowAutoTopicCreation {
		t.Errorf("requests in flight %d, idempotent %t, acks %d, topics made by a typo %t",
			s.Net.MaxOpenRequests, s.Producer.Idempotent, s.Producer.RequiredAcks, s.Metadata.AllowAutoTopicCreation)
	}
}
