package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
)

// bodyBytesMax bounds a request's body: the largest valid order has about 6 kB.
const bodyBytesMax = 64 << 10

// decode reads the body, one JSON object with known fields only, into v; or says what is wrong with it.
func decode(w http.ResponseWriter, r *http.Request, v any) *problem {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return &problem{Type: typeMediaType, Status: http.StatusUnsupportedMediaType,
			Detail: "the body must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem{Type: typeTooLarge, Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("the body must have at most %d bytes", bodyBytesMax)}
	}
	if err != nil {
		return malformed("the body ended early")
	}
	if !utf8.Valid(body) { // the decoder would put other characters in place of the wrong bytes
		return malformed("the body is not UTF-8")
	}
	return parse(body, v)
}

func parse(body []byte, v any) *problem {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return explainJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("there is more after the JSON object")
	}
	return nil
}

func explainJSON(err error) *problem {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := e.Field
		if field == "" {
			field = "body"
		}
		return invalid([]model.FieldError{{Field: field, Detail: fmt.Sprintf("must be %s, is %s", kind(e), e.Value)}})
	}
	// The library has no type for this one.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return invalid([]model.FieldError{{Field: strings.Trim(name, `"`), Detail: "is not a field of this document"}})
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed(fmt.Sprintf("the body is not JSON at byte %d: %s", e.Offset, e.Error()))
	}
	return malformed("the body is not one whole JSON object")
}

// kind is the JSON word for what a field takes.
func kind(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "string":
		return "a string"
	case "slice":
		return "an array"
	case "struct":
		return "an object"
	default:
		return "a whole number in range"
	}
}

// query reads numbers from a query string and keeps what is wrong with them.
type query struct {
	values url.Values
	bad    []model.FieldError
}

func (q *query) number(name string, missing, low, high int64) int64 {
	if !q.values.Has(name) {
		return missing
	}
	n, err := strconv.ParseInt(q.values.Get(name), 10, 64)
	if err != nil || n < low || n > high {
		q.bad = append(q.bad, model.FieldError{
			Field: name, Detail: fmt.Sprintf("must be a whole number from %d to %d", low, high)})
	}
	return n
}
