package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is text that no verb, log or encoder prints. string(s) is what it holds.
type Secret string

const mask = "***"

// String masks it.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format masks it under every verb: without it %d would print what it holds.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// GoString masks it.
func (s Secret) GoString() string { return s.String() }

// LogValue masks it.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON masks it.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }
