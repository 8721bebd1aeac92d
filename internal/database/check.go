package database

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/batonrelay/baton/internal/schema"
)

// serverSQL asks what needs no right.
const serverSQL = `
select pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, current_user,
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where n.nspname = 'baton' and c.relname = 'meta')`

// rightsSQL lists what a relay needs and this role lacks. The catalogs can be read by all.
const rightsSQL = `
with n as (select oid from pg_namespace where nspname = 'baton'),
c as (select c.oid, c.relname from pg_class c join n on c.relnamespace = n.oid),
p as (select p.oid, p.proname from pg_proc p join n on p.pronamespace = n.oid)
select coalesce(array_agg(lacks order by lacks), '{}') from (
  select 'usage of the schema' as lacks from n where not has_schema_privilege(n.oid, 'usage')
  union all
  select 'select on ' || relname from c
   where relname in ('event', 'record', 'gap', 'meta', 'instance', 'topic', 'position')
     and not has_table_privilege(oid, 'select')
  union all
  select 'update on record' from c where relname = 'record' and not has_any_column_privilege(oid, 'update')
  union all
  select 'insert on instance' from c where relname = 'instance' and not has_table_privilege(oid, 'insert')
  union all
  select 'execute on ' || proname from p
   where proname in ('ack', 'retain') and not has_function_privilege(oid, 'execute')) l`

// behindSQL compares the sequence with the events. The sequence is read after the statement's snapshot
// was taken, so no event in sight can be younger; BRIN finds one past it.
const behindSQL = `
select exists (select from baton.event where position > (select last_value from baton.position))`

// onlyBRINSQL goes before it: nothing is found in a healthy outbox, after a scan of the whole table, or of
// the whole primary key. Only BRIN says so from a few pages, and only a bitmap can use it.
const onlyBRINSQL = `
select set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true),
       set_config('enable_indexonlyscan', 'off', true)`

// ErrUnfit: a relay must not, or cannot, run on what the database holds.
var ErrUnfit = errors.New("database: not fit for a relay")

// Check looks at the server as a relay will use it, and returns all that is wrong with it as one error
// that is ErrUnfit. Version and identity of the outbox are checked apart.
func Check(ctx context.Context, pool *pgxpool.Pool, schemaName string) error {
	var (
		standby, readOnly, migrated bool
		role                        string
	)
	err := pool.QueryRow(ctx, schema.In(serverSQL, schemaName)).Scan(&standby, &readOnly, &role, &migrated)
	if err != nil {
		return Explain(err)
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch {
	case standby:
		problem("the server is a standby, which cannot be written: connect to the primary " +
			"(target_session_attrs=read-write in DATABASE_URL finds it)")
	case readOnly:
		problem("transactions are read-only here: see default_transaction_read_only of the server, "+
			"the database and the role %s", role)
	}
	if !migrated {
		problem("there is no outbox in schema %s of this database: run baton migrate up", schemaName)
		return unfit(problems)
	}
	var lacks []string
	if err := pool.QueryRow(ctx, schema.In(rightsSQL, schemaName)).Scan(&lacks); err != nil {
		return Explain(err)
	}
	if len(lacks) > 0 {
		problem("the role %s lacks %s: run baton migrate grants --relay %[1]s --apply, as the owner of the schema",
			role, strings.Join(lacks, ", "))
		return unfit(problems) // the rest cannot be read
	}
	behind, err := sequenceBehind(ctx, pool, schemaName)
	if err != nil {
		return Explain(err)
	}
	if behind {
		problem("the sequence of positions is behind the events, as after a restore of the data alone, "+
			"and positions would come twice: run select setval('%[1]s.position', "+
			"(select max(position) from %[1]s.event))", schemaName)
	}
	return unfit(problems)
}

func unfit(problems []error) error {
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	return nil
}

func sequenceBehind(ctx context.Context, pool *pgxpool.Pool, schemaName string) (behind bool, err error) {
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, onlyBRINSQL); err != nil {
			return err
		}
		return tx.QueryRow(ctx, schema.In(behindSQL, schemaName)).Scan(&behind)
	})
	return behind, err
}
