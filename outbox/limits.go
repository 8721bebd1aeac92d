package outbox

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// problem names the first field that breaks a limit, and how; "" if none does.
func (e *Event) problem() (field, reason string) {
	if field, reason := e.Record.problem(); field != "" {
		return field, reason
	}
	if reason := textProblem(e.Type, TypeBytesMax); reason != "" {
		return "type", reason
	}
	if len(e.Payload) > PayloadBytesMax {
		return "payload", fmt.Sprintf("is %d bytes, at most %d are allowed", len(e.Payload), PayloadBytesMax)
	}
	if reason := headersProblem(e.Headers); reason != "" {
		return "headers", reason
	}
	return "", ""
}

// problem is the event's, as far as it is its record's.
func (r Record) problem() (field, reason string) {
	if !isRecordType(r.Type) {
		return "record type", fmt.Sprintf(`must have 1 to %d letters, digits, ".", "_" or "-"`, RecordTypeBytesMax)
	}
	if reason := textProblem(r.Key, RecordKeyBytesMax); reason != "" {
		return "record key", reason
	}
	return "", ""
}

func isRecordType(s string) bool {
	if len(s) < 1 || len(s) > RecordTypeBytesMax {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// textProblem: PostgreSQL's text holds no NUL byte, and only valid UTF-8.
func textProblem(s string, bytesMax int) string {
	switch {
	case len(s) < 1 || len(s) > bytesMax:
		return fmt.Sprintf("is %d bytes, 1 to %d are allowed", len(s), bytesMax)
	case strings.IndexByte(s, 0) >= 0:
		return "has a NUL byte, which PostgreSQL's text cannot hold"
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	}
	return ""
}

func headersProblem(headers map[string]string) string {
	if len(headers) > HeadersMax {
		return fmt.Sprintf("are %d, at most %d are allowed", len(headers), HeadersMax)
	}
	for k, v := range headers {
		lower := strings.ToLower(k)
		if k == "" || strings.HasPrefix(lower, "ce_") || strings.HasPrefix(lower, "baton_") {
			return fmt.Sprintf("have %q: a name must not be empty or begin with ce_ or baton_", k)
		}
		if strings.IndexByte(k+v, 0) >= 0 || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return fmt.Sprintf("have %q: name and value must be valid UTF-8 without NUL bytes", k)
		}
	}
	if size := headersBytes(headers); size > HeadersBytesMax {
		return fmt.Sprintf("are %d bytes as JSON, at most %d are allowed", size, HeadersBytesMax)
	}
	return ""
}

// headersBytes measures as the database does: the text of a jsonb, which has a space after each ':' and ','.
func headersBytes(headers map[string]string) int {
	size := len("{}")
	for k, v := range headers {
		size += quotedBytes(k) + len(": ") + quotedBytes(v) + len(", ")
	}
	return size - min(len(headers), 1)*len(", ")
}

func quotedBytes(s string) int {
	size := len(s) + len(`""`)
	for _, c := range []byte(s) {
		switch {
		case strings.IndexByte("\"\\\b\f\n\r\t", c) >= 0:
			size++
		case c < ' ':
			size += len("u0000")
		}
	}
	return size
}
