package database

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Error says why the database does not serve us, and what to do about it.
type Error struct {
	Problem string
	Cure    string
	Away    bool  // it may come back by itself, so that trying again makes sense
	Connect bool  // there is no connection
	Err     error // the cause
}

func (e *Error) Error() string {
	text := "database: " + e.Problem
	if e.Err != nil {
		text += " (" + cause(e.Err) + ")"
	}
	if e.Cure != "" {
		text += ": " + e.Cure
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// Away reports whether trying again makes sense.
func Away(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Away
}

const checkURL = "check DATABASE_URL, or the file in DATABASE_URL_FILE"

// Explain tells what an error of pgx means for an operator; other errors it returns as they are. It quotes
// no secret: user, host and database only.
func Explain(err error) error {
	var explained *Error
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &explained) {
		return err
	}
	e := &Error{Err: err}
	who, server, name := "us", "the server", "of that name"
	var connect *pgconn.ConnectError
	if e.Connect = errors.As(err, &connect); e.Connect {
		c := connect.Config
		who, server, name = "user "+c.User, fmt.Sprintf("%s:%d", c.Host, c.Port), c.Database
	}
	var (
		pg   *pgconn.PgError
		dns  *net.DNSError
		cert *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &pg):
		e.explainCode(pg, who, name)
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Problem, e.Cure = "nobody knows the host "+dns.Name, checkURL
	case errors.As(err, &cert):
		e.Problem = "the certificate of " + server + " is not one that we trust"
		e.Cure = "check sslrootcert and sslmode in DATABASE_URL"
	case e.Connect, broken(err):
		e.Problem, e.Cure, e.Away = server+" does not answer", "is it running, and is the address right?", true
	default:
		return err
	}
	return e
}

// broken reports whether a connection that was there is gone, or too slow.
func broken(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err)
}

// explainCode judges what the server itself said.
func (e *Error) explainCode(pg *pgconn.PgError, who, name string) {
	switch {
	case pg.Code == "28P01":
		e.Problem, e.Cure = "the server refuses the password of "+who, checkURL
	case pg.Code == "28000":
		e.Problem, e.Cure = "the server does not let "+who+" in", checkURL+", and the server's pg_hba.conf"
	case pg.Code == "3D000":
		e.Problem, e.Cure = "there is no database "+name, "create it, or mend DATABASE_URL"
	case pg.Code == "08P01" && strings.Contains(pg.Message, "unsupported startup parameter"):
		e.Problem = "the pooler does not take a parameter of the connection"
		e.Cure = "remove it from DATABASE_URL, and leave BATON_POOLER at auto"
	case pg.Code == "53300":
		e.Problem, e.Away = "the server has no connection left for us", true
	case strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"):
		e.Problem, e.Away = "the server is stopping or starting", true
	case pg.Code == "42501":
		e.Problem, e.Cure = "the role lacks a right", "run baton migrate grants --relay ROLE --apply"
	case pg.Code == "25006":
		e.Problem, e.Cure = "the server is read-only", "connect to the primary"
	default:
		e.Problem = "the server refuses what was asked"
	}
}

// cause is the innermost thing that says something: pgx tries every address twice and reports all.
func cause(err error) string {
	var (
		pg  *pgconn.PgError
		dns *net.DNSError
		op  *net.OpError
	)
	switch {
	case errors.As(err, &pg):
		return fmt.Sprintf("%s, SQLSTATE %s", pg.Message, pg.Code)
	case errors.As(err, &dns):
		return dns.Error()
	case errors.As(err, &op):
		return op.Error()
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		err = errors.Unwrap(connect)
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
