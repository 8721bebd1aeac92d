package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/batonrelay/baton/cmd/shop-order-api/internal/model"
	"github.com/batonrelay/baton/cmd/shop-order-api/internal/store"
)

// The types of problem that this service knows. They are names, not addresses (RFC 9457, section 3.1.1), and
// never change: clients compare them.
const (
	typeInvalid     = "tag:shop.example,2026:invalid-fields"
	typeMalformed   = "tag:shop.example,2026:malformed-body"
	typeMediaType   = "tag:shop.example,2026:media-type"
	typeTooLarge    = "tag:shop.example,2026:body-too-large"
	typeNotFound    = "tag:shop.example,2026:order-not-found"
	typeConflict    = "tag:shop.example,2026:version-conflict"
	typeUnavailable = "tag:shop.example,2026:unavailable"
	typePlain       = "about:blank" // nothing to say beyond the status
)

// title is one sentence for each type, the same at every occurrence.
func title(p *problem) string {
	switch p.Type {
	case typeInvalid:
		return "Some fields are not valid"
	case typeMalformed:
		return "The body cannot be read"
	case typeMediaType:
		return "The body has the wrong media type"
	case typeTooLarge:
		return "The body is too large"
	case typeNotFound:
		return "There is no such order"
	case typeConflict:
		return "The order has changed meanwhile"
	case typeUnavailable:
		return "The service cannot answer just now"
	default:
		return http.StatusText(p.Status)
	}
}

// retryAfterSeconds is what clients are told to wait: most restarts of a database take less than it.
const retryAfterSeconds = 2

// problem is an RFC 9457 problem.
type problem struct {
	Type   string             `json:"type"`
	Title  string             `json:"title"`
	Status int                `json:"status"`
	Detail string             `json:"detail,omitempty"`
	Errors []model.FieldError `json:"errors,omitempty"`
}

func (p *problem) write(w http.ResponseWriter) {
	p.Title = title(p)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // a client that is gone needs no answer
}

func invalid(bad []model.FieldError) *problem {
	detail := "1 field is not valid"
	if len(bad) > 1 {
		detail = fmt.Sprintf("%d fields are not valid", len(bad))
	}
	return &problem{Type: typeInvalid, Status: http.StatusUnprocessableEntity, Detail: detail, Errors: bad}
}

func malformed(detail string) *problem {
	return &problem{Type: typeMalformed, Status: http.StatusBadRequest, Detail: detail}
}

func notFound(id string) *problem {
	return &problem{Type: typeNotFound, Status: http.StatusNotFound, Detail: fmt.Sprintf("no order has the id %q", id)}
}

func unavailable(detail string) *problem {
	return &problem{Type: typeUnavailable, Status: http.StatusServiceUnavailable, Detail: detail}
}

// refuse answers a request that the store did not serve. Causes go to the log, never to the client.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		return // the client is gone: nobody reads an answer, and nothing is wrong here
	}
	if conflict, ok := errors.AsType[*store.ConflictError](err); ok {
		(&problem{Type: typeConflict, Status: http.StatusConflict,
			Detail: fmt.Sprintf("order %d has version %d, not %d: read it again", conflict.ID, conflict.Have, conflict.Want),
		}).write(w)
		return
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		notFound(r.PathValue("id")).write(w)
	case store.Unavailable(err):
		a.Log.WarnContext(r.Context(), "database unavailable", "method", r.Method, "path", r.URL.Path, "err", err)
		unavailable(unansweredDetail(r.Method)).write(w)
	default:
		a.Log.ErrorContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "err", err)
		(&problem{Type: typePlain, Status: http.StatusInternalServerError}).write(w)
	}
}

func unansweredDetail(method string) string {
	if method == http.MethodGet {
		return "the database does not answer"
	}
	return "the database did not answer: the write may have happened, read before you try again"
}

// problems gives the mux's own refusals (unknown path, wrong method) the form of all others.
func problems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		seen := &refusal{header: http.Header{}, status: http.StatusOK}
		handler.ServeHTTP(seen, r)
		if allow := seen.header.Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		(&problem{Type: typePlain, Status: seen.status}).write(w)
	})
}

// refusal keeps the status and the header of an answer, and drops its text.
type refusal struct {
	header http.Header
	status int
}

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(status int)      { r.status = status }
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }
