// Package schema puts the name of an outbox's schema into SQL that is written for the schema baton.
package schema

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Default is where the outbox lives unless a deployment says otherwise.
const Default = "baton"

var name = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Check refuses names that would need quoting beyond that of reserved words.
func Check(schema string) error {
	if !name.MatchString(schema) || strings.HasPrefix(schema, "pg_") {
		return fmt.Errorf("schema %q: must be 1 to 63 small letters, digits or '_', not begin with a digit or pg_, "+
			"for example %q", schema, Default)
	}
	return nil
}

var qualifier = regexp.MustCompile(`\bbaton\.`)

// In puts a schema's quoted name where sql says baton. or schema baton, and its bare name where sql says
// 'baton'. The name must have passed Check.
func In(sql, schema string) string {
	quoted := pgx.Identifier{schema}.Sanitize()
	sql = qualifier.ReplaceAllLiteralString(sql, quoted+".")
	sql = strings.ReplaceAll(sql, "schema baton ", "schema "+quoted+" ")
	return strings.ReplaceAll(sql, "'baton'", "'"+schema+"'")
}
